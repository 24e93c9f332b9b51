"""Small files of HDF5 that would take much memory, and large ones that are right."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optadamw.checkpoint import bounds
from optadamw.checkpoint.bounds import Bounds, TooLarge
from optadamw.dialects.files import files, hdf5
from optadamw.dialects.files.hdf5_chunks import stored_chunks
from optadamw.dialects.files.hdf5_texts import Texts
from optadamw.dialects.files.refusing import DamagedFile

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

TEXT = h5py.string_dtype()


@pytest.fixture(autouse=True)
def small_limit(monkeypatch):
    """Files as small as those of these tests are limited too."""
    monkeypatch.setattr(bounds, "SMALL", 1 << 20)


def _with_references(path: Path, dtype: Any, head: bytes = b"") -> None:
    """4,096 references to one text of 1 KiB, which h5py would copy for each."""
    with h5py.File(path, "w") as file:
        file.create_dataset("text", (1,), dtype=TEXT)[0] = b"x" * 1024
    with h5py.File(path, "r") as file:
        place = file["text"].id.get_offset()
    reference = path.read_bytes()[place : place + 16]
    with h5py.File(path, "a") as file:
        store = file.create_group("optimizer/vars")
        options = {"chunks": (4096,), "compression": "gzip"}
        data = store.create_dataset("0", (4096,), dtype=dtype, **options)
        data.id.write_direct_chunk((0,), zlib.compress((head + reference) * 4096))


def references(path: Path) -> None:
    _with_references(path, TEXT)


def references_in_records(path: Path) -> None:
    _with_references(path, np.dtype([("a", "f4"), ("b", TEXT)]), bytes(4))


def _store(path: Path, fill: Any) -> None:
    with h5py.File(path, "w") as file:
        fill(file.create_group("optimizer/vars"))


def text(path: Path) -> None:
    _store(path, lambda store: store.create_dataset("0", data=b"text"))


def large_chunk(path: Path) -> None:
    options = {"maxshape": (None,), "chunks": (1 << 20,), "compression": "gzip"}
    _store(path, lambda store: store.create_dataset("0", (1,), dtype="f4", **options))


def many_chunks(path: Path) -> None:
    _store(path, lambda s: s.create_dataset("0", (1 << 10,), dtype="f4", chunks=(1,)))


def many_links(path: Path) -> None:
    def fill(store: Any) -> None:
        store["0"] = np.float32(1)
        for i in range(1, 1000):
            store[str(i)] = store["0"]

    _store(path, fill)


def inflating_chunk(path: Path, skips: int = 0) -> None:
    """A chunk of 64 bytes that inflates to 4 MiB."""

    def fill(store: Any) -> None:
        options = {"chunks": (16,), "compression": "gzip", "shuffle": True}
        data = store.create_dataset("0", (16,), dtype="f4", **options)
        data.id.write_direct_chunk((0,), zlib.compress(bytes(4 << 20)), skips)

    _store(path, fill)


def inflating_chunk_unshuffled(path: Path) -> None:
    inflating_chunk(path, skips=1)


def filtered_otherwise(path: Path) -> None:
    data = np.zeros(100, np.float32)
    _store(path, lambda store: store.create_dataset("0", data=data, compression="lzf"))


def _old(path: Path, names: list[bytes], **options: Any) -> None:
    """A whole model in the old format: h5py makes texts of any length of `names`."""
    with h5py.File(path, "w", **options) as file:
        file.attrs["model_config"] = b"{" + b" " * (1 << 16) + b"}"
        file.attrs["training_config"] = b'{"optimizer_config": {}}'
        old = file.create_group("optimizer_weights")
        old.attrs["weight_names"] = names
        for name in dict.fromkeys(names):
            old[name] = np.ones(40)


def references_for_names(path: Path) -> None:
    """120 references to one text of 64 KiB."""
    _old(path, [b"x" * (1 << 16), *[b"a"] * 119])
    data = path.read_bytes()
    heap = data.rindex(b"GCOL", 0, data.index(b"x" * (1 << 16)))
    reference = (1 << 16).to_bytes(4, "little") + heap.to_bytes(8, "little")
    at = data.index(reference)
    end = at + 16 * 120
    path.write_bytes(data[:at] + data[at : at + 16] * 120 + data[end:])


def numbers_for_names(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("optimizer_weights").attrs["weight_names"] = [1, 2]


def length_of_text(path: Path) -> None:
    """A text of 77 bytes that announces 3 GiB, which HDF5 would take."""
    with h5py.File(path, "w") as file:
        file.create_group("optimizer/vars")["0"] = 1.0
        file.attrs["training_config"] = "x" * 77
    kept = path.read_bytes()
    heap = kept.index(b"GCOL").to_bytes(8, "little")
    old = b"\x4d\0\0\0" + heap
    assert kept.count(old) == 1
    path.write_bytes(kept.replace(old, b"\0\0\0\xc0" + heap))


def texts_for_one(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("optimizer/vars")["0"] = 1.0
        made = np.array([b"{}"] * 9, object)
        file.attrs.create("training_config", made, dtype=TEXT)


def nothing_for_one(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("optimizer/vars")["0"] = 1.0
        file.attrs["training_config"] = h5py.Empty("f4")


HOSTILE = {
    references: "are no numbers",
    references_in_records: "are no numbers",
    text: "are no numbers",
    large_chunk: "announces arrays of 4,",
    many_chunks: "announces arrays of 4,",
    many_links: "announces arrays of 6,",
    inflating_chunk: "inflates to more than its 64 bytes",
    inflating_chunk_unshuffled: "inflates to more than its 64 bytes",
    filtered_otherwise: "filters of HDF5 whose result can have any size.*--no-limit",
    references_for_names: "announces arrays of 8,",
    numbers_for_names: "something else than a list of names",
    length_of_text: "is damaged where its attribute 'training_config' has text",
    texts_for_one: "something else than one text",
    nothing_for_one: "something else than one text",
}


@pytest.mark.parametrize(
    ("make", "words"), HOSTILE.items(), ids=[make.__name__ for make in HOSTILE]
)
def test_they_are_refused(make, words, tmp_path):
    path = tmp_path / "x.h5"
    make(path)
    with pytest.raises((DamagedFile, TooLarge), match=words):
        files.read(path)
    inside = tmp_path / "x.keras"
    with zipfile.ZipFile(inside, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, hdf5.INSIDE)
    with pytest.raises((DamagedFile, TooLarge), match=words):
        files.read(inside)


def _layers(fill: Any) -> Any:
    def made(path: Path) -> None:
        with h5py.File(path, "w") as file:
            fill(file.create_group("layers"))

    return made


def _references_in_a_layer(layers: Any) -> None:
    store = layers.create_group("dense/vars")
    store.create_dataset("0", (4,), dtype=TEXT)


def _groups_in_each_other(layers: Any) -> None:
    """1,000,000 arrays by 2,000 links."""
    one = layers.create_group("0/vars")
    one["0"] = np.float32(1)
    for i in range(1, 1000):
        one[str(i)] = one["0"]
        layers[str(i)] = layers["0"]


@pytest.mark.parametrize("fill", [_references_in_a_layer, _groups_in_each_other])
def test_layers_are_limited_too(fill, tmp_path):
    _layers(fill)(tmp_path / "x.h5")
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "x.h5", hdf5.INSIDE)
        archive.writestr("config.json", "{}")
    with pytest.raises((DamagedFile, TooLarge), match=r"are no numbers|announces"):
        hdf5.read_model(path, Bounds(path))


def test_arrays_that_are_deflated_are_read(tmp_path):
    path, zeros = tmp_path / "x.h5", np.zeros((300, 70), np.float32)
    grown = np.arange(2100, dtype=np.float64).reshape(30, 70)

    def fill(store: Any) -> None:
        options = {"shuffle": True, "fletcher32": True, "compression": "gzip"}
        store.create_dataset("0", data=zeros, chunks=(90, 33), **options)
        store.create_dataset("1", data=grown, compression="gzip")
        store.create_dataset("2", data=grown, chunks=(9, 33), fletcher32=True)
        store.create_dataset("3", data=np.zeros((0, 2)), maxshape=(None, 2))

    _store(path, fill)
    found = files.read(path)
    for name, wanted in zip("0123", (zeros, grown, grown, zeros[:0, :2]), strict=True):
        np.testing.assert_array_equal(found[name], wanted)


class _Older:
    """An array of h5py before 3.8, which lacks `chunk_iter`."""

    def __init__(self, found: Any) -> None:
        self.shape = found.shape
        self.get_chunk_info_by_coord = found.get_chunk_info_by_coord


class _Endless(_Older):
    """An array with an index that gives one chunk again and again."""

    def chunk_iter(self, add: Any) -> Any:
        while (told := add(self.get_chunk_info_by_coord((0, 0)))) is None:
            pass
        return told


def test_chunks_that_the_file_has_are_listed(tmp_path):
    """The index is gone through once: with 16,384 chunks 1 s and not 11."""
    path = tmp_path / "x.h5"

    def fill(store: Any) -> None:
        options = {"chunks": (3, 2), "compression": "gzip", "dtype": "f4"}
        data = store.create_dataset("0", (10, 5), maxshape=(None, None), **options)
        data[:4] = 1
        data[9, 4] = 2

    _store(path, fill)
    with h5py.File(path, "r") as file:
        found, rest = file["optimizer/vars/0"].id, ((3, 2), Bounds(path))
        listed = stored_chunks("0", found, *rest)
        assert listed == {(i, j) for i in (0, 3) for j in (0, 2, 4)} | {(9, 4)}
        assert stored_chunks("0", _Older(found), *rest) == listed
        with pytest.raises(DamagedFile, match="more chunks of '0' than its shape"):
            stored_chunks("0", _Endless(found), *rest)
    assert files.read(path)["0"].sum() == 22


def test_filters_are_read_without_a_limit(tmp_path):
    filtered_otherwise(tmp_path / "x.h5")
    assert files.read(tmp_path / "x.h5", is_limited=False)["0"].shape == (100,)


def test_names_in_parts_are_read(tmp_path):
    """Keras cuts the names of a large model into attributes of 64,512 bytes."""
    names = [f"adam/{'a_long_name_of_a_layer' * 4}_{i}/kernel" for i in range(900)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        old = file.create_group("optimizer_weights")
        for i, part in enumerate(np.array_split(np.asarray(names, "S"), 2)):
            old.attrs[f"weight_names{i}"] = part
        for name in names:
            old[name] = np.zeros(40)
    assert list(files.read(tmp_path / "x.h5", is_limited=False)) == names


FORMS = {
    "usual": {},
    "newer": {"libver": "latest"},
    "ordered": {"track_order": True},
    "later": {"userblock_size": 1024},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_names_of_any_length_are_read(options, tmp_path):
    """Keras assigns a list of bytes: h5py keeps each where it keeps long texts."""
    names = [f"adam/layer_{'of' * (i % 9)}_{i}/kernel".encode() for i in range(80)]
    _old(tmp_path / "x.h5", names, **options)
    assert list(files.read(tmp_path / "x.h5")) == [name.decode() for name in names]


def test_names_in_an_index_are_read_without_a_limit(tmp_path):
    """HDF5 makes an index of nine attributes in its latest version only."""
    path = tmp_path / "x.h5"
    _old(path, [b"adam/a", b"adam/b"], libver="latest")
    with h5py.File(path, "a", libver="latest") as file:
        for i in range(9):
            file["optimizer_weights"].attrs[str(i)] = i
    with pytest.raises(DamagedFile, match=r"as Keras does not.*--no-limit"):
        files.read(path)
    assert list(files.read(path, is_limited=False)) == ["adam/a", "adam/b"]


def test_a_part_of_a_header_that_follows_itself_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    _old(path, [b"adam/a"])
    with h5py.File(path, "a") as file:
        for i in range(20):
            file["optimizer_weights"].attrs[f"weight_names{i}"] = f"a text {i}"
    with h5py.File(path, "r") as file:
        texts = Texts(file, path, Bounds(path), lambda size: None)
        place = h5py.h5o.get_info(file["optimizer_weights"].id).addr
        assert texts.read(place, "weight_names19", 1) == ["a text 19"]
        data = bytearray(path.read_bytes())
        begin = struct.pack("<HH", 0x10, 16)  # the first message that leads elsewhere
        at = data.index(begin, place)
        more, size = struct.unpack_from("<QQ", data, at + 8)
        data[more : more + 24] = data[at : at + 24]
        assert size > 24
        with pytest.raises(DamagedFile, match="is damaged where"):
            Texts(file, io.BytesIO(data), Bounds(path), lambda size: None).read(
                place, "weight_names19", 1
            )
