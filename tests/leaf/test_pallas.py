"""Leaves as Pallas kernels: the numbers of the plain step, and code for a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

import optadamw
from optadamw.commit.commit import Nearest
from optadamw.leaf.pallas.fits import targets_of
from optadamw.leaf.program import Program
from tests.support import trees

EIGHT = optadamw.blockwise(min_size=0)
SIXTEEN = optadamw.stochastic("bfloat16")
SHAPES = {
    **{"w": (33, 96), "v": (1030,), "t": (2, 3, 64), "r": (3, 64, 40), "s": ()},
    "q": (5, 29),
}
"""Tiles that end inside a leaf and outside of it, blocks along the last axis and along
the one before it ("r"); the last two have no tiles."""

CASES = {
    "float32": (jnp.float32, {}),
    "8-bit": (jnp.float32, {"mu_dtype": EIGHT, "nu_dtype": EIGHT, "amsgrad": True}),
    "16-bit": (jnp.float32, {"mu_dtype": SIXTEEN, "nu_dtype": SIXTEEN}),
    "compact": (
        jnp.bfloat16,
        {
            **{"precision": "compact", "mu_dtype": EIGHT, "nu_dtype": EIGHT},
            **{"ema_decay": 0.9, "ema_overwrite_every": 2, "seed": 3},
        },
    ),
    "mixed": (jnp.bfloat16, {"precision": "mixed", "update_dtype": "float32"}),
    "kahan": (jnp.float16, {"commit": "kahan", "mu_dtype": EIGHT}),
    "master": (jnp.float16, {"commit": "master", "mu_dtype": EIGHT}),
    "accumulate": (
        jnp.float32,
        {"accumulate_steps": 2, "clip_global_norm": 1.0, "loss_scale": 8.0},
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


def tree(dtype, seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), dtype) for name, s in SHAPES.items()}


def transformations(case):
    """XLA's own step, whose norm is that of the kernels here; the step by kernels."""
    dtype, options = CASES[case]
    plain = optadamw.adamw(1e-2, weight_decay=0.1, kernel="xla", **options)
    return dtype, plain, optadamw.with_pallas(plain, interpret=True)


def steps(tx, params, count=4):
    state, step = tx.init(params), jax.jit(tx.step)
    for i in range(count):
        params, state = step(tree(jnp.float32, i + 1), state, params)
    return params, state


def assert_near(actual, expected):
    """Within 1e-6, but for one in 200 whose rounding a contraction has turned.

    Without contractions they have the same bits: see `exact_lane`.
    """
    trees.assert_same_types(actual, expected)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, e in pairs:
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        off = np.abs(a - e) > 1e-6 * np.max(np.abs(e), initial=1e-30)
        assert off.sum() <= off.size / 200


@each_case
def test_kernels_compute_what_the_plain_step_does(case):
    """Codes, scales and random bits alike; numbers up to a contraction."""
    dtype, plain, tiled = transformations(case)
    assert_near(steps(tiled, tree(dtype, 0)), steps(plain, tree(dtype, 0)))


@each_case
def test_updates_of_kernels(case):
    dtype, plain, tiled = transformations(case)
    params, grads = tree(dtype, 0), tree(jnp.float32, 1)
    expected = jax.jit(plain.update)(grads, plain.init(params), params)
    actual = jax.jit(tiled.update)(grads, tiled.init(params), params)
    assert_near(actual, expected)


def test_which_leaves_have_tiles():
    """A program that runs in a kernel is not one that runs beside it."""
    tx = optadamw.with_pallas(
        optadamw.adamw(1e-2, mu_dtype=EIGHT, nu_dtype=EIGHT), interpret=True
    )
    params = tree(jnp.float32, 0)
    whole = {name: params[name] for name in ("s", "q")}  # blocks of 29 have none
    for part, has in ((params, True), (whole, False)):
        jaxpr = str(jax.make_jaxpr(tx.step)(part, tx.init(part), part))
        assert ("pallas_call" in jaxpr) == has
    for options in ({"clip_norm": 1.0}, {"caution": True}, {"stats": "norms"}):
        tx = optadamw.with_pallas(optadamw.adamw(1e-2, **options), interpret=True)
        jaxpr = str(jax.make_jaxpr(tx.step)(params, tx.init(params), params))
        assert "pallas_call" not in jaxpr
    shape = functools.partial(jax.ShapeDtypeStruct, (4, 32))
    program = Program((), (), Nearest(), True, None, "param", kernel="compiled")
    assert targets_of(program, shape(jnp.float32)) == ("tpu", "gpu")
    assert targets_of(program, None) == ()
    assert not any(targets_of(program, shape(d)) for d in (jnp.complex64, jnp.float64))


@each_case
def test_it_lowers_for_an_nvidia_gpu(case):
    """To Triton, without a device: that it runs there is not shown by this."""
    dtype, plain, _ = transformations(case)
    tx = optadamw.with_pallas(plain)
    params = jax.eval_shape(lambda: tree(dtype, 0))
    device = AbstractDevice("NVIDIA H200", 132, "cuda")
    target = "__gpu$xla.gpu.triton"
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        exported = export.export(
            jax.jit(tx.step),
            platforms=["cuda"],
            disabled_checks=[export.DisabledSafetyCheck.custom_call(target)],
        )(params, tx.init(params), params)
    assert target in exported.mlir_module()


def test_elsewhere_it_is_the_plain_step():
    dtype, plain, _ = transformations("8-bit")
    tx = optadamw.with_pallas(plain)
    trees.assert_same_bits(steps(tx, tree(dtype, 0)), steps(plain, tree(dtype, 0)))


def test_it_is_a_value():
    tx = optadamw.adamw(0.1)
    assert repr(optadamw.with_pallas(tx)) == "with_pallas(adamw(0.1))"
    assert optadamw.with_pallas(tx) == optadamw.with_pallas(tx) != tx
    with pytest.raises(ValueError, match="has kernels already"):
        optadamw.with_pallas(optadamw.with_pallas(tx))
    with pytest.raises(TypeError, match="`inner` must be a transformation"):
        optadamw.with_pallas(3)
    with pytest.raises(TypeError, match="`interpret` must be"):
        optadamw.with_pallas(tx, interpret="yes")
