"""Saved states of other libraries, in and out, with arrays made here."""

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import interchange
from optadamw.interchange.powers import products, step_of
from tests.interchange import cases, eight_devices
from tests.support import lane, trees

each_peer = pytest.mark.parametrize("name", cases.PEERS)
TREES = cases.trees()
STATE_DICTS = ("torch", "optimi", "torchao", "bitsandbytes")
ORDERED = (*STATE_DICTS, "keras", "tensorflow", "tensorflow_addons")
NAMED = ("mlx", "optax", "flux")


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


# --- There and back ------------------------------------------------------------------


@each_peer
@pytest.mark.parametrize("kind", TREES)
def test_there_and_back(name, kind):
    params, tx = TREES[kind], cases.adamw()
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


# --- Which is which ------------------------------------------------------------------


def torch_state(params: Any, **options: Any) -> tuple[Any, Any, Any]:
    tx = cases.adamw(**options)
    params, state = cases.trained(tx, params, 2)
    return params, tx, state


PAIR = {"a": (2, 2), "b": (2, 2)}


def test_names_say_which_of_two_alike_is_which():
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    saved = interchange.to_torch(state, params, tx=tx, names=["b", "a"])
    np.testing.assert_array_equal(saved["state"][0]["exp_avg"], state.mu["b"])
    crossed = interchange.from_torch(saved, params, tx=tx)
    np.testing.assert_array_equal(crossed.mu["a"], state.mu["b"])
    for names in (["b", "a"], {"a": 1, "b": 0}, {"b": 0, "a": 1}):
        found = interchange.from_torch(saved, params, tx=tx, names=names)
        trees.assert_same_bits(found, state)
        again = interchange.to_torch(state, params, tx=tx, names=names)
        np.testing.assert_array_equal(again["state"][0]["exp_avg"], state.mu["b"])


def test_names_in_the_state_come_before_its_order():
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    saved = interchange.to_torch(state, params, tx=tx, names={"b": "b", "a": "a"})
    assert saved["param_groups"][0]["param_names"] == ["b", "a"]
    trees.assert_same_bits(interchange.from_torch(saved, params, tx=tx), state)
    prefixed = copy.deepcopy(saved)
    prefixed["param_groups"][0]["param_names"] = ["module.b", "module.a"]
    trees.assert_same_bits(interchange.from_torch(prefixed, params, tx=tx), state)
    other = copy.deepcopy(saved)
    other["param_groups"][0]["param_names"] = ["fc.weight", "head.weight"]
    with pytest.raises(ValueError, match="none is called 'a'; near it"):
        interchange.from_torch(other, params, tx=tx)
    names = {"a": "head.weight", "b": "fc.weight"}
    found = interchange.from_torch(other, params, tx=tx, names=names)
    trees.assert_same_bits(found, state)
    # A list has no names, so its order is meant.
    listed = interchange.from_torch(other, [params["b"], params["a"]])
    np.testing.assert_array_equal(listed.mu[0], state.mu["b"])


def test_states_by_name_as_torch_distributed_has_them():
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    saved = interchange.to_torch(state, params, tx=tx)
    saved["state"] = {"b": saved["state"][1], "a": saved["state"][0]}
    saved["param_groups"][0]["params"] = ["b", "a"]
    trees.assert_same_bits(interchange.from_torch(saved, params, tx=tx), state)


def test_keras_names_come_before_its_order():
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    store = interchange.to_keras(state, params, tx=tx, names=["b", "a"])
    named = ["iteration", "learning_rate"]
    named += [f"m_{p}_{k}" for p in "ba" for k in ("momentum", "velocity")]
    saved = {f"adam_w/{n}": x for n, x in zip(named, store.values(), strict=True)}
    trees.assert_same_bits(interchange.from_keras(saved, params, tx=tx), state)
    tf = ["iteration:0"] + [f"{k}/model/{p}:0" for p in "ba" for k in "mv"]
    values = interchange.to_tensorflow(state, params, tx=tx, names=["b", "a"])
    saved = dict(zip(tf, values, strict=True))
    trees.assert_same_bits(interchange.from_tensorflow(saved, params, tx=tx), state)


@pytest.mark.parametrize("name", NAMED)
def test_peers_with_names_match_by_them(name):
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    peer = cases.PEERS[name]
    saved = peer.to(state, params, tx=tx)
    if name != "optax":
        turned = dict(reversed(saved.items()))
        trees.assert_same_bits(peer.back(turned, params, tx=tx), state)
        names = {"a": "layers.0.w", "b": "layers.1.w"}
        saved = peer.to(state, params, tx=tx, names=names)
        assert isinstance(saved["layers"], list)
    else:
        names = {"a": "x", "b": "y"}
        renamed = {"x": params["a"], "y": params["b"]}
        saved = peer.to(
            optadamw.State(
                step=state.step,
                mu={"x": state.mu["a"], "y": state.mu["b"]},
                nu={"x": state.nu["a"], "y": state.nu["b"]},
            ),
            renamed,
            tx=tx,
        )
    trees.assert_same_bits(peer.back(saved, params, tx=tx, names=names), state)
    with pytest.raises(ValueError, match="none is called 'a'"):
        peer.back(saved, params, tx=tx)


def test_layout_turns_arrays_both_ways():
    params, tx, state = torch_state(cases.tree())

    def layout(path: str, x: Any) -> Any:
        return x.T if path.endswith("kernel") else x

    saved = interchange.to_torch(state, params, tx=tx, layout=layout)
    assert saved["state"][1]["exp_avg"].shape == (3, 4)
    with pytest.raises(ValueError, match=r"Leaf 'dense/kernel'.*transposed there"):
        interchange.from_torch(saved, params, tx=tx)
    found = interchange.from_torch(saved, params, tx=tx, layout=layout)
    trees.assert_same_bits(found, state)


def test_parameters_without_a_state():
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    saved = interchange.to_torch(state, params, tx=tx, names=["a", None, "b"])
    assert list(saved["state"]) == [0, 2]
    assert saved["param_groups"][0]["params"] == [0, 1, 2]
    more = params | {"c": jnp.zeros(3)}
    names = ["a", "c", "b"]
    with pytest.raises(ValueError, match=r"Leaf 'c': parameter 1 .* no state"):
        interchange.from_torch(saved, more, names=names)
    found = interchange.from_torch(saved, more, names=names, missing="zeros")
    np.testing.assert_array_equal(found.mu["c"], np.zeros(3))
    np.testing.assert_array_equal(found.mu["b"], state.mu["b"])
    # One that has no state may be left over, one that has may not.
    found = interchange.from_torch(saved, params, names={"a": 0, "b": 2})
    trees.assert_same_bits(found.mu, state.mu)
    with pytest.raises(ValueError, match="parameter 0, which has no counterpart"):
        interchange.from_torch(saved, {"b": params["b"]}, names={"b": 2})
    found = interchange.from_torch(saved, {"b": params["b"]}, names=[None, None, "b"])
    np.testing.assert_array_equal(found.mu["b"], state.mu["b"])


@pytest.mark.parametrize("name", STATE_DICTS)
@pytest.mark.parametrize("amsgrad", [None, "raw"])
def test_an_optimizer_that_took_no_step(name, amsgrad):
    """It has no state for any parameter: it starts at zero, as here."""
    peer = cases.PEERS[name]
    if amsgrad and peer.maximum is None:
        return
    tx, params = cases.adamw(amsgrad=amsgrad), cases.tree()
    saved = {**peer.to(tx.init(params), params, tx=tx), "state": {}}
    trees.assert_same_bits(peer.back(saved, params, tx=tx), tx.init(params))
    assert int(peer.back(saved, params).step) == 0
    trees.assert_same_bits(peer.back(saved, params).nu, tx.init(params).nu)
    other = cases.adamw(amsgrad=None if amsgrad else "raw")
    if peer.maximum is not None:
        refused(ValueError, "option `amsgrad`", peer.back, saved, params, tx=other)


BAD_NAMES = {
    "a string": ("a", TypeError, "`names` must be"),
    "a number": (3, TypeError, "`names` must be"),
    "too few": (["a"], ValueError, "`names` lists 1 parameters and the saved"),
    "unknown": (["a", "x"], ValueError, "`params` has no such leaf"),
    "twice": (["a", "a"], ValueError, "lists 'a' twice"),
    "beyond": ({"a": 0, "b": 2}, ValueError, "an index below 2"),
    "the same": ({"a": 0, "b": 0}, ValueError, "gives parameter 0 to 'a' and 'b'"),
    "no such name": ({"a": "w", "b": 1}, ValueError, "no parameter of that name"),
    "not a name": ({"a": 1.5, "b": 1}, TypeError, r"names\['a'\]"),
    "one missing": ({"a": 0}, ValueError, "no counterpart of 'b'"),
}


@pytest.mark.parametrize(("names", "kind", "text"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_names_that_do_not_fit(names, kind, text):
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    saved = interchange.to_torch(state, params, tx=tx)
    with pytest.raises(kind, match=text):
        interchange.from_torch(saved, params, names=names)


BAD_ORDERS = {
    "a string": ("ab", TypeError, "`names` must be"),
    "one missing": (["a"], ValueError, "'b' is missing"),
    "twice": (["a", "b", "a"], ValueError, "one is there twice"),
    "unknown": (["a", "c"], ValueError, "no such leaf"),
    "gaps": ({"a": 0, "b": 2}, ValueError, "the indices 0 to 1"),
    "one name": ({"a": "w", "b": "w"}, ValueError, "different names"),
    "mixed": ({"a": 0, "b": "w"}, TypeError, "names only, or to indices only"),
}


@pytest.mark.parametrize(("names", "kind", "text"), BAD_ORDERS.values(), ids=BAD_ORDERS)
def test_orders_that_do_not_fit(names, kind, text):
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    with pytest.raises(kind, match=text):
        interchange.to_torch(state, params, tx=tx, names=names)
    with pytest.raises(ValueError, match="without None"):
        interchange.to_keras(state, params, tx=tx, names=["a", None, "b"])


def test_names_that_may_be_several():
    params = {"a_b": jnp.zeros(2), "a": {"b": jnp.zeros(2)}}
    saved = interchange.to_torch(
        cases.adamw().init(params), params, tx=cases.adamw(), names=["a_b", "a/b"]
    )
    saved["param_groups"][0]["param_names"] = ["a.b", "a_b"]
    with pytest.raises(ValueError, match="Several of `params` are called 'a_b'"):
        interchange.from_torch(saved, params)
    params = {"b": jnp.zeros(2), "c": jnp.zeros(2)}
    saved["param_groups"][0]["param_names"] = ["x.b", "y.b"]
    with pytest.raises(ValueError, match=r"'b' may be any of 'x\.b', 'y\.b'"):
        interchange.from_torch(saved, params)


# --- What is refused -----------------------------------------------------------------


def refused(kind: Any, text: str, call: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(kind, match=text):
        call(*args, **options)


def saved_by(name: str, **options: Any) -> tuple[Any, Any, Any]:
    params, tx, state = torch_state(cases.tree(), **options)
    return cases.PEERS[name].to(state, params, tx=tx), params, tx


@each_peer
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", ["first", "last"])
def test_numbers_that_are_not_finite(name, value, at):
    """Also in the last array of all: nothing is half loaded, as nothing is returned."""
    saved, params, tx = saved_by(name)
    arrays = [x for x in jax.tree.leaves(saved) if np.size(x) > 1]
    if name == "optax":
        mu = dict(saved[0].mu)
        mu["out"] = mu["out"] | {"kernel": mu["out"]["kernel"].at[0].set(value)}
        saved = (saved[0]._replace(mu=mu), *saved[1:])
    else:
        arrays[0 if at == "first" else -1][...] = value
    refused(
        ValueError,
        r"Leaf '(dense|out)/.*NaN or infinite",
        cases.PEERS[name].back,
        saved,
        params,
        tx=tx,
    )


@each_peer
def test_a_second_moment_below_zero(name):
    saved, params, tx = saved_by(name)
    if name == "optax":
        saved = (saved[0]._replace(nu=jax.tree.map(jnp.negative, saved[0].nu)),)
    else:
        for array in jax.tree.leaves(saved):
            if np.size(array) > 1:
                array[...] = -1
    refused(ValueError, "mean of squares", cases.PEERS[name].back, saved, params, tx=tx)


@each_peer
def test_other_shapes_and_counts(name):
    saved, params, tx = saved_by(name)
    back = cases.PEERS[name].back
    other = dict(params, scale=jnp.zeros(2))
    refused(ValueError, "Leaf 'scale': .* shape", back, saved, other, tx=tx)
    more = dict(params, zulu=jnp.zeros(2))
    refused(ValueError, "zulu|parameters|variables|arrays", back, saved, more, tx=tx)
    fewer = {key: x for key, x in params.items() if key != "void"}
    refused(ValueError, "void|parameters|variables|arrays", back, saved, fewer, tx=tx)


@each_peer
def test_another_kind_of_thing(name):
    back, params = cases.PEERS[name].back, [jnp.zeros(2)]
    for wrong in (None, 3, "opt.pt", [], {}, {"state": 1}, [1.0, 2.0], object()):
        refused((ValueError, TypeError), "saved|state|arrays", back, wrong, params)


@each_peer
def test_the_state_of_another_library(name):
    """Each is refused by every other, or read as what it is."""
    for other in cases.PEERS:
        saved, params, _ = saved_by(other)
        alike = {frozenset(("torch", "torchao")), frozenset(("keras", "tensorflow"))}
        if name != other and frozenset((name, other)) not in alike:
            refused((ValueError, TypeError), ".", cases.PEERS[name].back, saved, params)


@each_peer
def test_parameters_that_are_none(name):
    saved, _, tx = saved_by(name)
    back = cases.PEERS[name].back
    refused(ValueError, "It has no leaf", back, saved, {}, tx=tx)
    refused(TypeError, "must be an array of numbers", back, saved, {"a": "b"}, tx=tx)
    refused(TypeError, "floating", back, saved, {"a": jnp.zeros(2, int)}, tx=tx)


@each_peer
def test_arguments_of_another_kind(name):
    saved, params, tx = saved_by(name)
    back, to = cases.PEERS[name].back, cases.PEERS[name].to
    state = tx.init(params)
    refused(TypeError, "`tx` must be", back, saved, params, tx=optax.adamw(1.0))
    refused(TypeError, "`layout` must be", back, saved, params, layout="T")
    refused(ValueError, "`missing` must be", back, saved, params, missing="zero")
    refused(TypeError, "`drop` must be", back, saved, params, drop="ema")
    refused(ValueError, "`drop` must be", back, saved, params, drop=("emma",))
    refused(ValueError, "`afresh` must be", back, saved, params, afresh=("step",))
    refused(TypeError, "`tx` must be", to, state, params, tx=3)
    refused(TypeError, "`layout` must be", to, state, params, tx=tx, layout=3)
    refused(ValueError, "`drop` must be", to, state, params, tx=tx, drop=("step",))
    refused(ValueError, "`state` must be", to, {"mu": 1}, params, tx=tx)
    refused(ValueError, "structure", to, state, {"x": jnp.zeros(2)}, tx=tx)


def test_steps_that_differ():
    saved, params, tx = saved_by("torch")
    saved["state"][1]["step"] = np.float32(5)
    refused(
        ValueError,
        r"different numbers of steps .*2: parameter 0, parameter 2, parameter 3 and 2 "
        r"more; 5: parameter 1\)",
        interchange.from_torch,
        saved,
        params,
        tx=tx,
    )


@pytest.mark.parametrize("step", [-1, 2.5, 2.0**31, math.nan, "x", None])
def test_steps_that_are_none(step):
    saved, params, _ = saved_by("torch")
    for entries in saved["state"].values():
        entries["step"] = step
    refused((ValueError, TypeError), "step", interchange.from_torch, saved, params)


@pytest.mark.parametrize("step", [7, 7.0, np.int64(7), np.float32(7), np.array([7])])
def test_steps_of_every_kind(step):
    saved, params, _ = saved_by("torch")
    for entries in saved["state"].values():
        entries["step"] = step
    assert int(interchange.from_torch(saved, params).step) == 7


def test_a_step_beyond_what_pytorch_counts():
    params, tx, state = torch_state(cases.tree())
    state = state._replace(step=jnp.int32(2**24 + 1))
    refused(ValueError, "16,777,217 steps", interchange.to_torch, state, params, tx=tx)


WRONG_ENTRIES = {
    "SGD": ("momentum_buffer", "SGD or Muon"),
    "Adamax": ("exp_inf", "Adamax"),
    "NAdam": ("mu_product", "NAdam"),
    "optimi": ("kahan_comp", "from_optimi"),
    "bitsandbytes": ("state1", "from_bitsandbytes"),
    "something": ("surprise", "it has 'surprise'"),
}


@pytest.mark.parametrize(("key", "text"), WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
def test_states_of_other_optimizers(key, text):
    saved, params, _ = saved_by("torch")
    saved["state"][0][key] = np.zeros(3)
    refused(ValueError, text, interchange.from_torch, saved, params)
    del saved["state"][0][key]
    del saved["state"][0]["exp_avg_sq"]
    refused(ValueError, "lacks 'exp_avg_sq'", interchange.from_torch, saved, params)


def test_state_dicts_that_contradict_themselves():
    saved, params, _ = saved_by("torch")
    group = saved["param_groups"][0]
    for change, text in (
        ({"params": [0, 1, 2, 3, 4, 4]}, "twice in the groups"),
        ({"params": [0, 1, 2, 3]}, "is in none of its groups"),
        ({"params": "abc"}, "must be a list"),
        ({"param_names": ["a"]}, "'param_names'"),
    ):
        broken = {**saved, "param_groups": [{**group, **change}]}
        refused((ValueError, TypeError), text, interchange.from_torch, broken, params)
    broken = {**saved, "state": {**saved["state"], 0: 3}}
    refused(TypeError, r"\['state'\]\[0\]", interchange.from_torch, broken, params)


def test_integer_arrays_and_texts():
    saved, params, _ = saved_by("torch")
    for value, text in (
        (np.zeros(3, int), "must be floating; got int64"),
        (np.array(["a"] * 3), "array of numbers"),
        (None, "lacks 'exp_avg'"),
        ([1.0, [2.0]], "array of numbers"),
        (object(), "array of numbers"),
        (np.zeros(3, complex), "complex128, the parameter float32. Both must"),
    ):
        broken = copy.deepcopy(saved)
        broken["state"][0]["exp_avg"] = value
        refused((TypeError, ValueError), text, interchange.from_torch, broken, params)


def test_lists_of_numbers_are_arrays():
    saved, params, tx = saved_by("torch")
    for entries in saved["state"].values():
        for key, value in entries.items():
            entries[key] = np.asarray(value).tolist() if np.size(value) else value
    state = cases.trained(tx, cases.tree(), 2)[1]
    trees.assert_same_bits(interchange.from_torch(saved, params, tx=tx), state)


def test_a_layout_that_makes_no_array():
    saved, params, _ = saved_by("torch")
    state = interchange.from_torch(saved, params)
    refused(
        TypeError,
        "Leaf 'dense/bias': `layout` returned None for it",
        interchange.from_torch,
        saved,
        params,
        layout=lambda path, x: None,
    )
    refused(
        TypeError,
        "`layout` returned None",
        interchange.to_flux,
        state,
        params,
        betas=(0.5, 0.5),
        layout=lambda path, x: None,
    )
    refused(
        ValueError,
        r"has shape \(3,\) \(\(1, 3\) by `layout`\)",
        interchange.from_torch,
        saved,
        params,
        layout=lambda path, x: x[None],
    )


def test_traced_parameters():
    saved, params, tx = saved_by("torch")
    with pytest.raises(TypeError, match="Convert outside of jit"):
        jax.jit(lambda p: interchange.from_torch(saved, p, tx=tx))(params)


# --- What has to agree ---------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, p in cases.PEERS.items() if p.maximum])
def test_maxima_of_the_other_kind(name):
    peer = cases.PEERS[name]
    other = "corrected" if peer.maximum == "raw" else "raw"
    params, tx, state = torch_state(cases.tree(), amsgrad=other)
    refused(ValueError, r"max\(v_t\), does not tell", peer.to, state, params, tx=tx)
    refused(ValueError, "is not known", peer.to, state, params)
    refused(ValueError, "does not tell", peer.to, state, params, amsgrad=other)
    saved, params, right = saved_by(name, amsgrad=peer.maximum)
    refused(ValueError, "does not tell", peer.back, saved, params, tx=tx)
    state = peer.back(saved, params, tx=tx, afresh=("nu_max",))
    assert not np.any(np.asarray(state.nu_max["dense"]["kernel"]))
    plain = cases.adamw()
    refused(
        ValueError,
        "differ in the option `amsgrad`|none of amsgrad|no place|`saved`|2. with|would",
        peer.back,
        saved,
        params,
        tx=plain,
    )
    if name not in ("keras", "tensorflow"):
        state = peer.back(saved, params, tx=plain, drop=("nu_max",))
        assert state.nu_max is None
    assert peer.back(saved, params, tx=right).nu_max is not None
    lacking, params, _ = saved_by(name)
    refused(
        ValueError,
        "amsgrad",
        peer.back,
        lacking,
        params,
        tx=right,
    )


def test_optax_without_a_transformation_asks_what_is_meant():
    saved, params, _ = saved_by("optax", amsgrad="corrected")
    refused(ValueError, "PyTorch, Keras", interchange.from_optax, saved, params)
    refused(ValueError, "PyTorch", interchange.from_optax, saved, params, amsgrad="raw")
    refused(
        ValueError, "`amsgrad` must", interchange.from_optax, saved, params, amsgrad=1
    )
    state = interchange.from_optax(saved, params, amsgrad="corrected")
    assert state.nu_max is not None
    assert interchange.from_optax(saved, params, drop=("nu_max",)).nu_max is None


def test_the_sign_under_maximize():
    saved, params, tx = saved_by("torch", maximize=True)
    assert saved["param_groups"][0]["maximize"] is True
    assert int(interchange.from_torch(saved, params, tx=tx).step) == 2
    plain = cases.adamw()
    refused(
        ValueError, "with maximize", interchange.from_torch, saved, params, tx=plain
    )
    there, _, _ = saved_by("torch")
    refused(
        ValueError, "without maximize", interchange.from_torch, there, params, tx=tx
    )
    state = interchange.from_torch(saved, params, tx=tx)
    for name in cases.PEERS:
        if name != "torch":
            refused(ValueError, "maximizes", cases.PEERS[name].to, state, params, tx=tx)


@pytest.mark.parametrize("name", ["torch", "timm"])
def test_groups_of_which_some_maximize(name):
    to = getattr(interchange, f"to_{name}")
    up = cases.adamw(maximize=True)
    tx = optadamw.param_groups(cases.adamw(), {"scale": up, "dense/*": up})
    params, state = cases.trained(tx, cases.tree(), 2)
    saved = to(state, params, tx=tx)
    assert [g["maximize"] for g in saved["param_groups"]] == [True, False]
    names = ["dense/bias", "dense/kernel", "scale", "out/bias", "out/kernel", "void"]
    found = interchange.from_torch(saved, params, tx=tx, names=names)
    trees.assert_same_bits(found, state)
    trees.assert_same_bits(
        interchange.from_torch(saved, params, names=names).mu, state.mu
    )
    for other, text in (
        (cases.adamw(), "Leaf 'dense/bias': it was saved with maximize"),
        (cases.adamw(maximize=True), "Leaf 'out/bias': it was saved without maximize"),
    ):
        refused(
            ValueError,
            text,
            interchange.from_torch,
            saved,
            params,
            tx=other,
            names=names,
        )
    refused(ValueError, "maximizes", interchange.to_keras, state, params, tx=tx)


def test_adam_with_l2_is_another_optimizer():
    saved, params, tx = saved_by("torch")
    group = saved["param_groups"][0]
    group["decoupled_weight_decay"] = False
    refused(
        ValueError, "It is Adam with L2", interchange.from_torch, saved, params, tx=tx
    )
    refused(ValueError, "moments", interchange.from_torch, saved, params)
    group["weight_decay"] = 0.0
    assert int(interchange.from_torch(saved, params, tx=tx).step) == 2


def test_where_an_error_is_has_no_quotes_in_quotes():
    saved, params, _ = saved_by("torch")
    saved["state"][0]["exp_avg"] = np.zeros(3, int)
    text = "^Leaf 'dense/bias: exp_avg of parameter 0': it must be floating"
    refused(TypeError, text, interchange.from_torch, saved, params)
    saved["state"][0]["step"] = 0.5
    text = "^Leaf 'step of parameter 0': it must be whole"
    refused(ValueError, text, interchange.from_torch, saved, params)


def test_tensors_without_numbers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    saved, params, _ = saved_by("torch")
    where = "Leaf 'dense/bias: exp_avg of parameter 0'"
    for tensor, text in (
        (torch.zeros(3, device="meta"), "it is a meta tensor"),
        (torch.zeros(3).to_sparse(), "it is a torch.sparse_coo tensor"),
    ):
        saved["state"][0]["exp_avg"] = tensor
        refused(
            (TypeError, ValueError),
            f"{where}: {text}",
            interchange.from_torch,
            saved,
            params,
        )


@each_peer
def test_an_average_that_would_be_lost(name):
    peer = cases.PEERS[name]
    params, tx, state = torch_state(cases.tree(), ema_decay=0.5)
    if "ema" in peer.holds:
        peer.to(state, params, tx=tx)
        return
    refused(ValueError, "holds `ema`, for which", peer.to, state, params, tx=tx)
    saved = peer.to(state, params, tx=tx, drop=("ema",))
    refused(ValueError, "option `ema_decay`", peer.back, saved, params, tx=tx)
    found = peer.back(saved, params, tx=tx, afresh=("ema",))
    trees.assert_same_bits(found.ema, tx.init(params).ema)
    shapes = jax.eval_shape(lambda: params)
    refused(
        ValueError, "given as a shape", peer.back, saved, shapes, tx=tx, afresh=("ema",)
    )


def test_an_average_that_is_not_wanted():
    saved, params, _ = saved_by("keras", ema_decay=0.5)
    plain = cases.adamw()
    call = interchange.from_keras
    refused(ValueError, "the three options", call, saved, params, tx=plain)
    refused(ValueError, "`ema_decay`", call, saved, params, tx=plain, use_ema=True)
    found = call(saved, params, tx=plain, use_ema=True, drop=("ema",))
    assert found.ema is None


@each_peer
def test_an_open_window_that_would_be_lost(name):
    peer = cases.PEERS[name]
    tx = cases.adamw(accumulate_steps=3)
    params, state = cases.trained(tx, cases.tree(), 4)
    if name == "keras":
        return
    if name == "optax":
        into = cases.into()
        refused(ValueError, "`into` does not", peer.to, state, params, into=into)
    else:
        refused(ValueError, "an open window of 1", peer.to, state, params, tx=tx)
    saved = peer.to(state, params, tx=tx, drop=("accumulator",))
    found = peer.back(saved, params, tx=tx)
    assert int(found.micro_step) == 0 and int(found.step) == 1


def test_windows_that_differ():
    tx = cases.adamw(accumulate_steps=3)
    params, state = cases.trained(tx, cases.tree(), 5)
    saved = interchange.to_keras(state, params, tx=tx)
    call = interchange.from_keras
    every = {"gradient_accumulation_steps": 3}
    short, plain = cases.adamw(accumulate_steps=2), cases.adamw()
    refused(
        ValueError, "a window of `tx` holds 2", call, saved, params, tx=short, **every
    )
    refused(ValueError, "does not accumulate", call, saved, params, tx=plain, **every)
    sums = optadamw.multi_steps(cases.adamw(), 3, use_grad_mean=False)
    refused(ValueError, "`tx` sums them", call, saved, params, tx=sums, **every)
    found = call(saved, params, tx=plain, drop=("accumulator",), **every)
    assert found.accumulator is None and int(found.step) == 1
    found = call(saved, params, tx=short, drop=("accumulator",), **every)
    assert int(found.micro_step) == 0
    bare = call(saved, params, **every)
    assert int(bare.micro_step) == 2 and float(bare.weight) == 2
    refused(
        ValueError, "whole number", call, saved, params, gradient_accumulation_steps=0
    )
    refused(
        TypeError, "whole number", call, saved, params, gradient_accumulation_steps=2.5
    )
    refused(ValueError, "is not known", interchange.to_keras, state, params)
    scheduled = cases.adamw(accumulate_steps=lambda step: 3 + step)
    refused(
        ValueError, "changed their length", interchange.to_keras, state, params,
        tx=scheduled,
    )  # fmt: skip


def test_weighted_windows():
    tx = cases.adamw(accumulate_steps=3)
    params = cases.tree()
    _, state = tx.step(cases.gradients(params, 0), tx.init(params), params, weight=2.0)
    for call in (interchange.to_keras, interchange.to_optax):
        into = optax.MultiSteps(cases.into(), 3).gradient_transformation()
        options = {"into": into} if call is interchange.to_optax else {}
        refused(ValueError, "that weigh 2.0", call, state, params, tx=tx, **options)
        saved = call(state, params, tx=tx, drop=("accumulator",), **options)
        assert saved is not None


def test_loss_scales_that_differ():
    scale = optadamw.DynamicLossScale(initial=2.0**10)
    params, tx, state = torch_state(cases.tree(), loss_scale=scale)
    saved = interchange.to_keras(state, params, tx=tx)
    call = interchange.from_keras
    refused(ValueError, "option `loss_scale`", call, saved, params, tx=cases.adamw())
    static = cases.adamw(loss_scale=4.0)
    refused(ValueError, "option `loss_scale`", call, saved, params, tx=static)
    found = call(saved, params, tx=static, drop=("loss_scale",))
    assert float(found.loss_scale) == 4.0
    plain, params, _ = saved_by("keras")
    refused(ValueError, "does not hold one", call, plain, params, tx=tx)
    for bare in (plain, saved):
        found = call(bare, params, tx=tx, afresh=("loss_scale",))
        assert float(found.loss_scale) == 2.0**10
    narrow = optadamw.DynamicLossScale(initial=4.0, maximum=8.0)
    tight = cases.adamw(loss_scale=narrow)
    refused(ValueError, r"stays in \[", call, saved, params, tx=tight)
    refused(
        ValueError, "a dynamic loss scale", interchange.to_torch, state, params, tx=tx
    )
    saved = interchange.to_torch(state, params, tx=tx, drop=("loss_scale",))
    found = interchange.from_torch(saved, params, tx=tx)
    assert float(found.loss_scale) == 2.0**10


def test_moments_that_tx_does_not_keep():
    saved, params, _ = saved_by("torch")
    rate = optadamw.scale_by_learning_rate(1.0)
    refused(
        ValueError, "`scale_by_adam`", interchange.from_torch, saved, params, tx=rate
    )
    state = rate.init(params)
    refused(ValueError, "holds no `mu`", interchange.to_mlx, state, params, tx=rate)


def test_patterns_of_tx_are_checked_too():
    saved, params, _ = saved_by("torch")
    tx = cases.adamw(mask="*/weights")
    refused(ValueError, "mask", interchange.from_torch, saved, params, tx=tx)


def test_a_state_inside_another():
    params, tx = cases.tree(), cases.adamw()
    chained = optax.chain(tx, optax.identity())
    saved = interchange.to_torch(chained.init(params), params, tx=tx)
    assert float(saved["state"][0]["step"]) == 0
    both = (tx.init(params), tx.init(params))
    refused(ValueError, "It holds 2", interchange.to_torch, both, params, tx=tx)


# --- PyTorch's groups ----------------------------------------------------------------


def test_groups_follow_mask_and_schedule():
    params = cases.tree()
    tx = optadamw.adamw(lambda t: 1.0 / (1 + t), weight_decay=0.5, mask="*/kernel")
    params, state = cases.trained(tx, params, 3)
    saved = interchange.to_torch(state, params, tx=tx)
    first, second = saved["param_groups"]
    assert (first["weight_decay"], second["weight_decay"]) == (0.0, 0.5)
    assert first["lr"] == second["lr"] == 0.25
    assert first["params"] == [0, 1, 2, 3] and second["params"] == [4, 5]
    names = ["dense/bias", "out/bias", "scale", "void", "dense/kernel", "out/kernel"]
    found = interchange.from_torch(saved, params, tx=tx, names=names)
    trees.assert_same_bits(found, state)


def test_groups_as_the_caller_has_them():
    params, _, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    groups = [{"lr": 1.0, "params": ["b"]}, {"lr": 2.0, "params": ["a"]}]
    saved = interchange.to_torch(state, params, groups=groups)
    assert saved["param_groups"] == [
        {"lr": 1.0, "params": [0]},
        {"lr": 2.0, "params": [1]},
    ]
    np.testing.assert_array_equal(saved["state"][0]["exp_avg"], state.mu["b"])
    saved = interchange.to_torch(state, params, groups=[{"lr": 3.0}])
    assert saved["param_groups"] == [{"lr": 3.0, "params": [0, 1]}]
    call = interchange.to_torch
    refused(ValueError, "are not known", call, state, params)
    refused(TypeError, "`groups` must be", call, state, params, groups="a")
    refused(TypeError, "a list of paths", call, state, params, groups=[{}, {}])
    refused(ValueError, "lack 'b'", call, state, params, groups=[{"params": ["a"]}])
    twice = [{"params": ["a", "a", "b"]}]
    refused(ValueError, "each in one group", call, state, params, groups=twice)


PECULIAR = {
    "eps_mode": {"eps_mode": "hat"},
    "nesterov": {"nesterov": True},
    "eps_root": {"eps_root": 1e-6},
    "bias_correction": {"bias_correction": False},
    "caution": {"caution": True},
    "weight_decay_mode": {"weight_decay_mode": "independent"},
}


@pytest.mark.parametrize(("what", "options"), PECULIAR.items(), ids=PECULIAR)
@pytest.mark.parametrize("name", STATE_DICTS)
def test_numbers_that_pytorch_would_use_otherwise(what, options, name):
    params, tx, state = torch_state(cases.tree(), **options)
    call = cases.PEERS[name].to
    refused(ValueError, f"`tx` has {what}", call, state, params, tx=tx)
    call(state, params, tx=tx, groups=[{"lr": 1.0, "beta1": 0.9, "beta2": 0.99}])


def test_groups_of_tx_with_numbers_of_their_own():
    params, tx, state = torch_state(
        cases.tree(), groups={"*/bias": {"learning_rate": 0.5, "weight_decay": 0.0}}
    )
    saved = interchange.to_torch(state, params, tx=tx)
    assert [g["lr"] for g in saved["param_groups"]] == [0.5, cases.RATE]
    names = ["dense/bias", "out/bias", "dense/kernel", "out/kernel", "scale", "void"]
    found = interchange.from_torch(saved, params, tx=tx, names=names)
    trees.assert_same_bits(found, state)


# --- Keras's positions ---------------------------------------------------------------


def test_averages_are_not_taken_for_maxima():
    """The counts agree; that a maximum is never below tells them apart."""
    tx = cases.adamw(ema_decay=0.5)
    params, state = cases.trained(tx, [cases.tree()["dense"]["kernel"]], 3)
    saved = interchange.to_keras(state, params, tx=tx)
    right = cases.adamw(amsgrad=True)
    refused(
        ValueError, "mean of squares|above", interchange.from_keras, saved, params,
        tx=right,
    )  # fmt: skip
    call = interchange.from_keras
    refused(ValueError, "would be that of 1 or 2 of the three", call, saved, params)


def test_names_contradict_an_option():
    params, tx, state = torch_state(cases.normal({"w": (2,)}, jnp.float32, 0))
    store = interchange.to_keras(state, params, tx=tx)
    named = ["a/iteration", "a/learning_rate", "a/w_momentum", "a/w_velocity"]
    saved = dict(zip(named, store.values(), strict=True))
    refused(
        ValueError, "`amsgrad` is True", interchange.from_keras, saved, params,
        amsgrad=True,
    )  # fmt: skip
    for option in ("amsgrad", "use_ema"):
        for call in (interchange.from_keras, interchange.from_tensorflow):
            refused(TypeError, f"`{option}` must", call, saved, params, **{option: 1})


def test_stores_with_gaps():
    saved, params, tx = saved_by("keras")
    missing = {key: x for key, x in saved.items() if key != "3"}
    refused(
        ValueError, "the keys '0' to", interchange.from_keras, missing, params, tx=tx
    )
    moved = dict(
        zip(saved, [saved["1"], saved["0"], *list(saved.values())[2:]], strict=True)
    )
    refused(
        ValueError, "must be an integer", interchange.from_keras, moved, params, tx=tx
    )


def test_a_broken_loss_scale():
    scale = optadamw.DynamicLossScale(initial=8.0)
    saved, params, tx = saved_by("keras", loss_scale=scale)
    for value in (0.0, math.inf, math.nan):
        broken = saved | {"3": np.float32(value)}
        refused(
            ValueError, "finite and > 0", interchange.from_keras, broken, params, tx=tx
        )


def test_the_learning_rate_of_keras_and_mlx():
    params, tx, state = torch_state(cases.tree())
    keras, mlx = interchange.to_keras, interchange.to_mlx
    refused(ValueError, "learning rate among its", keras, state, params)
    refused(TypeError, "'learning_rate'", keras, state, params, learning_rate="x")
    assert len(keras(state, params, learning_rate="schedule")) == 13
    assert keras(state, params, learning_rate=0.5)["1"] == np.float32(0.5)
    scheduled = optadamw.adamw(lambda t: 1.0 / (1 + t))
    assert len(keras(state, params, tx=scheduled)) == 13
    without = interchange.from_keras(keras(state, params, tx=scheduled), params, tx=tx)
    trees.assert_same_bits(without, state)
    refused(ValueError, "learning rate in its state", mlx, state, params)
    assert mlx(state, params, tx=scheduled)["learning_rate"] == np.float32(1 / 3)
    assert mlx(state, params, learning_rate=0.5)["learning_rate"] == np.float32(0.5)


# --- MLX -----------------------------------------------------------------------------


def test_mlx_flat_and_nested():
    saved, params, tx = saved_by("mlx")
    flat = {"step": saved["step"], "learning_rate": saved["learning_rate"]}
    for path in (
        "dense.bias",
        "dense.kernel",
        "out.bias",
        "out.kernel",
        "scale",
        "void",
    ):
        node = saved
        for key in path.split("."):
            node = node[key]
        flat |= {f"{path}.m": node["m"], f"{path}.v": node["v"]}
    state = cases.trained(tx, cases.tree(), 2)[1]
    trees.assert_same_bits(interchange.from_mlx(flat, params, tx=tx), state)


def test_mlx_refuses_other_states_and_names():
    saved, params, tx = saved_by("mlx")
    call = interchange.from_mlx
    refused(ValueError, "with 'step'", call, {"w": saved["scale"]}, params)
    sgd = {**saved, "scale": {"v": np.zeros(())}}
    refused(ValueError, "Leaf 'scale': the saved state has", call, sgd, params)
    for key in ("step", "learning_rate"):
        params = {key: jnp.zeros(2)}
        state = cases.adamw().init(params)
        refused(ValueError, "beside 'step'", interchange.to_mlx, state, params, tx=tx)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    state = cases.adamw().init(params)
    names = {"a": "x", "b": "x.y"}
    refused(
        ValueError, "it is a parameter and holds others", interchange.to_mlx, state,
        params, tx=tx, names=names,
    )  # fmt: skip


# --- Flux ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "betas", [(0.9, 0.999), (0.95, 0.98), (0.0, 0.999), (0.5, 0.9)]
)
@pytest.mark.parametrize("step", [0, 1, 2, 10, 100, 700])
def test_the_step_is_found_in_the_powers(dtype, betas, step):
    powers = tuple(products(beta, step + 1, np.dtype(dtype))[-1] for beta in betas)
    assert step_of(powers, betas, np.dtype(dtype)) == step
    if step and betas[0]:
        with pytest.raises(ValueError, match="`betas` must be those"):
            step_of((powers[0], powers[1] * 0.999), betas, np.dtype(dtype))


@pytest.mark.parametrize("step", [20_000, 80_000])
def test_the_step_of_a_long_run(step):
    """The logarithm of the rounded product would be off by more than one."""
    powers = tuple(
        products(b, step + 1, np.dtype(np.float32))[-1] for b in (0.9, 0.999)
    )
    assert powers[0] < 1e-37
    assert step_of(powers, (0.9, 0.999), np.dtype(np.float32)) == step


def test_flux_when_the_powers_have_vanished():
    params, tx, state = torch_state(cases.tree())
    state = state._replace(step=jnp.int32(500_000))
    saved = interchange.to_flux(state, params, tx=tx)
    call = interchange.from_flux
    refused(ValueError, "too small to tell", call, saved, params, tx=tx)
    assert int(call(saved, params, tx=tx, step=500_000).step) == 500_000
    refused(ValueError, "betas of its AdamW", call, saved, params)
    refused(TypeError, "two numbers", call, saved, params, betas=(1.5, 0.9))
    refused(ValueError, "powers of the betas", interchange.to_flux, state, params)


def test_flux_by_its_own_formula():
    """Optimisers.jl's AdamW, transcribed; k steps there, k here, and back."""
    params, tx = cases.normal({"w": (4, 3), "b": (3,)}, jnp.float32, 0), cases.adamw()

    def steps(params: Any, saved: Any, first: int) -> Any:
        f = np.float32
        for i in range(first, first + 3):
            grads = cases.gradients(params, i)
            for name, x in params.items():
                m, v, powers = saved[name]
                g = np.asarray(grads[name])
                m = f(cases.B1) * m + (f(1) - f(cases.B1)) * g
                v = f(cases.B2) * v + (f(1) - f(cases.B2)) * g * g
                move = (
                    m / (1 - powers[0]) / (np.sqrt(v / (1 - powers[1])) + f(2.0**-20))
                )
                move = f(cases.RATE) * (move + f(cases.DECAY) * np.asarray(x))
                params = params | {name: jnp.asarray(np.asarray(x) - move)}
                powers = powers[0] * f(cases.B1), powers[1] * f(cases.B2)
                saved = saved | {name: (m, v, powers)}
        return params, saved

    start = {
        name: (np.zeros(x.shape, np.float32),) * 2
        + ((np.float32(cases.B1), np.float32(cases.B2)),)
        for name, x in params.items()
    }
    begun, saved = steps(params, start, 0)
    state = interchange.from_flux(saved, begun, tx=tx)
    assert int(state.step) == 3
    after, _ = cases.trained(tx, begun, 3, 3, state)
    whole, _ = steps(begun, saved, 3)
    assert cases.ulps(cases.leaves(after), cases.leaves(whole)) <= 4
    begun, state = cases.trained(tx, params, 3)
    after, _ = steps(begun, interchange.to_flux(state, params, tx=tx), 3)
    whole, _ = cases.trained(tx, params, 6)
    assert cases.ulps(cases.leaves(after), cases.leaves(whole)) <= 4


def test_flux_lists_and_frozen_parameters():
    saved, params, tx = saved_by("flux")
    listed = jax.tree.leaves(saved, is_leaf=lambda x: isinstance(x, tuple))
    state = cases.trained(tx, cases.tree(), 2)[1]
    names = ["dense/bias", "dense/kernel", "out/bias", "out/kernel", "scale", "void"]
    trees.assert_same_bits(
        interchange.from_flux(listed, params, tx=tx, names=names), state
    )
    listed[-2] = None
    call = interchange.from_flux
    refused(ValueError, "Leaf 'scale'.*has no state", call, listed, params, tx=tx)
    found = call(listed, params, tx=tx, missing="zeros")
    assert float(found.mu["scale"]) == 0
    saved["scale"] = (*saved["scale"][:2], (0.5, 0.5))
    refused(ValueError, "`betas` must be those", call, saved, params, tx=tx)


# --- optimi, torchao, bitsandbytes ---------------------------------------------------


def test_optimi_groups_and_steps():
    saved, params, tx = saved_by("optimi")
    call = interchange.from_optimi
    group = saved["param_groups"][0]
    assert group["beta1"] == cases.B1 and int(group["step"]) == 2
    lacking = {key: x for key, x in group.items() if key != "beta2"}
    broken = {**saved, "param_groups": [lacking]}
    refused(ValueError, "no 'beta2'", call, broken, params)
    lacking = {key: x for key, x in group.items() if key != "step"}
    broken = {**saved, "param_groups": [lacking]}
    refused(ValueError, "neither it nor its group", call, broken, params)
    split = [{**group, "params": [0, 1]}, {**group, "params": [2, 3, 4, 5], "step": 3}]
    broken = {**saved, "param_groups": split}
    refused(ValueError, "different numbers of steps", call, broken, params)
    own = {i: {**e, "step": 2} for i, e in saved["state"].items()}
    state = call({**saved, "state": own}, params, tx=tx)
    assert int(state.step) == 2
    to = interchange.to_optimi
    state = cases.trained(tx, cases.tree(), 2)[1]
    refused(ValueError, "lack 'beta1'", to, state, params, groups=[{"lr": 1.0}])


def test_optimi_compensation_is_not_lost_in_silence():
    saved, params, tx = saved_by("optimi")
    saved["state"][0]["kahan_comp"] = np.zeros(3, np.float32)
    saved["state"][1]["kahan_comp"] = np.zeros(1, np.uint8)
    interchange.from_optimi(saved, params, tx=tx)
    saved["state"][0]["kahan_comp"][0] = 1e-3
    refused(ValueError, "'kahan_comp'", interchange.from_optimi, saved, params, tx=tx)
    interchange.from_optimi(saved, params, tx=tx, drop=("kahan_comp",))


def low_bits(parts: dict[str, Any], count: int) -> Any:
    entries = {"step": np.float32(1), "exp_avg": parts, "exp_avg_sq": parts}
    saved = {"state": {0: entries}, "param_groups": [{"params": [0]}]}
    return saved, [jnp.zeros(count)]


def test_torchao_codes():
    table = np.arange(256, dtype=np.float32)
    parts = {"codes": np.array([1, 2, 3, 4], np.uint8), "scale": np.array([1.0, 0.5])}
    state = interchange.from_torchao(*low_bits(parts | {"qmap": table}, 4))
    assert state.mu[0].tolist() == [1.0, 2.0, 1.5, 2.0]
    four = {"codes": np.array([0x12, 0x3F], np.uint8), "scale": np.array([2.0])}
    four |= {"qmap": table[:16], "shape": (4,)}
    state = interchange.from_torchao(*low_bits(four, 4))
    assert state.mu[0].tolist() == [2.0, 4.0, 6.0, 30.0]
    eight = {"codes": np.array([1, 2], jnp.float8_e4m3fn), "scale": np.array([4.0])}
    state = interchange.from_torchao(*low_bits(eight, 2))
    assert state.mu[0].tolist() == [4.0, 8.0]


BAD_CODES = {
    "no scale": ({"scale": None}, "'codes' and 'scale'"),
    "no table": ({"qmap": None}, "no table, 'qmap'"),
    "uneven": ({"scale": np.ones(3)}, "do not divide into 3 blocks"),
    "beyond": ({"qmap": np.ones(2)}, "its table ends at 1"),
    "floats": ({"codes": np.ones(4)}, "must be uint8"),
    "nan": ({"scale": np.array([np.nan])}, "NaN or infinite"),
    "shape": ({"qmap": np.ones(16), "shape": (7,)}, "for the shape"),
}


@pytest.mark.parametrize(("change", "text"), BAD_CODES.values(), ids=BAD_CODES)
def test_torchao_codes_that_do_not_fit(change, text):
    parts = {
        "codes": np.array([1, 2, 3, 4], np.uint8),
        "scale": np.array([1.0]),
        "qmap": np.arange(256, dtype=np.float32),
    }
    saved, params = low_bits(parts | change, 4)
    refused((ValueError, TypeError), text, interchange.from_torchao, saved, params)


def eight_bits(size: int, blocks: int, **change: Any) -> Any:
    entries = {"step": 1}
    for number in "12":
        entries |= {
            f"state{number}": np.full(size, 2, np.uint8),
            f"qmap{number}": np.arange(256, dtype=np.float32),
            f"absmax{number}": np.arange(1, blocks + 1, dtype=np.float32),
        }
    entries |= change
    return {"state": {0: entries}, "param_groups": [{"params": [0]}]}


@pytest.mark.parametrize(("size", "blocks", "block"), [(600, 3, 256), (5000, 3, 2048)])
def test_bitsandbytes_blocks(size, blocks, block):
    saved = eight_bits(size, blocks)
    hidden = {k: v for k, v in saved["state"][0].items() if k != "step"}
    nested = {"step": 1, "__bnb_optimizer_quant_state__": hidden}
    for given in (saved, {**saved, "state": {0: nested}}):
        state = interchange.from_bitsandbytes(given, [jnp.zeros(size)])
        expected = 2.0 * (1 + np.arange(size) // block)
        np.testing.assert_array_equal(state.mu[0], expected)


def test_bitsandbytes_that_do_not_fit():
    call, params = interchange.from_bitsandbytes, [jnp.zeros(600)]
    refused(ValueError, "4 scales and 3 blocks", call, eight_bits(600, 4), params)
    lacking = eight_bits(600, 3, absmax2=None)
    refused(ValueError, "no 'absmax2'", call, lacking, params)
    whole = eight_bits(600, 3, max1=np.ones(1))
    refused(ValueError, "block_wise=False", call, whole, params)


# --- Optax ---------------------------------------------------------------------------


def test_optax_masked_parameters():
    params = cases.tree()
    mask = jax.tree.map(lambda x: x.ndim > 0, params)
    theirs = optax.masked(cases.into(), mask)
    saved = theirs.init(params)
    call = interchange.from_optax
    refused(ValueError, "no counterpart of 'scale'", call, saved, params)
    state = call(saved, params, missing="zeros")
    assert state.mu["scale"].shape == ()
    to, tx = interchange.to_optax, cases.adamw()
    moved = to(state, params, tx=tx, into=theirs)
    assert jax.tree.structure(moved) == jax.tree.structure(saved)
    state = cases.trained(tx, params, 1)[1]
    refused(ValueError, "`into` has no place", to, state, params, tx=tx, into=theirs)


def test_optax_as_orbax_gives_it_back():
    """Without a target, records come back as dicts and tuples as lists."""
    saved, params, tx = saved_by("optax")
    plain = [dict(saved[0]._asdict()), {}, None]
    state = cases.trained(tx, cases.tree(), 2)[1]
    trees.assert_same_bits(interchange.from_optax(plain, params, tx=tx), state)


def test_optax_states_that_do_not_fit():
    saved, params, tx = saved_by("optax")
    call, to = interchange.from_optax, interchange.to_optax
    refused(ValueError, "holds 2 states of an Adam", call, (saved, saved), params)
    refused(
        ValueError,
        "holds 0 states of an Adam",
        call,
        optax.sgd(1.0).init(params),
        params,
    )
    refused(TypeError, "`use_grad_mean`", call, saved, params, use_grad_mean=1)
    state = cases.trained(tx, cases.tree(), 2)[1]
    refused(TypeError, "`into` must be", to, state, params, tx=tx, into=3)
    refused(ValueError, "differ in amsgrad", to, state, params, into=optax.amsgrad(1.0))
    twice = optax.MultiSteps(
        optax.MultiSteps(cases.into(), 2).gradient_transformation(), 2
    ).gradient_transformation()
    refused(ValueError, "one inside another", call, twice.init(params), params)


OTHERS = {
    "trace": (lambda: optax.trace(0.9), "TraceState"),
    "ema": (lambda: optax.ema(0.9), "EmaState"),
    "rms": (lambda: optax.scale_by_rms(), "ScaleByRmsState"),
    "stddev": (lambda: optax.scale_by_stddev(), "ScaleByRStdDevState"),
    "plateau": (
        lambda: optax.contrib.reduce_on_plateau(),
        "ReduceLROnPlateauState",
    ),
    "noise": (lambda: optax.add_noise(0.1, 0.1, 0), "AddNoiseState"),
    "belief": (lambda: optax.scale_by_belief(), "ScaleByBeliefState"),
    "masked": (lambda: optax.masked(optax.trace(0.9), True), "TraceState"),
}


@pytest.mark.parametrize(("make", "kind"), OTHERS.values(), ids=OTHERS)
def test_optax_beside_other_states(make, kind):
    call, params, tx = interchange.from_optax, cases.tree(), cases.adamw()
    saved = optax.chain(make(), cases.into()).init(params)
    refused(ValueError, f"numbers of {kind} at '0", call, saved, params, tx=tx)
    where = "0/inner_state" if hasattr(saved[0], "inner_state") else "0"
    found = call(saved, params, tx=tx, drop=(where,))
    trees.assert_same_bits(found, tx.init(params))
    refused(ValueError, "`drop` must be", call, saved, params, drop=(where, "1"))
    # As Orbax gives it back, without classes.
    if kind not in ("AddNoiseState", "ScaleByBeliefState"):
        plain = unclassed(saved)
        refused(ValueError, "numbers of dict at '0'", call, plain, params, tx=tx)
        trees.assert_same_bits(call(plain, params, tx=tx, drop=["0"]), found)


def unclassed(node: Any) -> Any:
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return {k: unclassed(v) for k, v in node._asdict().items()}
    if isinstance(node, tuple):
        return [unclassed(child) for child in node]
    return node


def test_optax_inside_other_states():
    call, params = interchange.from_optax, cases.tree()
    theirs = optax.contrib.schedule_free(cases.into(), 0.5, b1=0.9)
    refused(
        ValueError,
        "numbers of ScheduleFreeState at '.the root.', around those of Adam",
        call,
        theirs.init(params),
        params,
    )
    refused(
        ValueError,
        "numbers of ArrayImpl at '1'",
        call,
        (cases.into().init(params), jnp.ones(2)),
        params,
    )
    refused(
        TypeError, "`drop` must be", call, cases.into().init(params), params, drop=""
    )


UNDERSTOOD = {
    "schedule": lambda: optax.adamw(lambda step: 0.5),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(lambda step: 0.5),
    "finite": lambda: optax.apply_if_finite(cases.into(), 3),
    "windows": lambda: optax.MultiSteps(
        cases.into(), 2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), cases.into()),
    "no NaN": lambda: optax.chain(optax.zero_nans(), cases.into()),
    "named": lambda: optax.named_chain(("count", cases.into())),
    "partition": lambda: optax.partition(
        {"a": cases.into(), "b": optax.set_to_zero()}, "a"
    ),
    "sometimes": lambda: optax.transforms.conditionally_transform(
        cases.into(), lambda step: True
    ),
}


@pytest.mark.parametrize("make", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_optax_with_states_that_only_count(make):
    params, tx = cases.tree(), cases.adamw()
    saved = make().init(params)
    for kept in (saved, unclassed(saved)):
        found = interchange.from_optax(kept, params, tx=tx)
        trees.assert_same_bits(found, tx.init(params))


def test_optax_lookalikes():
    call, params = interchange.from_optax, cases.tree()
    text = "ScaleByBeliefState at '0' has such fields and is another"
    refused(ValueError, text, call, optax.adabelief(1.0).init(params), params)
    refused(ValueError, "Novograd", call, optax.novograd(1.0).init(params), params)
    saved = optax.adamw(1.0).init(params)
    more = [{**saved[0]._asdict(), "kappa": 1.0}]
    refused(ValueError, "What stands at '0'", call, more, params)

    class ScaleByAdamState(NamedTuple):
        count: Any
        mu: Any
        nu: Any

    mine = ScaleByAdamState(*saved[0])
    refused(ValueError, "test_interchange.ScaleByAdamState", call, mine, params)
    state = cases.adamw().init(params)
    refused(
        ValueError,
        "holds 0 states",
        interchange.to_optax,
        state,
        params,
        into=optax.adabelief(1.0),
    )


def test_optax_sums():
    """`use_grad_mean=False` keeps the sum, as we do."""
    tx = optadamw.multi_steps(cases.adamw(), 4, use_grad_mean=False)
    params, state = cases.trained(tx, cases.tree(), 6)
    into = optax.MultiSteps(cases.into(), 4, use_grad_mean=False)
    into = into.gradient_transformation()
    saved = interchange.to_optax(state, params, tx=tx, into=into, use_grad_mean=False)
    np.testing.assert_array_equal(
        saved.acc_grads["dense"]["bias"], state.accumulator["dense"]["bias"]
    )
    found = interchange.from_optax(saved, params, use_grad_mean=False)
    trees.assert_same_bits(found.accumulator, state.accumulator)
