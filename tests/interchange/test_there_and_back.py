"""States go to a peer and come back, with arrays made here."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import interchange
from tests.interchange import cases, eight_devices
from tests.interchange.saving import each_peer
from tests.support import lane, trees


def there_and_back(name: str, state: Any, params: Any, tx: Any, **options: Any) -> Any:
    peer = cases.PEERS[name]
    return peer.back(peer.to(state, params, tx=tx, **options), params, tx=tx)


def assert_same(name: str, found: Any, state: Any) -> None:
    """Bit for bit; where the moments are rescaled on the way, but for an ulp."""
    if cases.PEERS[name].is_exact:
        trees.assert_same_bits(found, state)
        return
    trees.assert_same_types(found, state)
    for field in ("mu", "nu"):
        pairs = zip(
            jax.tree.leaves(getattr(found, field)),
            jax.tree.leaves(getattr(state, field)),
            strict=True,
        )
        for a, e in pairs:
            np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(e), 1)


@each_peer
@pytest.mark.parametrize("kind", cases.TREES)
def test_there_and_back(name, kind):
    params, tx = cases.TREES[kind](), cases.adamw()
    params, state = cases.trained(tx, params, 3)
    if (name, kind) == ("mlx", "one array"):
        with pytest.raises(ValueError, match="keeps its parameters by names"):
            interchange.to_mlx(state, params, tx=tx)
        return
    found = there_and_back(name, state, params, tx)
    if (name, kind) == ("optax", "bfloat16"):  # Optax's moments are bfloat16 too
        trees.assert_same_types(found, state)
        state = state._replace(
            mu=jax.tree.map(_rounded, state.mu), nu=jax.tree.map(_rounded, state.nu)
        )
    assert_same(name, found, state)


def _rounded(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16).astype(x.dtype)


@each_peer
def test_there_and_back_before_the_first_step(name):
    params, tx = cases.tree(), cases.adamw()
    state = tx.init(params)
    trees.assert_same_bits(there_and_back(name, state, params, tx), state)


@pytest.mark.parametrize("name", [n for n, p in cases.PEERS.items() if p.maximum])
def test_maximum_there_and_back(name):
    tx = cases.adamw(amsgrad=cases.PEERS[name].maximum)
    params, state = cases.trained(tx, cases.tree(), 3)
    assert_same(name, there_and_back(name, state, params, tx), state)


@pytest.mark.parametrize("name", ["keras", "tensorflow"])
@pytest.mark.parametrize("calls", [0, 3])
def test_average_there_and_back(name, calls):
    tx = cases.adamw(ema_decay=0.75)
    params, state = cases.trained(tx, cases.tree(), calls)
    assert_same(name, there_and_back(name, state, params, tx), state)


@pytest.mark.parametrize("name", ["keras", "optax"])
@pytest.mark.parametrize("calls", [4, 6])
def test_window_there_and_back(name, calls):
    """In an open window of two: its mean is half of its sum, exactly."""
    tx = cases.adamw(accumulate_steps=4)
    params, state = cases.trained(tx, cases.tree(), calls)
    options = {"into": optax.MultiSteps(cases.into(), 4).gradient_transformation()}
    options = options if name == "optax" else {}
    found = there_and_back(name, state, params, tx, **options)
    for field in ("step", "micro_step", "mu", "nu"):
        trees.assert_same_bits(getattr(found, field), getattr(state, field))
    if calls == 6:
        trees.assert_same_bits(found.accumulator, state.accumulator)
        trees.assert_same_bits(found.weight, state.weight)
    trees.assert_same_types(found, state)
    step = jax.jit(tx.step)
    grads = cases.gradients(params, 9)
    trees.assert_same_bits(step(grads, found, params)[0], step(grads, state, params)[0])


def test_loss_scale_there_and_back():
    scale = optadamw.DynamicLossScale(initial=8.0, growth_interval=2)
    tx = cases.adamw(loss_scale=scale, amsgrad=True, ema_decay=0.5)
    params, state = cases.trained(tx, cases.tree(), 3)
    found = there_and_back("keras", state, params, tx)
    for field in ("step", "mu", "nu", "nu_max", "ema", "loss_scale", "growth"):
        trees.assert_same_bits(getattr(found, field), getattr(state, field))
    assert float(found.loss_scale) == 16 and int(found.growth) == 1
    trees.assert_same_types(found, state)
    bare = interchange.from_keras(
        interchange.to_keras(state, params, tx=tx), params, amsgrad=True, use_ema=True
    )
    assert float(bare.loss_scale) == 16 and int(bare.growth) == 1
    assert bare.events is None


@each_peer
def test_without_a_transformation_the_state_is_bare(name):
    params, tx = cases.tree(), cases.adamw()
    params, state = cases.trained(tx, params, 3)
    peer = cases.PEERS[name]
    options = {"betas": (cases.B1, cases.B2)} if name == "flux" else {}
    found = peer.back(peer.to(state, params, tx=tx), params, **options)
    assert isinstance(found, optadamw.State)
    assert_same(name, found, state)


@each_peer
def test_shapes_do_for_parameters(name):
    params, tx = cases.tree(), cases.adamw()
    params, state = cases.trained(tx, params, 3)
    peer = cases.PEERS[name]
    shapes = jax.eval_shape(lambda: params)
    saved = peer.to(state, params if name == "optax" else shapes, tx=tx)
    found = peer.back(saved, shapes, tx=tx)
    assert_same(name, found, state)
    assert not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(found))


@each_peer
def test_a_16_bit_moment_is_widened_and_narrowed(name):
    tx = cases.adamw(mu_dtype="bfloat16")
    params, state = cases.trained(tx, cases.tree(), 3)
    peer = cases.PEERS[name]
    saved = peer.to(state, params, tx=tx)
    dtypes = {np.asarray(x).dtype for x in jax.tree.leaves(saved) if np.ndim(x)}
    assert dtypes == {np.dtype(np.float32)}
    found = peer.back(saved, params, tx=tx)
    trees.assert_same_types(found, state)
    if peer.is_exact:
        trees.assert_same_bits(found, state)


@each_peer
def test_float64(name):
    with jax.enable_x64(True):
        tx = cases.adamw()
        params, state = cases.trained(tx, cases.tree(jnp.float64), 3)
        assert state.mu["scale"].dtype == jnp.float64
        assert_same(name, there_and_back(name, state, params, tx), state)


def test_complex_moments_are_two_reals_in_pytorch_alone():
    params, tx = {"z": cases.normal((2,), jnp.complex64, 0)}, cases.adamw()
    params, state = cases.trained(tx, params, 2)
    assert_same("torch", there_and_back("torch", state, params, tx), state)
    for name in ("keras", "optax", "flux", "optimi"):
        peer = cases.PEERS[name]
        with pytest.raises(ValueError, match="Leaf 'z': it is complex"):
            peer.to(state, params, tx=tx)
    saved = optax.adamw(1.0).init(params)
    with pytest.raises(ValueError, match="Leaf 'z': it is complex"):
        interchange.from_optax(saved, params)


def test_other_fields_start_afresh():
    """Counters, statistics and the spike guard's history have no counterpart."""
    tx = cases.adamw(
        skip_nonfinite=True, skip_spikes=True, stats="norms", accumulate_steps=3
    )
    params, state = cases.trained(tx, cases.tree(), 6)
    saved = interchange.to_torch(state, params, tx=tx)
    found = interchange.from_torch(saved, params, tx=tx)
    fresh = tx.init(params)
    trees.assert_same_types(found, state)
    for field in ("events", "history", "stats", "accumulator", "micro_step", "weight"):
        trees.assert_same_bits(getattr(found, field), getattr(fresh, field))
    for field in ("step", "mu", "nu"):
        trees.assert_same_bits(getattr(found, field), getattr(state, field))


@each_peer
def test_what_is_given_out_is_nobody_elses(name):
    """Writing into it leaves the state alone: frameworks write into what they load."""
    params, tx = cases.tree(), cases.adamw()
    params, state = cases.trained(tx, params, 2)
    before = jax.tree.map(np.array, state)
    saved = cases.PEERS[name].to(state, params, tx=tx)
    for array in jax.tree.leaves(saved):
        if isinstance(array, np.ndarray) and array.ndim:
            array[...] = 7
    jax.tree.map(np.testing.assert_array_equal, state, before)


@each_peer
def test_what_was_taken_in_is_a_copy(name):
    params, tx = cases.tree(), cases.adamw()
    params, state = cases.trained(tx, params, 2)
    peer = cases.PEERS[name]
    saved = peer.to(state, params, tx=tx)
    found = peer.back(saved, params, tx=tx)
    before = jax.tree.map(np.array, found)
    for array in jax.tree.leaves(saved):
        if isinstance(array, np.ndarray) and array.ndim:
            array[...] = 7
    jax.tree.map(np.testing.assert_array_equal, found, before)


def test_shardings_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    lane.run(Path(eight_devices.__file__), flags)
