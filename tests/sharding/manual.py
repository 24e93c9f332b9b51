"""Steps inside `shard_map`, over parts of parameters; run by `test_lanes.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

import optadamw
from tests.support import trees

KINDS = {"w": (jnp.float32, (512, 16)), "b": (jnp.float32, (16,))}
SPECS = {"w": P("fsdp"), "b": P()}
MESH = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
FORM = optadamw.blockwise(min_size=0, rounding="nearest")

OPTIONS = {
    "clip": {"clip_global_norm": 0.5},
    "guard": {"skip_nonfinite": True, "ema_decay": 0.9},
    "spikes": {"skip_spikes": {"window": 4, "min_history": 2}},
    "blocks": {"mu_dtype": FORM, "clip_global_norm": 0.5},
    "window": {"accumulate_steps": 2, "skip_nonfinite": True, "clip_global_norm": 0.5},
    "stats": {"stats": "norms", "skip_nonfinite": True},
    "scale": {"loss_scale": optadamw.DynamicLossScale(4.0), "clip_global_norm": 0.5},
}


def by_hand(tx: Any, state: Any, check: bool = True, method: str = "step") -> Any:
    """A step in which each device has a part of `w`, and the whole of `b`."""
    layout = jax.tree_util.tree_map_with_path(
        lambda path, x: P("fsdp") if getattr(path[-1], "key", "") == "w" else P(), state
    )

    def step(grads: Any, state: Any, params: Any) -> Any:
        return tuple(getattr(tx, method)(grads, state, params))

    return jax.jit(
        jax.shard_map(
            step,
            mesh=MESH,
            in_specs=(SPECS, layout, SPECS),
            out_specs=(SPECS, layout),
            check_vma=check,
        )
    )


def gradients(seed: int, fault: float | None = None) -> Any:
    grads = trees.normal(KINDS, seed)
    if fault is not None:  # on one device alone
        grads["w"] = grads["w"].at[60, 3].set(fault)
    return grads


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("check", [True, False], ids=["checked", "unchecked"])
def test_parts_step_as_the_whole(options, check):
    """One NaN on one device skips the step on all; norms are those of all parts."""
    choice = "*" if check else "w"
    plain = optadamw.adamw(0.1, **options)
    tx = optadamw.with_axes(plain, sharded={choice: "fsdp"})
    params = trees.normal(KINDS, 0)
    there = here = (params, plain.init(params))
    faults = (None, None, jnp.nan, 1e25, None, None)
    if "skip_nonfinite" not in options and "skip_spikes" not in options:
        faults = (None, None, 1e25, None)
    step = by_hand(tx, here[1], check)
    for i, fault in enumerate(faults):
        grads = gradients(i, fault)
        there = step(grads, there[1], there[0])
        here = jax.jit(plain.step)(grads, here[1], here[0])
        assert int(there[1].step) == int(here[1].step)
        for one, other in zip(
            jax.tree.leaves(there), jax.tree.leaves(tuple(here)), strict=True
        ):
            one, other = (np.asarray(x, np.float64) for x in (one, other))
            if one.ndim == 2 and "mu_dtype" in options:
                assert (np.abs(one - other) > 1).mean() < 0.02  # a code beside another
            else:
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def test_outside_shard_map_nothing_changes():
    plain = optadamw.adamw(0.1, **OPTIONS["window"])
    tx = optadamw.with_axes(plain, sharded={"w": "fsdp"})
    params = trees.normal(KINDS, 0)
    one, other = (
        jax.jit(t.step).lower(params, t.init(params), params).as_text()
        for t in (plain, tx)
    )
    assert one == other


REFUSED = {
    "clip": {"clip_global_norm": 0.5},
    "guard": {"skip_nonfinite": True},
    "statistics": {"stats": True},
    "norm of an update": {"stats": "norms"},
    "norm of a parameter": {"clip_norm": 0.5},
    "mean of a parameter": {"caution": True},
}


@pytest.mark.parametrize("options", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("method", ["step", "update"])
def test_a_norm_of_a_part_is_refused(options, method):
    tx = optadamw.adamw(0.1, **options)
    params = trees.normal(KINDS, 0)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"Leaf 'w': inside shard_map.*'fsdp'.*psum"):
        by_hand(tx, state, method=method)(params, state, params)
    plain = optadamw.adamw(0.1)
    state = plain.init(params)
    by_hand(plain, state, method=method)(params, state, params)


@pytest.mark.parametrize("options", [{"clip_norm": 0.5}, {"caution": True}], ids=str)
def test_a_rule_over_a_whole_parameter_is_refused(options):
    tx = optadamw.with_axes(optadamw.adamw(0.1, **options), sharded={"*": "fsdp"})
    params = trees.normal(KINDS, 0)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"Leaf 'w': .*whole parameters.*fsdp"):
        by_hand(tx, state)(params, state, params)


NARROW = {"w": (jnp.bfloat16, (512, 16)), "b": (jnp.bfloat16, (16,))}
COMMITS = {
    "kahan": {"commit": "kahan"},
    "master": {"commit": "master", "clip_global_norm": 0.5},
    "compact": {"precision": "compact"},
    "window": {
        **{"commit": "stochastic", "accumulate_steps": 2},
        **{"skip_nonfinite": True, "stats": "norms"},
    },
}


@pytest.mark.parametrize("options", COMMITS.values(), ids=COMMITS)
@pytest.mark.parametrize("method", ["step", "update"])
def test_parts_of_16_bits_keep_their_types(options, method):
    """`b` is whole before and after; parts below `min_size` have the state's blocks."""
    tx = optadamw.with_axes(optadamw.adamw(0.1, **options), sharded={"*": "fsdp"})
    params = trees.normal(NARROW, 0)
    state = tx.init(params)
    after = by_hand(tx, state, method=method).eval_shape(params, state, params)
    trees.assert_same_types(after, (params, state))


def test_an_axis_that_the_mesh_lacks_is_refused():
    tx = optadamw.with_axes(optadamw.adamw(0.1), sharded={"b": "fsdp", "*": "nope"})
    params = trees.normal(KINDS, 0)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"Leaf 'w': its mesh has no axis 'nope'"):
        by_hand(tx, state)(params, state, params)


def test_a_choice_without_a_parameter_is_refused():
    tx = optadamw.with_axes(optadamw.adamw(0.1), sharded={"kernel": "fsdp"})
    with pytest.raises(ValueError, match=r"`sharded`.*'kernel'"):
        tx.init(trees.normal(KINDS, 0))


@pytest.mark.parametrize("name", ["loss", "weight", "grad_norm"])
def test_a_number_that_differs_between_devices_is_refused(name):
    plain = optadamw.adamw(0.1, skip_nonfinite=True, accumulate_steps=2)
    tx = optadamw.with_axes(plain, sharded={"w": "fsdp"})
    params = trees.normal(KINDS, 0)

    def step(x: Any) -> Any:
        return tx.step(params, tx.init(params), params, **{name: x[0]})[0]["w"]

    mapped = jax.shard_map(step, mesh=MESH, in_specs=P("fsdp"), out_specs=P("fsdp"))
    with pytest.raises(ValueError, match=rf"`{name}` differs.*'fsdp'.*pmean"):
        jax.jit(mapped)(jnp.ones(8))


def test_each_device_may_have_a_model_of_its_own():
    """An empty tuple names no axis: a NaN skips the step of its own device alone."""
    plain = optadamw.adamw(0.1, skip_nonfinite=True)
    tx = optadamw.with_axes(plain, sharded={"*": ()})
    params, grads = jnp.ones((8, 4)), jnp.ones((8, 4)).at[5, 0].set(jnp.nan)

    def step(params: Any, grads: Any) -> Any:
        state = plain.init(params)
        return tx.step(grads, state, params)[0]

    mapped = jax.shard_map(
        step, mesh=MESH, in_specs=(P("fsdp"), P("fsdp")), out_specs=P("fsdp")
    )
    moved = jax.jit(mapped)(params, grads)
    assert ((moved != params).any(1) == (jnp.arange(8) != 5)).all()


def unsummed(tx: Any, method: str = "step", *, typed: bool = False) -> Any:
    """Two calls on parameters of all devices, with a gradient of each device alone."""
    params = {"w": jnp.ones((8, 4)), "b": jnp.ones(3)}
    state = tx.init(params)

    def call(x: Any, state: Any, params: Any) -> Any:
        if typed:
            reduced = jax.lax.pcast(params, "fsdp", to="reduced")
            w = jax.grad(lambda p: (p["w"] * x).sum())(reduced)["w"]
        else:
            w = x * jnp.ones((8, 4))
        grads = {"w": w, "b": jnp.ones(3)}
        for _ in range(2):
            output, state = getattr(tx, method)(grads, state, params)
            params = output if method == "step" else params
        return jax.tree.map(lambda x: x[None], (output, state))

    mapped = jax.shard_map(
        call, mesh=MESH, in_specs=(P("fsdp"), P(), P()), out_specs=P("fsdp")
    )
    return jax.jit(mapped), (jnp.ones((8, 4)).at[5].set(jnp.nan), state, params)


OWN = OPTIONS | {"plain": {}, "only a window": {"accumulate_steps": 2}}


@pytest.mark.parametrize("options", OWN.values(), ids=OWN)
@pytest.mark.parametrize("method", ["step", "update"])
def test_gradients_that_were_not_summed_are_refused(options, method):
    """Or each device trains a model of its own from now on, if `with_axes` says so."""
    plain = optadamw.adamw(0.1, **options)
    step, given = unsummed(plain, method)
    with pytest.raises(ValueError, match=r"Leaf 'w': .*unreduced.*'fsdp'.*psum.*\(\)"):
        step.eval_shape(*given)
    declared = optadamw.with_axes(plain, sharded={"*": "fsdp"})
    with pytest.raises(ValueError, match=r"Leaf 'w': .*unreduced.*'fsdp'"):
        unsummed(declared, method)[0].eval_shape(*given)
    step, given = unsummed(plain, method, typed=True)
    with pytest.raises(ValueError, match=r"Leaf 'w': .*unreduced over 'fsdp'.*psum"):
        step.eval_shape(*given)
    step, given = unsummed(optadamw.with_axes(plain, sharded={"*": ()}), method)
    step.eval_shape(*given)


def test_devices_may_part_from_one_model():
    """A NaN drops the gradients of its own device, and of no other."""
    plain = optadamw.adamw(0.1, accumulate_steps=2, skip_nonfinite=True)
    step, given = unsummed(optadamw.with_axes(plain, sharded={"*": ()}))
    params, state = step(*given)
    moved = np.arange(8) != 5
    assert (np.asarray(state.step) == moved).all()
    assert ((params["w"] != 1).all((1, 2)) == moved).all()
    assert ((params["b"] != 1).all(1) == moved).all()


BAD = {
    "text": ("fsdp", TypeError),
    "empty": ({}, TypeError),
    "number": ({"*": 3}, TypeError),
    "choice": ({3: "fsdp"}, TypeError),
}


@pytest.mark.parametrize(("sharded", "error"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(sharded, error):
    with pytest.raises(error, match="`sharded` must be"):
        optadamw.with_axes(optadamw.adamw(0.1), sharded)


def test_axes_are_named_once():
    tx = optadamw.with_axes(optadamw.adamw(0.1), {"*": "fsdp"})
    assert repr(tx) == "with_axes(adamw(0.1), sharded={'*': 'fsdp'})"
    with pytest.raises(ValueError, match="axes already"):
        optadamw.with_axes(tx, {"*": "fsdp"})
    with pytest.raises(TypeError, match="`inner` must be"):
        optadamw.with_axes(None, {"*": "fsdp"})


@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2}, OPTIONS["clip"]])
@pytest.mark.parametrize("method", ["step", "update"])
def test_unreduced_gradients_are_refused_or_scattered(options, method):
    """Products on explicit axes whose sums over devices are still to be taken."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    whole = NamedSharding(mesh, P(None, None))
    params = {"n": {"w": jax.device_put(jnp.ones((8, 8)), whole)}}
    x = jax.device_put(jnp.eye(8), NamedSharding(mesh, P(None, "data")))
    later = P(None, None, unreduced={"data"})

    def called(tx: Any, summed: bool) -> Any:
        def call(x: Any, state: Any) -> Any:
            grad = jnp.einsum("ij,kj->ik", x, x, out_sharding=later)
            grads = {"n": {"w": reshard(grad, P(None, None)) if summed else grad}}
            return tuple(getattr(tx, method)(grads, state, params))

        with jax.set_mesh(mesh):
            return jax.jit(call)(x, tx.init(params))

    tx = optadamw.adamw(0.1, **options)
    with pytest.raises(ValueError, match=r"Leaf 'n/w': its gradient is unreduced"):
        called(tx, summed=False)
    divided = optadamw.with_zero1(tx, "data")
    found, wanted = called(divided, summed=False), called(tx, summed=True)
    trees.assert_same_bits(jax.device_get(found), jax.device_get(wanted))
