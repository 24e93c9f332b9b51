"""Loops of Flax and Equinox that step in place, as their users write them."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import trees
from tests.support.compilations import Compilations
from tests.support.transformations import NUMBERS, SCHEDULES

pytest.importorskip("flax")
pytest.importorskip("equinox")

import equinox as eqx
import orbax.checkpoint as ocp
from flax import core, linen, nnx, serialization
from flax.training import train_state

from optadamw.integrations import equinox as ours
from optadamw.integrations.flax_linen import TrainState
from optadamw.integrations.flax_nnx import Optimizer

# Two norms of one gradient take a temporary of the leaves' size: docs/design.md.
IN_PLACE = tuple(name for name in NUMBERS if name not in ("clip_value", "clip_norm"))
OPTIONS = {
    "plain": {"learning_rate": 0.1},
    "numbers": {name: NUMBERS[name] for name in IN_PLACE} | {"amsgrad": True},
    "schedules": {name: SCHEDULES[name] for name in IN_PLACE} | {"nesterov": True},
    "accumulated": {"learning_rate": 0.1, "accumulate_steps": 2, "ema_decay": 0.9},
    "guarded": {"learning_rate": 0.1, "skip_nonfinite": True, "clip_global_norm": 0.5},
    "all": {
        "learning_rate": 0.1,
        "accumulate_steps": 2,
        "skip_nonfinite": True,
        "loss_scale": 1024.0,
        "stats": True,
        "clip_global_norm": 0.5,
        "ema_decay": 0.9,
        "amsgrad": True,
    },
}
each_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)

ACCUMULATING = functools.partial(optadamw.adamw, 0.1, accumulate_steps=3)

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)
SIZE = 512
SQUARE = 4 * SIZE * SIZE
"""Bytes of one of the two kernels whose updates are looked at in memory."""


def foreign() -> optax.GradientTransformation:
    """A transformation of Optax that this library does not know."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1))


def recorder(seen: list[dict[str, Any]]) -> optax.GradientTransformation:
    """A transformation that keeps what extra arguments it was given."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        seen.append(extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


@functools.partial(jax.jit, static_argnums=0)
def plain_step(tx: Any, grads: Any, state: Any, params: Any, **extra: Any) -> Any:
    """What every integration must compute."""
    return optadamw.step(tx, grads, state, params, **extra)


def assert_in_place(compiled: Any, donated: Any, spare: int = 0) -> None:
    """Assert that a program writes into what it was donated.

    It needs nothing else but `spare` bytes: a flush selects what had gradients.
    """
    while not hasattr(compiled, "memory_analysis"):
        compiled = compiled.compiled
    memory = compiled.memory_analysis()
    sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(donated)]
    assert memory.temp_size_in_bytes < 0.01 * 2 * SQUARE + spare
    # Of the counters that a flush leaves alone one may be copied.
    assert 0 <= sum(sizes) - memory.alias_size_in_bytes <= (8 if spare else 0)


# --- Flax NNX ------------------------------------------------------------------------


class Model(nnx.Module):
    """Two layers, with sharding metadata on the first kernel."""

    def __init__(self, rngs: nnx.Rngs, width: int = 4, dtype: Any = None) -> None:
        names = nnx.with_partitioning(
            nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=False
        )
        dtype = dtype or jnp.float32
        self.first = nnx.Linear(
            3, width, kernel_init=names, param_dtype=dtype, rngs=rngs
        )
        self.second = nnx.Linear(width, 1, param_dtype=dtype, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: Any) -> Any:
        self.calls[...] += 1
        return self.second(nnx.relu(self.first(x)))


class Square(nnx.Module):
    """Two kernels that a temporary of their size could not hide beside."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        for name in ("one", "two"):
            linear = nnx.Linear(SIZE, SIZE, use_bias=False, rngs=rngs)
            setattr(self, name, linear)


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
    """As `nnx.vmap` makes them: each as if it were alone."""

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


def test_nnx_refuses_the_arguments_swapped():
    model = Model(nnx.Rngs(0))
    optimizer = Optimizer(model, optadamw.adamw(0.1), wrt=nnx.Param)
    grads = nnx.grad(loss_of)(model)
    with pytest.raises(TypeError, match=r"got a State, with Model as `grads`.*update"):
        optimizer.update(grads, model)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        optimizer.update(grads)
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
    """What `nnx.state` of a node is spread over."""
    flat = nnx.to_flat_state(nnx.state(node))
    return {path: getattr(leaf[...], "sharding", None) for path, leaf in flat}


# --- Flax linen ----------------------------------------------------------------------


class Dense(linen.Module):
    """Two layers with kernels and biases."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(1)(linen.relu(linen.Dense(4)(x)))


class WithBatches(TrainState):
    """What users derive."""

    batches: Any = 0


class WithLoss(TrainState):
    """A field with the name of an argument of the transformation."""

    loss: Any = 0.0


def linen_state(tx: Any, kind: Any = TrainState, **fields: Any) -> Any:
    model = Dense()
    params = model.init(jax.random.key(0), X)["params"]
    return kind.create(apply_fn=model.apply, params=params, tx=tx, **fields)


@functools.partial(jax.jit, donate_argnums=0)
def linen_train(state: Any, x: Any) -> Any:
    """The loop as it is written."""

    def loss(params: Any) -> Any:
        return jnp.mean(state.apply_fn({"params": params}, x) ** 2)

    loss, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads, loss=loss, weight=len(x)), loss


@each_options
def test_linen_takes_the_plain_step(options):
    tx = optadamw.adamw(**options)
    state = linen_state(tx)
    params, kept = state.params, state.opt_state
    take = jax.jit(lambda state, grads: state.apply_gradients(grads=grads))
    for number in range(4):
        grads = jax.tree.map(lambda p, n=number: p + 0.1 * n, params)
        state = take(state, grads)
        params, kept = plain_step(tx, grads, kept, params)
        trees.assert_same_bits((state.params, state.opt_state), (params, kept))
        assert int(state.step) == number + 1


def test_linen_trains_in_place_of_its_own_state():
    losses = {}
    for kind in (train_state.TrainState, TrainState):
        state = linen_state(optadamw.adamw(**OPTIONS["numbers"]), kind)
        assert isinstance(state, train_state.TrainState) and type(state) is kind
        step = linen_train if kind is TrainState else _linen_train_of_flax
        losses[kind] = []
        for _ in range(5):
            state, loss = step(state, X)
            losses[kind].append(float(loss))
    one, other = losses.values()
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert one[-1] < one[0]


@jax.jit
def _linen_train_of_flax(state: Any, x: Any) -> Any:
    def loss(params: Any) -> Any:
        return jnp.mean(state.apply_fn({"params": params}, x) ** 2)

    loss, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), loss


@each_options
def test_linen_updates_in_place(options):
    params = {name: jnp.ones((SIZE, SIZE)) for name in ("one", "two")}
    tx = optadamw.adamw(**options)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.replace(step=jnp.int32(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, grads: Any) -> Any:
        return state.apply_gradients(grads=grads), jnp.float32(0.0)

    assert_in_place(update.lower(state, params).compile(), state)


def test_linen_counts_calls_and_the_optimizer_its_steps():
    state = linen_state(ACCUMULATING())
    assert state.step == 0 and isinstance(state.step, int)
    for _ in range(7):
        state, _ = linen_train(state, X)
    assert int(state.step) == 7
    assert int(state.opt_state.step) == 2
    assert int(state.opt_state.micro_step) == 1


def test_linen_flushes_a_partial_window():
    tx = ACCUMULATING()
    state = linen_state(tx)
    for _ in range(4):
        state, _ = linen_train(state, X)
    expected = tx.flush(state.opt_state, state.params)
    flushed = state.flush()
    trees.assert_same_bits((flushed.params, flushed.opt_state), expected)
    assert int(flushed.opt_state.step) == 2 and int(flushed.step) == 4


def test_linen_passes_the_loss_and_the_weight_and_replaces_fields():
    seen: list[dict[str, Any]] = []
    state = linen_state(recorder(seen), WithBatches, batches=5)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    after = state.apply_gradients(grads=zeros, loss=2.0, weight=3.0, batches=6)
    assert (after.batches, after.step) == (6, 1)
    assert state.apply_gradients(grads=zeros).batches == 5
    assert seen == [{"loss": 2.0, "weight": 3.0}, {}]


def test_linen_refuses_a_keyword_that_would_be_lost():
    state = linen_state(optadamw.adamw(0.1), WithLoss)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    assert state.apply_gradients(grads=zeros).loss == 0.0
    with pytest.raises(TypeError, match=r"WithLoss has a field of that name.*Rename"):
        state.apply_gradients(grads=zeros, loss=1.0)
    with pytest.raises(TypeError, match="wieght"):
        state.apply_gradients(grads=zeros, wieght=1.0)
    zeros["Dense_0"]["bias"] = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"Dense_0/bias.*shape \(3,\)"):
        state.apply_gradients(grads=zeros)


def test_linen_takes_any_transformation_of_optax():
    states = []
    for kind in (train_state.TrainState, TrainState):
        state = linen_state(foreign(), kind)
        for _ in range(3):
            grads = jax.tree.map(lambda p: p + 0.25, state.params)
            state = state.apply_gradients(grads=grads)
        states.append((state.params, state.opt_state))
    trees.assert_same_bits(states[1], states[0])


def test_linen_overwrites_what_fp8_layers_keep_in_their_gradients():
    name = "_overwrite_with_gradient"
    params = {"params": {"kernel": jnp.ones(3)}, name: {"scale": jnp.ones(2)}}
    grads = {"params": {"kernel": jnp.ones(3)}, name: {"scale": jnp.full(2, 7.0)}}
    after = []
    for kind in (train_state.TrainState, TrainState):
        tx = optadamw.adamw(0.5, weight_decay=0.1)
        state = kind.create(apply_fn=None, params=params, tx=tx)
        state = state.apply_gradients(grads=grads)
        after.append((state.params, state.opt_state))
    assert trees.largest_difference(after[1], after[0]) <= 1e-6
    assert after[1][0][name]["scale"].tolist() == [7.0, 7.0]
    tx = ACCUMULATING()
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.apply_gradients(grads=grads).flush()
    assert state.params[name]["scale"].tolist() == [7.0, 7.0]
    assert state.params["params"]["kernel"][0] < 1.0


def test_linen_trains_frozen_dicts_and_bfloat16():
    params = core.freeze({"kernel": jnp.ones((2, 3), jnp.bfloat16)})
    tx = optadamw.adamw(1e-2)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    grads = jax.tree.map(jnp.ones_like, params)
    after = state.apply_gradients(grads=grads)
    expected = tx.step(grads, tx.init(params), params)
    trees.assert_same_bits((after.params, after.opt_state), expected)
    assert isinstance(after.params, core.FrozenDict)
    assert after.opt_state.mu["kernel"].dtype == jnp.float32


def test_linen_continues_from_what_flax_serialized():
    tx = optadamw.adamw(**OPTIONS["all"])
    state = linen_state(tx)
    for _ in range(3):  # in the middle of a window
        state, _ = linen_train(state, X)
    data = serialization.to_bytes(state)
    again = serialization.from_bytes(linen_state(tx), data)
    assert type(again) is TrainState
    for _ in range(2):
        (state, _), (again, _) = linen_train(state, X), linen_train(again, X)
    trees.assert_same_bits(_of(again), _of(state))


def _of(state: Any) -> Any:
    return state.params, state.opt_state


# --- Equinox -------------------------------------------------------------------------


class Net(eqx.Module):
    """A model with every kind of leaf: trained, counted, named and static."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    table: jax.Array
    slope: float
    activation: Any
    width: int = eqx.field(static=True)

    def __init__(self, key: Any, dtype: Any = None) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(3, 4, dtype=dtype, key=one)
        self.second = eqx.nn.Linear(4, 1, dtype=dtype, key=two)
        self.table = jnp.arange(3)
        self.slope, self.activation, self.width = 0.5, jax.nn.relu, 4

    def __call__(self, x: Any) -> Any:
        return self.second(self.activation(self.first(x)) * self.slope)


def eqx_loss(model: Any, x: Any) -> Any:
    return jnp.mean(jax.vmap(model)(x) ** 2)


def eqx_train(tx: Any) -> Any:
    """The loop as it is written."""

    @eqx.filter_jit(donate="all-except-first")
    def train(x: Any, model: Any, state: Any) -> Any:
        loss, grads = eqx.filter_value_and_grad(eqx_loss)(model, x)
        extra = {"loss": loss, "weight": jnp.float32(len(x))}
        model, state = ours.step(tx, grads, state, model, **extra)
        return model, state, loss

    return train


def trained(model: Any) -> Any:
    return eqx.filter(model, eqx.is_inexact_array)


@each_options
def test_equinox_takes_the_plain_step(options):
    model, tx = Net(jax.random.key(0)), optadamw.adamw(**options)
    params, state = trained(model), ours.init(tx, model)
    kept = state
    take = eqx.filter_jit(ours.step)
    for number in range(4):
        grads = jax.tree.map(lambda p, n=number: p + 0.1 * n, params)
        model, state = take(tx, grads, state, model)
        params, kept = plain_step(tx, grads, kept, params)
        trees.assert_same_bits((trained(model), state), (params, kept))


def test_equinox_keeps_what_is_not_trained():
    before = Net(jax.random.key(0))
    tx = optadamw.adamw(0.1, mask="*/weight")
    model, state = before, ours.init(tx, before)
    for _ in range(3):
        grads = eqx.filter_grad(eqx_loss)(model, X)
        model, state = ours.step(tx, grads, state, model)
    assert model.table is before.table
    assert model.activation is before.activation
    assert (model.slope, model.width, type(model)) == (0.5, 4, Net)
    assert state.mu.table is None and state.mu.slope is None
    assert not np.array_equal(model.first.weight, before.first.weight)


def test_equinox_trains_in_a_donated_step():
    tx = optadamw.adamw(0.1, accumulate_steps=2)
    model = Net(jax.random.key(0))
    state, train, losses = ours.init(tx, model), eqx_train(tx), []
    for _ in range(8):
        model, state, loss = train(X, model, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] == losses[1]
    assert int(state.step) == 4


@each_options
def test_equinox_updates_in_place(options):
    layer = functools.partial(eqx.nn.Linear, SIZE, SIZE, use_bias=False)
    model = [layer(key=jax.random.key(0)), layer(key=jax.random.key(1)), jax.nn.relu]
    tx = optadamw.adamw(**options)
    state = ours.init(tx, model)

    @eqx.filter_jit(donate="all-except-first")
    def update(grads: Any, model: Any, state: Any) -> Any:
        model, state = ours.step(tx, grads, state, model)
        return model, state, jnp.float32(0.0)

    compiled = update.lower(trained(model), model, state).compile()
    assert_in_place(compiled, (trained(model), state))


def test_equinox_leaves_arrays_without_a_gradient_alone():
    model = Net(jax.random.key(0))
    tx = optadamw.adamw(0.1, weight_decay=0.5)
    grads = eqx.filter_grad(eqx_loss)(model, X)
    layer = grads.first
    grads = eqx.tree_at(lambda net: net.first, grads, jax.tree.map(_none, layer))
    after, _ = ours.step(tx, grads, ours.init(tx, model), model)
    trees.assert_same_bits(trained(after.first), trained(model.first))
    assert not np.array_equal(after.second.weight, model.second.weight)


def _none(_: Any) -> None:
    return None


def test_equinox_trains_bfloat16_with_a_float32_state():
    model = Net(jax.random.key(0), jnp.bfloat16)
    tx = optadamw.adamw(1e-2)
    grads = eqx.filter_grad(eqx_loss)(model, X.astype(jnp.bfloat16))
    state = ours.init(tx, model)
    expected = tx.step(grads, state, trained(model))
    after, state = ours.step(tx, grads, state, model)
    trees.assert_same_bits((trained(after), state), expected)
    assert after.first.weight.dtype == jnp.bfloat16
    assert state.mu.first.weight.dtype == jnp.float32


def test_equinox_takes_any_transformation_of_optax():
    tx = foreign()
    model = Net(jax.random.key(0))
    state = ours.init(tx, model)
    grads = eqx.filter_grad(eqx_loss)(model, X)
    updates, kept = tx.update(grads, state, trained(model))
    expected = eqx.apply_updates(model, updates)
    after, state = ours.step(tx, grads, state, model, loss=1.0)
    trees.assert_same_bits((trained(after), state), (trained(expected), kept))


def test_equinox_continues_from_what_it_serialized(tmp_path):
    tx = optadamw.adamw(**OPTIONS["all"])
    model = Net(jax.random.key(0))
    state, train = ours.init(tx, model), eqx_train(tx)
    for _ in range(3):  # in the middle of a window
        model, state, _ = train(X, model, state)
    eqx.tree_serialise_leaves(tmp_path / "run.eqx", (model, state))
    fresh = Net(jax.random.key(1))
    like = fresh, ours.init(tx, fresh)
    again = eqx.tree_deserialise_leaves(tmp_path / "run.eqx", like)
    for _ in range(2):
        model, state, _ = train(X, model, state)
        again = train(X, *again)[:2]
    trees.assert_same_bits((trained(again[0]), again[1]), (trained(model), state))


def test_equinox_flushes_a_partial_window():
    tx = ACCUMULATING()
    model = Net(jax.random.key(0))
    state, train = ours.init(tx, model), eqx_train(tx)
    for _ in range(4):
        model, state, _ = train(X, model, state)
    expected = tx.flush(state, trained(model))
    after, state = ours.flush(tx, state, model)
    trees.assert_same_bits((trained(after), state), expected)
    assert int(state.step) == 2 and after.activation is model.activation


# --- All -----------------------------------------------------------------------------


def test_the_check_of_memory_sees_copies():
    """In another order of the results jit pairs the buffers wrongly."""
    layer = eqx.nn.Linear(SIZE, SIZE, use_bias=False, key=jax.random.key(0))
    tx = optadamw.adamw(0.1)

    @eqx.filter_jit(donate="all-except-first")
    def update(grads: Any, state: Any, model: Any) -> Any:
        return ours.step(tx, grads, state, model)

    state = ours.init(tx, layer)
    compiled = update.lower(trained(layer), state, layer).compile()
    with pytest.raises(AssertionError, match="temp_size_in_bytes"):
        assert_in_place(compiled, (trained(layer), state))


def test_flushes_take_what_they_are_donated():
    tx = optadamw.adamw(**OPTIONS["all"])
    model = Square(nnx.Rngs(0))
    optimizer = Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def flush(model: Any, optimizer: Any) -> None:
        optimizer.flush(model)

    compiled = flush.lower(model, optimizer).compile()
    assert_in_place(compiled, nnx.state((model, optimizer)), spare=64 * SQUARE)

    params = {name: jnp.ones((SIZE, SIZE)) for name in ("one", "two")}
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.replace(step=jnp.int32(0))
    compiled = jax.jit(TrainState.flush, donate_argnums=0).lower(state).compile()
    assert_in_place(compiled, state, spare=64 * SQUARE)


@pytest.mark.parametrize("library", ["nnx", "linen", "equinox"])
def test_only_transformations_of_this_library_flush(library):
    tx = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    with pytest.raises(TypeError, match=r"`tx` must be .* flushed.*multi_steps"):
        if library == "nnx":
            model = Model(nnx.Rngs(0))
            Optimizer(model, tx, wrt=nnx.Param).flush(model)
        elif library == "linen":
            linen_state(tx).flush()
        else:
            net = Net(jax.random.key(0))
            ours.flush(tx, ours.init(tx, net), net)
