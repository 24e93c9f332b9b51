"""Run any function of single elements as a kernel, beside XLA's own code."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.native import kernel as kernels
from optadamw.native import library
from optadamw.native.compiler import Compiler, find_compiler
from optadamw.native.flat import LENGTH, flatten
from optadamw.native.kernel import Refusal, usable_compiler
from optadamw.native.library import Target, begin, source_of
from optadamw.native.loops import Loops, loops_of

FOLDER = Path(__file__).parent

needs_compiler = pytest.mark.skipif(
    isinstance(usable_compiler(), Refusal), reason="no C compiler"
)
"""CI runs the suite once more where there is none: everything else works there."""


def loops(
    function: Callable[..., Any], scalars: Sequence[Any], held: Sequence[Any]
) -> Loops:
    """The loops of `function(*scalars, *held)`, which returns a tuple.

    Its results take the place of the last arrays of `held`.
    """
    avals = [jax.ShapeDtypeStruct((), x.dtype) for x in scalars]
    avals += [jax.ShapeDtypeStruct((LENGTH,), x.dtype) for x in held]
    flat = flatten(jax.make_jaxpr(function)(*avals))
    return loops_of(flat, [x.dtype for x in scalars], [x.dtype for x in held])


def kernel(
    function: Callable[..., Any], scalars: Sequence[Any], held: Sequence[Any]
) -> Any:
    """Return the results of a function of one gradient, and of arrays it replaces."""
    made = loops(function, scalars, held)
    target = load(source_of(made, len(scalars)), find_compiler())
    first = 1 + len(scalars) + 1
    arrays = [jnp.asarray(x) for x in held]
    call = jax.ffi.ffi_call(
        target.name,
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays[1:]],
        input_output_aliases={first + i: i for i in range(len(arrays) - 1)},
    )
    attributes = {
        "scalars": np.arange(1, 1 + len(scalars), dtype=np.int64),
        "positions": np.zeros(1, np.int64),
        "inner": np.ones(1, np.int64),
    }
    run = jax.jit(lambda go, *xs: call(go, *xs, **attributes))
    return tuple(run(jnp.ones((), bool), *scalars, *arrays))


def assert_same_bits(
    function: Callable[..., Any], scalars: Any, held: Any, names: Sequence[str]
) -> None:
    """The results are equal to the bit, -0.0 apart from 0.0; a NaN is a NaN.

    IEEE 754 leaves sign and payload of a NaN to the machine, and so does XLA.
    """
    expected = jax.jit(function)(*scalars, *held)
    actuals = kernel(function, scalars, held)
    for name, actual, wanted in zip(names, actuals, expected, strict=True):
        assert actual.dtype == wanted.dtype
        actual, wanted = np.asarray(actual), np.asarray(wanted)
        bits = f"u{actual.dtype.itemsize}"
        is_nan = (actual != actual) & (wanted != wanted)
        off = (actual.view(bits) != wanted.view(bits)) & ~is_nan
        rows = [
            [*(np.asarray(x)[i] for x in held[:2]), actual[i], wanted[i]]
            for i in np.flatnonzero(off)[:8]
        ]
        assert not off.any(), f"{name}: {off.sum()} differ; x, y, kernel, XLA: {rows}"


def load(source: str, compiler: Compiler) -> Target:
    """Compile a kernel and return it, or raise the reason why there is none."""
    found = begin(source, compiler).wait()
    if isinstance(found, Target):
        return found
    raise found


@contextlib.contextmanager
def planted(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> Iterator[None]:
    """Replace a text in the source of all kernels that are made inside."""
    source_of = library.source_of

    def with_fault(*arguments: Any) -> str:
        source = source_of(*arguments)
        assert old in source
        return source.replace(old, new)

    monkeypatch.setattr(kernels, "source_of", with_fault)
    kernels.forget()
    try:
        yield
    finally:
        kernels.forget()


def assert_calls_in_place(tx: Any, params: Any, calls: int) -> None:
    """Compile a step on shapes: one kernel in some calls, all memory donated."""
    state = jax.eval_shape(tx.init, params)
    compiled = tx.jit_step.lower(params, state, params).compile()
    memory = compiled.memory_analysis()
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((params, state)))
    assert memory.alias_size_in_bytes == held
    assert memory.temp_size_in_bytes < 2**14
    assert compiled.as_text().count('custom_call_target="optadamw_step_') == calls
