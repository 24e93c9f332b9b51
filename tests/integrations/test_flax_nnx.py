"""Loops of Flax NNX that step in place, as their users write them."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import optadamw
from optadamw.integrations.flax_nnx import Optimizer
from tests.integrations.loops import (
    ACCUMULATING,
    OPTIONS,
    Model,
    Square,
    X,
    assert_in_place,
    each_options,
    foreign,
    plain_step,
    recorder,
)
from tests.support import trees
from tests.support.compilations import Compilations


def loss_of(model: Any, x: Any = X) -> Any:
    return jnp.mean(model(x) ** 2)


def arrays(node: Any, *filters: Any) -> Any:
    """The Variables of a module as arrays of their own."""
    return jax.tree.map(jnp.copy, nnx.as_pure(nnx.state(node, *filters)))


@nnx.jit(donate_argnums=(0, 1))
def nnx_step(model: Any, optimizer: Any, grads: Any, **extra: Any) -> None:
    optimizer.update(model, grads, **extra)


@nnx.jit(donate_argnums=(0, 1))
def nnx_train(model: Any, optimizer: Any, x: Any) -> Any:
    """The loop as it is written."""
    loss, grads = nnx.value_and_grad(loss_of)(model, x)
    optimizer.update(model, grads, loss=loss, weight=jnp.float32(len(x)))
    return loss


@each_options
def test_nnx_takes_the_plain_step(options):
    model, tx = Model(nnx.Rngs(0)), optadamw.adamw(**options)
    params = arrays(model, nnx.Param)
    optimizer, state = Optimizer(model, tx, wrt=nnx.Param), tx.init(params)
    for number in range(4):
        variables = nnx.state(model, nnx.Param)
        grads = jax.tree.map(lambda p, n=number: p + 0.1 * n, variables)
        params, state = plain_step(tx, arrays(grads), state, params)
        nnx_step(model, optimizer, grads)
        trees.assert_same_bits(arrays(model, nnx.Param), params)
        trees.assert_same_bits(nnx.as_pure(optimizer.opt_state), state)
        assert int(optimizer.step[...]) == number + 1


def test_nnx_trains_in_place_of_its_own_optimizer():
    losses = {}
    for kind in (nnx.Optimizer, Optimizer):
        model = Model(nnx.Rngs(0))
        tx = optadamw.adamw(**OPTIONS["numbers"])
        optimizer = kind(model, tx, wrt=nnx.Param)
        assert isinstance(optimizer, nnx.Optimizer)
        losses[kind] = [float(nnx_train(model, optimizer, X)) for _ in range(5)]
        assert int(model.calls[...]) == int(optimizer.opt_state.step[...]) == 5
    np.testing.assert_allclose(losses[Optimizer], losses[nnx.Optimizer], rtol=1e-6)
    assert losses[Optimizer][-1] < losses[Optimizer][0]


def test_nnx_compiles_once():
    model = Model(nnx.Rngs(0))
    counts = []
    for _ in range(3):
        optimizer = Optimizer(model, optadamw.adamw(0.1), wrt=nnx.Param)
        with Compilations() as compilations:
            nnx_train(model, optimizer, X)
        counts.append(compilations.count)
    assert counts == [1, 0, 0]


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "tree"])
@each_options
def test_nnx_updates_in_place(options, graph):
    model = Square(nnx.Rngs(0))
    tx = optadamw.adamw(**options)
    optimizer = Optimizer(model, tx, wrt=nnx.Param, graph=graph)
    grads = nnx.clone(nnx.state(model, nnx.Param))

    @nnx.jit(donate_argnums=(0, 1), graph=graph)
    def update(model: Any, optimizer: Any, grads: Any) -> Any:
        optimizer.update(model, grads)
        return jnp.float32(0.0)

    compiled = update.lower(model, optimizer, grads).compile()
    assert_in_place(compiled, nnx.state((model, optimizer)))


def test_nnx_returns_the_change_of_the_parameters():
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, optadamw.adamw(0.1), wrt=nnx.Param)
    before = arrays(model, nnx.Param)
    updates = optimizer.update(model, nnx.grad(loss_of)(model))
    change = jax.tree.map(jnp.subtract, arrays(model, nnx.Param), before)
    trees.assert_same_bits(updates, change)


def test_nnx_trains_what_its_filter_names():
    model = Model(nnx.Rngs(0))
    wrt = nnx.PathContains("second")
    optimizer = Optimizer(model, optadamw.adamw(0.1), wrt=wrt)
    before = arrays(model, nnx.Param)
    grads = nnx.grad(loss_of, argnums=nnx.DiffState(0, wrt))(model)
    optimizer.update(model, grads)
    after = arrays(model, nnx.Param)
    trees.assert_same_bits(after["first"], before["first"])
    assert not np.array_equal(after["second"]["kernel"], before["second"]["kernel"])
    assert set(nnx.as_pure(optimizer.opt_state).mu) == {"second"}


def test_nnx_refuses_a_filter_of_nothing():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = Optimizer(model, optadamw.adamw(0.1), wrt=nnx.BatchStat)
    grads = nnx.grad(loss_of)(model, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"`wrt` matches no Variable.*BatchStat"):
        optimizer.update(model, grads)


def test_nnx_keeps_sharding_metadata():
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, optadamw.adamw(**OPTIONS["all"]), wrt=nnx.Param)
    metadata = _metadata(model) | _metadata(optimizer)
    assert any("model" in str(values) for values in metadata.values())
    wanted = _specs(nnx.state(model, nnx.Param))
    for _ in range(3):
        nnx_train(model, optimizer, X)
    assert _metadata(model) | _metadata(optimizer) == metadata
    state = optimizer.opt_state
    for buffer in (state.mu, state.nu, state.nu_max, state.ema, state.accumulator):
        assert _specs(nnx.state(buffer)) == wanted


def test_nnx_keeps_the_sharding_of_arrays_on_a_mesh():
    with jax.set_mesh(jax.make_mesh((1,), ("model",))):
        init = nnx.with_partitioning(
            nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=True
        )
        model = nnx.Linear(3, 4, kernel_init=init, rngs=nnx.Rngs(0))
        optimizer = Optimizer(model, optadamw.adamw(0.1), wrt=nnx.Param)
        before = _shardings(model), _shardings(optimizer)
        assert "model" in str(before[0])
        nnx_train(model, optimizer, X)
        assert (_shardings(model), _shardings(optimizer)) == before


def test_nnx_trains_bfloat16_with_a_float32_state():
    model = Model(nnx.Rngs(0), dtype=jnp.bfloat16)
    tx = optadamw.adamw(1e-2, ema_decay=0.9)
    params = arrays(model, nnx.Param)
    optimizer, state = Optimizer(model, tx, wrt=nnx.Param), tx.init(params)
    for _ in range(3):
        grads = nnx.grad(loss_of)(model)
        params, state = plain_step(tx, arrays(grads), state, params)
        nnx_step(model, optimizer, grads)
    trees.assert_same_bits(arrays(model, nnx.Param), params)
    dtypes = jax.tree.map(lambda x: x.dtype, nnx.as_pure(optimizer.opt_state))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert set(jax.tree.leaves((dtypes.mu, dtypes.nu, dtypes.ema))) == {
        jnp.dtype(jnp.float32)
    }


def test_nnx_takes_any_transformation_of_optax():
    after = []
    for kind in (nnx.Optimizer, Optimizer):
        model = Model(nnx.Rngs(0))
        optimizer = kind(model, foreign(), wrt=nnx.Param)
        for _ in range(3):
            nnx_step(model, optimizer, nnx.grad(loss_of)(model))
        after.append((arrays(model), nnx.as_pure(optimizer.opt_state)))
    trees.assert_same_bits(after[1], after[0])


def test_nnx_passes_extra_arguments_on():
    seen: list[dict[str, Any]] = []
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, recorder(seen), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(loss_of)(model), loss=2.0, value=nnx.Param(3.0))
    assert seen == [{"loss": 2.0, "value": 3.0}]


def test_nnx_trains_members_of_an_ensemble():
    """Members that `nnx.vmap` makes train as if each were alone."""

    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> Any:
        model = nnx.Linear(3, 1, rngs=rngs)
        return model, Optimizer(model, ACCUMULATING(), wrt=nnx.Param)

    @nnx.vmap(in_axes=(0, 0, None))
    def train(model: Any, optimizer: Any, x: Any) -> None:
        optimizer.update(model, nnx.grad(loss_of)(model, x), weight=jnp.float32(2))

    model, optimizer = make(nnx.Rngs(0))
    alone = nnx.clone(jax.tree.map(lambda x: x[0], (model, optimizer)))
    for _ in range(3):
        train(model, optimizer, X)
        grads = nnx.grad(loss_of)(alone[0], X)
        alone[1].update(alone[0], grads, weight=jnp.float32(2))
    members = jax.tree.map(lambda x: x[0], (arrays(model), arrays(optimizer)))
    assert trees.largest_difference(members, tuple(map(arrays, alone))) <= 1e-6
    assert optimizer.opt_state.step[...].tolist() == [1, 1]


def test_nnx_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match=r"`tx` must be an Optax gradient .*got 5 of"):
        Optimizer(Model(nnx.Rngs(0)), 5, wrt=nnx.Param)


def test_nnx_refuses_the_arguments_swapped():
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, optadamw.adamw(0.1), wrt=nnx.Param)
    grads = nnx.grad(loss_of)(model)
    with pytest.raises(TypeError, match=r"got a State, with Model as `grads`.*update"):
        optimizer.update(grads, model)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        optimizer.update(grads)
    for loss in (0.5, jnp.ones(())):
        with pytest.raises(
            TypeError, match=r"`grads` must be.*returns \(loss, grads\)"
        ):
            optimizer.update(model, loss)
    grads["second"]["bias"] = nnx.Param(jnp.ones(3))
    with pytest.raises(ValueError, match=r"second/bias.*shape \(3,\)"):
        optimizer.update(model, grads)
    assert int(optimizer.step[...]) == 0


@pytest.mark.parametrize("form", ["split", "pickle", "orbax", "pure dict"])
def test_nnx_continues_from_what_was_saved(form, tmp_path):
    tx = optadamw.adamw(**OPTIONS["all"])
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(3):  # in the middle of a window
        nnx_train(model, optimizer, X)
    graph, state = nnx.split((model, optimizer))
    copied = jax.tree.map(jnp.copy, state)
    for _ in range(2):
        nnx_train(model, optimizer, X)
    expected = arrays(model), arrays(optimizer)
    again = _saved_and_restored(form, graph, copied, tx, tmp_path)
    assert type(again[1]) is Optimizer
    for _ in range(2):
        nnx_train(*again, X)
    trees.assert_same_bits((arrays(again[0]), arrays(again[1])), expected)


def _saved_and_restored(form: str, graph: Any, state: Any, tx: Any, folder: Any) -> Any:
    if form == "pickle":
        return nnx.merge(*pickle.loads(pickle.dumps((graph, state))))
    if form == "split":
        return nnx.merge(graph, state)
    # A new process makes the model and the optimizer anew, and then loads them.
    model = Model(nnx.Rngs(1))
    optimizer = Optimizer(model, tx, wrt=nnx.Param)
    fresh = nnx.state((model, optimizer))
    if form == "orbax":
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "state", state)
            checkpointer.wait_until_finished()
            loaded = checkpointer.restore(folder / "state", fresh)
        nnx.update((model, optimizer), loaded)
    else:
        numbers = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
        nnx.replace_by_pure_dict(fresh, numbers)
        nnx.update((model, optimizer), fresh)
    return model, optimizer


def test_nnx_loads_what_the_optimizer_of_flax_saved():
    tx = optadamw.adamw(**OPTIONS["numbers"])
    model = Model(nnx.Rngs(0))
    theirs = nnx.Optimizer(model, tx, wrt=nnx.Param)
    nnx_train(model, theirs, X)
    optimizer = Optimizer(model, tx, wrt=nnx.Param)
    nnx.update(optimizer, nnx.state(theirs))
    trees.assert_same_bits(arrays(optimizer), arrays(theirs))


def test_nnx_flushes_a_partial_window():
    tx = ACCUMULATING()
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(4):
        nnx_train(model, optimizer, X)
    flush = nnx.jit(lambda model, optimizer: optimizer.flush(model))
    expected = jax.jit(tx.flush)(
        nnx.as_pure(optimizer.opt_state), arrays(model, nnx.Param)
    )
    flush(model, optimizer)
    kept = nnx.as_pure(optimizer.opt_state)
    trees.assert_same_bits((arrays(model, nnx.Param), kept), expected)
    assert int(kept.step) == 2 and int(optimizer.step[...]) == 4


def test_nnx_trains_with_everything_and_survives_a_bad_batch():
    model = Model(nnx.Rngs(0))
    scale = optadamw.DynamicLossScale(initial=256.0, growth_interval=2)
    options = OPTIONS["all"] | {"loss_scale": scale}
    optimizer = Optimizer(model, optadamw.adamw(**options), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def train(model: Any, optimizer: Any, x: Any) -> Any:
        def scaled(model: Any) -> Any:
            state, loss = nnx.as_pure(optimizer.opt_state), loss_of(model, x)
            return optadamw.scale_loss(state, loss), loss

        (_, loss), grads = nnx.value_and_grad(scaled, has_aux=True)(model)
        optimizer.update(model, grads, loss=loss, weight=len(x))
        return loss

    losses = [float(train(model, optimizer, X)) for _ in range(8)]
    assert losses[-1] < losses[0] == losses[1]
    before = arrays(model, nnx.Param), nnx.as_pure(optimizer.opt_state).mu
    before = jax.tree.map(jnp.copy, before)
    train(model, optimizer, X * np.nan)
    state = nnx.as_pure(optimizer.opt_state)
    trees.assert_same_bits((arrays(model, nnx.Param), state.mu), before)
    stats = optadamw.stats_of(state)
    assert (int(stats.step), int(stats.nonfinite)) == (4, 1)
    assert int(optimizer.step[...]) == 9
    # Two windows grow the scale, twice; the bad batch halves it.
    assert float(stats.loss_scale) == 256.0 * 2 * 2 / 2


def test_nnx_evaluates_the_average():
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, optadamw.adamw(0.1, ema_decay=0.5), wrt=nnx.Param)
    nnx_train(model, optimizer, X)
    average = optadamw.ema_of(nnx.as_pure(optimizer.opt_state))
    averaged = nnx.clone(model)
    nnx.update(averaged, average)
    assert float(loss_of(averaged)) != float(loss_of(model))
    trees.assert_same_bits(arrays(averaged, nnx.Param), average)


def _metadata(node: Any) -> dict[Any, Any]:
    flat = nnx.to_flat_state(nnx.state(node))
    return {path: (type(leaf), leaf.get_metadata()) for path, leaf in flat}


def _specs(state: Any) -> list[Any]:
    specs = nnx.get_partition_spec(state)
    is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)  # noqa: E731
    return jax.tree.leaves(specs, is_leaf=is_spec)


def _shardings(node: Any) -> Any:
    """Return the sharding of each variable of a node."""
    flat = nnx.to_flat_state(nnx.state(node))
    return {path: getattr(leaf[...], "sharding", None) for path, leaf in flat}
