"""Read files from a hostile stranger under a limit of memory and of time.

Each file is small and asks for much: a header of 6 GiB, a gigabyte of zeros that
deflates to one megabyte, a tensor that is expanded, names and nesting without end. The
reader must refuse it in its own words, or read it, within 512 MiB and 10 seconds of the
processor's time, which other programs on the machine do not lengthen. A reader that
waits is stopped when the time of its process is over.
"""

import hashlib
import importlib.util
import io
import json
import pickle
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.campaigns.campaign import Case
from tests.support.memory import under_limit

ROOT = Path(__file__).parents[2]
GIB = 1 << 30

READ = (
    under_limit(512)
    + """
import json, time
from functools import partial
from optadamw.dialects.files import opening
params = opening.read_params
for path in sys.argv[1:]:
    begun = time.process_time()
    try:
        files.read(path)
        told = "read"
    except (ValueError, TypeError, OSError) as error:
        told = type(error).__name__
        assert path in str(error) or type(error) is not ValueError, str(error)
    for more in (partial(opening.open_state, key=None, in_state_dict=False), params):
        try:
            more(path)
        except (ValueError, TypeError, OSError) as error:
            assert path in str(error) or type(error) is not ValueError, str(error)
    print(json.dumps([path, told, time.process_time() - begun]), flush=True)
"""
)

Made = Iterator[tuple[str, bytes]]


def _npy(shape: Any, descr: str = "<f4", body: bytes = b"") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape})
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


def _zip(entries: dict[str, bytes], deflated: bool = False) -> bytes:
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def _deflated(name: str, head: bytes, megabytes: int) -> bytes:
    """Zeros that inflate to many megabytes."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as entry,
    ):
        entry.write(head)
        for _ in range(megabytes):
            entry.write(bytes(1 << 20))
    return file.getvalue()


def npz(full: bool) -> Made:
    """Hostile .npz files."""
    for count in (2**28, 2**29, 2**31, 2**33, 2**40, 2**62, 2**63, 2**70):
        yield f"header {count}", _zip({"w.npy": _npy((count,), body=bytes(64))})
    for shape in ((2**32, 2**32), (2**20,) * 4, (1,) * 65, (0, 2**62), (-1,), (-4, -4)):
        yield f"shape {shape[:3]}", _zip({"w.npy": _npy(shape, body=bytes(64))})
    for descr in ("|O", "<U1000000000", "|V2147483647", "<f16", "<q9", "x"):
        yield f"dtype {descr}", _zip({"w.npy": _npy((4,), descr, bytes(64))})
    yield "a pickle", _zip({"w.npy": _npy((1,), "|O", pickle.dumps([1]))})
    yield "no magic", _zip({"w.npy": bytes(1 << 16)})
    yield "version 9", _zip({"w.npy": b"\x93NUMPY\x09\x00" + bytes(64)})
    yield "long header", _zip({"w.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{"})
    yield "no array", _zip({"w.txt": b"hello"})
    yield "many entries", _zip({f"{i}.npy": b"" for i in range(30_000)})
    nested = "(" * 9000
    yield "nested header", _zip({"w.npy": _npy(0).replace(b"0", nested.encode())})
    for megabytes in (300, 1024) if full else (300,):
        count = megabytes << 18
        yield (
            f"deflated {megabytes}",
            _deflated("w.npy", _npy((count,)), megabytes),
        )
        yield (
            f"an outline of {megabytes}",
            _deflated("saved.json.npy", _npy((megabytes << 20,), "|u1"), megabytes),
        )
    yield from _outlines()
    yield (
        "an outline of nesting",
        _zip({"saved.json.npy": _npy((9000,), "|u1", b"[" * 9000)}),
    )


EMPTY = b'{"a": [' + b"{}," * (5 << 20) + b"{}]}"
"""15 MiB of text that takes 400 MB when it is read."""


def _outlines() -> Made:
    """An outline of empty dicts beside arrays that cost next to nothing."""
    small = {f"{i}.npy": _npy((0,)) for i in range(10_000)}
    outline = {"saved.json.npy": _npy((len(EMPTY),), "|u1", EMPTY)}
    yield "an outline and many arrays", _zip(small | outline, deflated=True)
    yield "an outline as it is", _zip(outline)
    text = b"optadamw %s\n%s" % (hashlib.sha256(EMPTY).hexdigest().encode(), EMPTY)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(len(text) // 60_000 + 1):
            info = zipfile.ZipInfo(f"{i}.npy")
            info.comment = text[i * 60_000 : (i + 1) * 60_000]
            archive.writestr(info, _npy((0,)))
    yield "an outline in comments", file.getvalue()


def safetensors(full: bool) -> Made:
    """Hostile .safetensors files."""
    del full

    def file(header: Any, body: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + body

    def entry(shape: Any, end: Any, dtype: Any = "F32", begin: Any = 0) -> Any:
        return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}

    for count in (2**28, 2**40, 2**62, 2**64, 2**70):
        yield f"array {count}", file(entry([count], 4 * count), bytes(64))
        yield f"offset {count}", file(entry([16], 64 + count, begin=count), bytes(64))
    for shape in (
        [2**32] * 2,
        [2**20] * 4,
        [-16],
        [1.5],
        ["16"],
        None,
        [[16]],
        [0] * 99,
    ):
        yield f"shape {shape}"[:30], file(entry(shape, 64), bytes(64))
    for length in (2**27, 2**40, 2**63, 2**64 - 1):
        yield f"header {length}", length.to_bytes(8, "little") + b"{}"
    yield "nesting", file(b"[" * 100_000)
    yield "digits", file(b'{"w": ' + b"9" * 100_000 + b"}")
    yield "surrogates", file(b'{"\\ud800": {"dtype": "F32"}}')
    yield "names", file({f"{i}": entry([0], 0)["w"] for i in range(30_000)})
    for metadata in ({"saved.json": "["}, {"saved.json": "[" * 9000}, {"a": 1}, 5):
        yield f"metadata {metadata}"[:30], file({"__metadata__": metadata})
    yield "not text", file(b"\xff\xfe" * 50)
    yield "empty dicts", file(EMPTY)
    digest = hashlib.sha256(EMPTY).hexdigest()
    metadata = {"saved.json": EMPTY.decode(), "saved.sha256": digest}
    yield "an outline of empty dicts", file({"__metadata__": metadata})


def pt(full: bool) -> Made:
    """Hostile .pt files."""
    torch: Any = __import__("torch")

    def saved(value: Any) -> bytes:
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    one = torch.ones(1)
    for count in (2**27, 2**31, 2**33, 2**36, 2**40, 2**50):
        yield f"expanded {count}", saved({"w": one.expand(count)})
        yield f"broadcast {count}", saved({"w": one.expand(2, count // 2)})
    yield "strided", saved({"w": torch.ones(8).as_strided((2**31,), (0,))})
    yield "meta", saved({"w": torch.empty(2**40, device="meta")})
    yield "sparse", saved({"w": torch.zeros(4).to_sparse()})
    yield "nested", saved({"w": torch.nested.nested_tensor([one, one])})
    yield "an object", saved({"w": Path("x")})
    loop: list[Any] = []
    loop.append(loop)
    yield "a loop", saved({"w": loop})
    twice: Any = one
    for _ in range(60):
        twice = [twice, twice]
    yield "2^60 tensors", saved({"w": twice})
    yield "many", saved({str(i): i for i in range(30_000)})
    for data in (b"", b"PK\x05\x06" + bytes(18), pickle.dumps(print), b"\x80\x02" * 99):
        yield f"bytes {data[:8]!r}", data
    whole = saved({"w": torch.ones(64)})
    for part in (2, 3, 5, 7):
        yield f"cut at {part}", whole[: len(whole) // part]
    for megabytes in (300, 1024) if full else (300,):
        yield f"deflated {megabytes}", _deflated("x/data/0", b"", megabytes)
        yield f"deflated pickle {megabytes}", _deflated("x/data.pkl", b"", megabytes)
    yield from _pickles()
    for op in (b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"("):
        pickled = b"\x80\x02" + op * (1 if op != b"(" else 50_000)
        yield f"opcode {op[:2]!r}", _zip({"x/data.pkl": pickled, "x/version": b"3"})


def _pickles() -> Made:
    """Pickles of objects without number, and of objects of any size."""
    size = (2**31 - 1).to_bytes(4, "little")
    doubled = b"c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R"
    for _ in range(32):
        doubled = b"c_codecs\nencode\n" + doubled + b"X\x03\0\0\0hex\x86R"
    for name, opcodes in {
        "lists": b"(" + b"]" * (14 << 20) + b"t.",
        "tuples": b"(" + b"]\x85" * (1 << 20) + b"t.",
        "marks": b"(" * (7 << 20) + b".",
        "nothing": b"(" + b"N" * (1 << 20) + b"t.",
        "a bytearray": b"cbuiltins\nbytearray\nJ" + size + b"\x85R.",
        "doubled bytes": doubled + b".",
    }.items():
        pickled = b"\x80\x02" + opcodes
        yield f"pickle: {name}", _zip({"x/data.pkl": pickled, "x/version": b"3"}, True)
        yield f"pickle before 1.6: {name}", pickled


def _variables(fill: Callable[[Any], Any]) -> bytes:
    """An .h5 file with a group of variables, which `fill` makes."""
    h5py: Any = __import__("h5py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        with h5py.File(path, "w") as whole:
            fill(whole.create_group("optimizer/vars"))
        return path.read_bytes()


def h5(full: bool) -> Made:
    """Hostile .h5 files."""
    h5py: Any = __import__("h5py")
    file = _variables

    def empty(shape: Any, dtype: str = "f4", **options: Any) -> bytes:
        return file(
            lambda g: g.create_dataset("0", shape=shape, dtype=dtype, **options)
        )

    for count in (2**27, 2**31, 2**33, 2**36, 2**40, 2**50):
        yield f"empty {count}", empty((count,), chunks=(1 << 16,))
        yield f"filled {count}", empty((count,), chunks=(1 << 16,), fillvalue=1.0)
    for shape in ((2**20, 2**20), (2**10,) * 4, (0, 2**40)):
        yield f"shape {shape}", empty(shape, chunks=True)
    for dtype in ("S1000", "u1"):
        yield f"dtype {dtype}", empty((2**30,), dtype, chunks=(1 << 16,))

    def zeros(megabytes: int) -> bytes:
        def fill(group: Any) -> None:
            data = group.create_dataset(
                "0",
                shape=(megabytes << 18,),
                dtype="f4",
                chunks=(1 << 18,),
                compression="gzip",
            )
            for i in range(megabytes):
                data[i << 18 : (i + 1) << 18] = 0

        return file(fill)

    for megabytes in (300, 1024) if full else (300,):
        yield f"deflated {megabytes}", zeros(megabytes)
    yield "many", file(lambda g: [g.create_group(str(i)) for i in range(2000)] and None)
    yield "a group", file(lambda g: g.create_group("0") and None)
    yield "text", file(lambda g: g.__setitem__("0", "hello"))
    yield "nothing", file(lambda g: g.__setitem__("0", h5py.Empty("f4")))
    yield "itself", file(lambda g: g.__setitem__("0", g))
    yield "elsewhere", file(lambda g: g.__setitem__("0", h5py.SoftLink("/nowhere")))
    outside = h5py.ExternalLink("/etc/passwd", "/")
    yield "outside", file(lambda g: g.__setitem__("0", outside))
    whole = empty((64,))
    for part in (2, 3, 5, 7):
        yield f"cut at {part}", whole[: len(whole) // part]
    yield "empty file", b""
    yield from _chunks_and_links(zlib.compress(bytes(GIB)))
    yield from _references()


def _chunks_and_links(inflating: bytes) -> Made:
    """Chunks and links of HDF5 that take more than their arrays."""

    def chunked(group: Any, length: int, chunk: int, **options: Any) -> Any:
        options |= {"chunks": (chunk,), "compression": "gzip", "dtype": "f4"}
        return group.create_dataset("0", (length,), maxshape=(None,), **options).id

    def linked(group: Any) -> None:
        group["0"] = np.float32(1)
        for i in range(1, 60_000):
            group.id.link(b"0", str(i).encode())

    def inflated(length: int, chunk: int) -> Callable[[Any], Any]:
        return lambda g: chunked(g, length, chunk).write_direct_chunk((0,), inflating)

    for count in (2**18, 2**22, 2**26):
        yield (
            f"{count} chunks",
            _variables(lambda g, n=count: chunked(g, n, 1) and None),
        )
    yield "a large chunk", _variables(inflated(1, GIB // 4))
    yield "a chunk that inflates", _variables(inflated(16, 16))
    yield "links", _variables(linked)


def _references() -> Made:
    """4,096 references to one text of 1 MiB, as numbers and as attributes."""
    h5py: Any = __import__("h5py")
    kind = h5py.string_dtype()

    def text(store: Any) -> None:
        store.create_dataset("text", (1,), dtype=kind)[0] = b"x" * (1 << 20)

    def references(store: Any) -> None:
        text(store)
        store.file.flush()
        at = store["text"].id.get_offset()
        with open(store.file.filename, "rb") as file:
            file.seek(at)
            reference = file.read(16)
        options = {"dtype": kind, "chunks": (4096,), "compression": "gzip"}
        data = store.create_dataset("0", (4096,), **options)
        data.id.write_direct_chunk((0,), zlib.compress(reference * 4096))

    def attribute(store: Any) -> None:
        made = np.array([b"x" * (1 << 20)] + [b"a"] * 3900, object)
        store.file.create_group("optimizer_weights")
        store.file["optimizer_weights"].attrs.create("weight_names", made, dtype=kind)

    named = _variables(attribute)
    heap = named.rindex(b"GCOL", 0, named.index(b"x" * (1 << 20)))
    at = named.index((1 << 20).to_bytes(4, "little") + heap.to_bytes(8, "little"))
    named = named[:at] + named[at : at + 16] * 3901 + named[at + 16 * 3901 :]
    yield "references", _variables(references)
    yield "references as names", named


def keras(full: bool) -> Made:
    """Hostile .keras files."""
    for name, data in h5(full=False):
        yield f"inside: {name}", _zip({"model.weights.h5": data}, deflated=True)
    for megabytes in (300, 1024) if full else (300,):
        yield f"deflated {megabytes}", _deflated("model.weights.h5", b"", megabytes)
    yield "without weights", _zip({"config.json": b"{}"})
    yield from _configurations()


def _configurations() -> Made:
    """Configurations of models beside weights that are whole."""
    weights = _variables(lambda g: g.__setitem__("0", np.ones(64, np.float32)))

    def model(optimizer: str) -> bytes:
        return b'{"compile_config": {"optimizer": %s}}' % optimizer.encode()

    adam = '{"class_name": "AdamW", "config": {"beta_1": %s}}'
    inner = '{"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": '
    for name, text in {
        "null": b"null",
        "a list": b"[]",
        "deep": b"[" * 200_000 + b"]" * 200_000,
        "digits": model(adam % ("9" * 4_000)),
        "more digits": model(adam % ("9" * 1_000_000)),
        "infinite": model(adam % "1e999"),
        "in each other": model(inner * 5_000 + "null" + "}}" * 5_000),
        "layers": b'{"config": {"layers": [null, 3, {"config": []}]}}',
        "no text": bytes(range(256)),
    }.items():
        yield (
            f"configuration: {name}",
            _zip({"config.json": text, "model.weights.h5": weights}),
        )
    for size in (8, 100):
        text = b'{"a":[' + b"{}," * (size << 18) + b"{}]}"
        entries = {"config.json": text, "model.weights.h5": weights}
        yield f"configuration of {size} times 256 Ki", _zip(entries, deflated=True)
    yield "deflated configuration", _deflated("config.json", b"[", 300)


READERS: dict[str, tuple[Callable[[bool], Made], str]] = {
    "npz": (npz, ""),
    "safetensors": (safetensors, ""),
    "pt": (pt, "torch"),
    "h5": (h5, "h5py"),
    "keras": (keras, "h5py"),
}


def cases(full: bool) -> Iterator[Case]:
    """Read hostile files of each kind whose package is installed."""
    for name, (make, package) in READERS.items():
        if not package or importlib.util.find_spec(package):
            yield Case(name, partial(_survives, name, make, full))


def _survives(suffix: str, make: Callable[[bool], Made], full: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for number, (name, data) in enumerate(make(full)):
            path = Path(folder) / f"{number}.{suffix}"
            path.write_bytes(data)
            names[str(path)] = name
            assert len(data) < 16 << 20, f"'{name}' is no small file"
        ran = subprocess.run(
            [sys.executable, "-c", READ, *names],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60 + 10 * len(names),
            check=False,
        )
        told = [json.loads(line) for line in ran.stdout.splitlines() if line[0] == "["]
        last = names.get(list(names)[min(len(told), len(names) - 1)])
        assert ran.returncode == 0, f"{last}: {ran.stderr[-2000:]}"
    slow = {names[path]: taken for path, _, taken in told if taken > 10.0}
    assert not slow, f"more than 10 seconds of the processor: {slow}"
    refused = sum(kind != "read" for _, kind, _ in told)
    longest = float(np.max([taken for *_, taken in told]))
    return f"{len(told)} files, {refused} refused, the longest took {longest:.1f} s"
