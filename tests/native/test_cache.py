"""The folder of compiled kernels, and compilers that do not do what they should."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import optadamw
from optadamw.native import cache, compiler, kernel, library
from optadamw.native.cache import CacheError, cached, check_private
from optadamw.native.compiler import Compiler, CompilerError, find_compiler
from tests.native import running

X = (jnp.arange(4.0), jnp.ones(4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of its own, in which every kernel is compiled anew."""
    place = tmp_path / "cache"
    monkeypatch.setenv(cache.VARIABLE, str(place))
    monkeypatch.setattr(library, "_targets", {})
    monkeypatch.setattr(library, "_pools", {})
    monkeypatch.setattr(cache, "_own", {})
    return place


def writes(text):
    made = []

    def make(path):
        made.append(path)
        path.write_bytes(text)

    return make, made


def test_a_library_is_made_once(folder):
    make, made = writes(b"first")
    path = cached("key", make)
    assert cached("key", make) == path and len(made) == 1
    assert path.read_bytes() == b"first" and path.parent == folder
    assert [x.name for x in folder.iterdir()] == [path.name]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_temporary_folder_no_library_is_made(folder, monkeypatch):
    """A container whose files cannot be written has no temporary folder."""

    def none(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file")
    monkeypatch.setattr(cache.tempfile, "mkdtemp", none)
    with pytest.raises(CacheError, match="No usable temporary directory"):
        cached("key", writes(b"first")[0])


@pytest.mark.parametrize("damage", [b"", b"firsx", b"first and more"])
def test_a_damaged_library_is_made_again(folder, damage):
    make, _ = writes(b"first")
    path = cached("key", make)
    path.chmod(0o600)
    path.write_bytes(damage)
    assert cached("key", make).read_bytes() == b"first"
    assert len(list(folder.iterdir())) == 1


def test_a_link_is_not_followed(folder, tmp_path):
    make, made = writes(b"first")
    path = cached("key", make)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    cached("key", make)
    assert len(made) == 2 and not path.is_symlink()


def test_a_folder_that_others_can_write_is_not_used(folder):
    make, _ = writes(b"first")
    for mode in (0o770, 0o707, 0o777, 0o1777):
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
        with pytest.raises(CacheError, match="other users can write in"):
            check_private(folder)
        assert cached("key", make).parent != folder
        assert not list(folder.iterdir())
    folder.chmod(0o700)
    folder.parent.chmod(0o777)
    with pytest.raises(CacheError, match="other users can write in"):
        check_private(folder)
    folder.parent.chmod(0o1777)
    check_private(folder)


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    make, _ = writes(b"first")
    cached("key", make)
    owner = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    if folder.stat().st_uid == 0:
        # Root may write everywhere, so what belongs to root is trusted.
        check_private(folder)
        assert cached("key", make).parent == folder
    else:
        with pytest.raises(CacheError, match="belongs to another user"):
            check_private(folder)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30)])
def test_without_room_a_folder_of_this_process_serves(folder, error):
    places = []

    def make(path):
        places.append(path)
        if path.is_relative_to(folder):
            raise error
        path.write_bytes(b"first")

    path = cached("key", make)
    assert len(places) == 2 and not path.is_relative_to(folder)


def test_no_folder_at_all(folder):
    def make(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(CacheError, match=r"no folder for compiled kernels: .*No space"):
        cached("key", make)


def test_many_processes_make_it_at_once(folder):
    text = textwrap.dedent(
        """
        import runpy, sys, time
        cached = runpy.run_path(sys.argv[1])["cached"]
        def make(path):
            path.write_bytes(b"a" * 70000)
            time.sleep(0.2)
            path.write_bytes(b"first" * 20000)
        print(cached("key", make).read_bytes() == b"first" * 20000)
        """
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", text, cache.__file__], stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    assert [run.communicate()[0].strip() for run in runs] == [b"True"] * 4
    assert len(list(folder.iterdir())) == 1


# --- compilers -----------------------------------------------------------------------


def double(x, y):
    return (x + y + y,)


def made(tmp_path, monkeypatch, script):
    """Run with a compiler that is this script."""
    path = tmp_path / "mycc"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    loops = running.loops(double, (), X)
    return running.load(library.source_of(loops, 0), find_compiler())


@running.needs_compiler
def test_a_real_compiler_makes_a_kernel_once(folder, monkeypatch):
    expected = [2.0, 3.0, 4.0, 5.0]
    assert running.kernel(double, (), X)[0].tolist() == expected
    monkeypatch.setattr(library, "_targets", {})  # as in another process

    def never(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(Compiler, "compile", never)
    assert running.kernel(double, (), X)[0].tolist() == expected


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no such flag' >&2; exit 3", "mycc failed: no such flag"),
        (
            "(echo 'In f:'; echo '3:1: error: no') >&2; exit 1",
            "mycc failed: 3:1: error",
        ),
        ("exit 1", "mycc failed: no message"),
        ("exit 0", "mycc ended without a library"),
        ('for last; do :; done; echo junk > "$last"', "cannot be loaded: .*"),
        ("kill -9 $$", "mycc failed: no message"),
    ],
)
def test_a_compiler_that_fails(folder, tmp_path, monkeypatch, script, reason):
    with pytest.raises(CompilerError, match=reason):
        made(tmp_path, monkeypatch, script)


@running.needs_compiler
def test_a_compiler_that_makes_another_library(folder, tmp_path, monkeypatch):
    """A wrapper that answers from a cache of its own, with the wrong entry."""
    other = tmp_path / "other.c"
    other.write_text('const char optadamw_source[] = "another";')
    script = f"""
    for last; do :; done
    exec cc -shared -fPIC {other} -o "$last"
    """
    with pytest.raises(CompilerError, match=r"cannot be loaded|from another source"):
        made(tmp_path, monkeypatch, script)


def test_a_compiler_that_hangs_is_killed_with_what_it_started(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(compiler, "TIMEOUT", 3.0)
    child = tmp_path / "child"
    script = f"sleep 600 & echo $! > {child}; wait"
    with pytest.raises(CompilerError, match=r"mycc did not end in 3 seconds"):
        made(tmp_path, monkeypatch, script)
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    # The kernel ends a process that was killed when it next runs, on a busy core later.
    until = time.monotonic() + 60.0
    while not has_ended(state) and time.monotonic() < until:
        time.sleep(0.05)
    assert has_ended(state)


def test_a_compiler_that_leaves_a_child_on_its_pipes(folder, tmp_path, monkeypatch):
    """The server of a compiler cache is such a child; the errors are complete."""
    child = tmp_path / "child"
    script = f"sleep 600 & echo $! >> {child}; echo '1: error: no' >&2; exit 1"
    with pytest.raises(CompilerError, match="mycc failed: 1: error: no"):
        made(tmp_path, monkeypatch, script)
    for number in child.read_text().split():
        os.kill(int(number), signal.SIGKILL)


def has_ended(state):
    try:
        return " Z " in state.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@running.needs_compiler
def test_a_compiler_that_hangs_is_started_once(folder, tmp_path, monkeypatch):
    """Of two kernels on one core the second one does not wait for it too."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(compiler, "TIMEOUT", 1.0)
    monkeypatch.setattr(compiler, "_stuck", {})
    runs = tmp_path / "runs"
    runs.touch()
    for found in both(tmp_path, monkeypatch, f"echo run >> {runs}; sleep 600"):
        assert "did not end in 1 seconds" in str(found)
    assert len(runs.read_text().split()) < 2


def test_a_compiler_that_prints_without_end(tmp_path, monkeypatch):
    """Its output is not collected in memory until the time is over."""
    start = time.monotonic()
    with pytest.raises(CompilerError, match="mycc prints without end"):
        made(tmp_path, monkeypatch, "yes")
    with pytest.raises(CompilerError, match="mycc prints without end"):
        made(tmp_path, monkeypatch, "yes >&2")
    assert time.monotonic() - start < compiler.TIMEOUT


def treble(x, y):
    return (x + y + y + y,)


def then_compiles(tmp_path, monkeypatch, script):
    """Set as the compiler a script that then becomes the real one."""
    path = tmp_path / "mycc"
    path.write_text(f'#!/bin/sh\n{script}\nexec {find_compiler().path} "$@"')
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))


def waits_for_two(tmp_path):
    """Return a script that fails unless it runs twice at once."""
    started = tmp_path / "started"
    started.mkdir()
    return f"""
    touch {started}/$$
    for i in $(seq 300); do [ $(ls {started} | wc -l) = 2 ] && break; sleep 0.1; done
    [ $(ls {started} | wc -l) = 2 ] || exit 1
    """


def both(tmp_path, monkeypatch, script):
    """Compile two kernels at once."""
    then_compiles(tmp_path, monkeypatch, script)
    loops = [running.loops(function, (), X) for function in (double, treble)]
    compiler = find_compiler()
    begun = [library.begin(library.source_of(x, 0), compiler) for x in loops]
    return [one.wait() for one in begun]


@running.needs_compiler
def test_kernels_are_compiled_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    one, other = both(tmp_path, monkeypatch, waits_for_two(tmp_path))
    assert {type(one), type(other)} == {library.Target} and one != other
    assert len(list(folder.iterdir())) == 2


@running.needs_compiler
def test_the_norm_is_compiled_beside_the_kernel(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    then_compiles(tmp_path, monkeypatch, waits_for_two(tmp_path))
    tx = optadamw.adamw(1e-3, clip_global_norm=1.0, kernel="native")
    params = {"w": jnp.ones(257)}
    made = jax.jit(tx.step).lower(params, tx.init(params), params).as_text()
    assert "optadamw_norm_" in made and "optadamw_step_" in made


def test_a_child_of_a_fork_makes_its_own(monkeypatch):
    """The child does not wait for a thread that only its parent has."""
    made = CompilerError("made in the child")
    parent = os.getpid()
    begun = library.Making(library.Target("x"), lambda: made, Future(), parent)
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert begun.wait() is made


@running.needs_compiler
def test_kernels_are_made_where_no_thread_can_start(folder, monkeypatch):
    """Python starts no thread in a function that it calls at exit."""

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    found = running.kernel(lambda x, y: (x + 2.0 * y,), (), X)
    assert found[0].tolist() == [2.0, 3.0, 4.0, 5.0]


def test_an_interrupted_wait_leaves_the_norm_to_the_next_step(monkeypatch):
    """Its thread goes on; XLA would measure until the process ends."""
    begun = library.Making(library.Target("x"), lambda: None, Future(), os.getpid())
    monkeypatch.setitem(library._makings, "x", begun)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as waiting:
        waiting.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            library.finish()
    begun.path.set_result(CompilerError("it failed"))
    assert library._makings["x"] is begun
    library.finish()
    assert "x" not in library._makings


def test_an_error_is_raised_once(monkeypatch):
    """One that nobody expects does not stay for the steps that follow."""

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(library, "cached", fail)
    some = Compiler("/usr/bin/cc", (1, 2), ())
    begun = library.begin("source", some)
    with pytest.raises(ZeroDivisionError):
        library.finish()
    library.finish()
    assert not library.is_made(begun.target.name)


@running.needs_compiler
def test_one_of_two_kernels_fails(folder, tmp_path, monkeypatch):
    script = f"mkdir {tmp_path}/first || exit 1"
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    one, other = both(tmp_path, monkeypatch, script)
    assert isinstance(one, library.Target)
    assert isinstance(other, CompilerError) and "mycc failed" in str(other)


@running.needs_compiler
def test_a_compiler_of_cpp_compiles_c(folder, monkeypatch):
    monkeypatch.setenv("CC", shutil.which("g++") or "cc")
    assert running.kernel(double, (), X)[0].tolist() == [2.0, 3.0, 4.0, 5.0]


def test_an_updated_compiler_makes_other_libraries():
    """Whatever version it prints: size and time of its file are part of the key."""
    one = Compiler("/usr/bin/cc", (1, 2), ("-march=native",))
    keys = {
        one.key("source"),
        one.key("other source"),
        Compiler("/usr/bin/cc", (1, 3), ("-march=native",)).key("source"),
        Compiler("/opt/bin/cc", (1, 2), ("-march=native",)).key("source"),
        Compiler("/usr/bin/cc", (1, 2), ("-march=x86-64-v3",)).key("source"),
    }
    assert len(keys) == 5


@running.needs_compiler
def test_which_compiler(monkeypatch, tmp_path):
    assert find_compiler().version.startswith("cc ")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    assert find_compiler().target == ("-march=x86-64-v3",)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX9")
    with pytest.raises(CompilerError, match="under --xla_cpu_max_isa=AVX9"):
        find_compiler()
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError, match="no compiler: cc is not on the PATH"):
        find_compiler()
    reason = kernel.Refusal("no compiler: cc is not on the PATH")
    assert kernel.usable_compiler() == reason
    monkeypatch.setenv(kernel.SWITCH, "0")
    assert kernel.usable_compiler() == kernel.Refusal("OPTADAMW_NATIVE=0")


@running.needs_compiler
def test_words_after_the_name_of_the_compiler(monkeypatch, tmp_path):
    plain = find_compiler()
    monkeypatch.setenv("CC", "cc -m64 '-DWORD=two words'")
    made = find_compiler()
    assert made.path == plain.path and made.words == ("-m64", "-DWORD=two words")
    assert made.version == plain.version and made.key("") != plain.key("")
    source, library = tmp_path / "a.c", tmp_path / "a.so"
    lines = ["#ifndef WORD", "#error no word", "#endif"]
    for macro in ("__FAST_MATH__", "__SANITIZE_ADDRESS__"):
        lines += [f"#ifdef {macro}", f"#error {macro}", "#endif"]
    source.write_text("\n".join([*lines, "int one;", ""]))
    # A library with the sanitizer of addresses ends a process that loads it.
    words = "-ffast-math -fsanitize=address '-DWORD=two words'"
    monkeypatch.setenv("CC", f"cc {words}")
    find_compiler().compile(source, library)
    assert library.exists()
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "cc").symlink_to(plain.path)
    monkeypatch.setenv("CC", str(folder / "cc"))
    assert find_compiler().path == str(folder / "cc")
    monkeypatch.setenv("CC", "cc 'open")
    with pytest.raises(CompilerError, match="No closing quotation"):
        find_compiler()
