"""Arrays of a saved state are matched with their parameters."""

import copy
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import interchange
from optadamw.dialects.states.naming import Theirs, matched
from tests.interchange import cases
from tests.interchange.saving import PAIR, STATE_DICTS, refused, torch_state
from tests.support import trees

NAMED = ("mlx", "optax", "flux")


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


OURS = ["net/fc.weight", "net/fc.bias", "net/head.weight"]
PREFIXES = {
    "ours": (OURS, ["head.weight", "fc.weight", "fc.bias"], [1, 2, 0]),
    "theirs": (["b/w", "a/w"], ["module.a.w", "module.b.w"], [1, 0]),
    "two parts": (["m/net/a", "m/net/b"], ["b:0", "a:0"], [1, 0]),
    "the shorter": (["m/a/a", "m/a/b"], ["a.b", "a.a"], [1, 0]),
    "one": (["m/a"], ["a"], [0]),
    "more than the optimizer's": (OURS, ["fc.bias"], [None, 0, None]),
    "a part of a name": (["neta", "netb"], ["a", "b"], None),
    "other names": (OURS, ["fc.weight", "fc.bias", "last.weight"], None),
    "another prefix": (["enc/w", "enc/b"], ["dec.w", "dec.b"], None),
    "of some": (["net/a", "b"], ["a", "b"], None),
    "of some of theirs": (["m/a"], ["a", "b"], None),
    "an end of another": (
        ["norm.w", "0.norm.w", "1.norm.w"],
        ["module.0.norm.w", "module.1.norm.w", "module.norm.w"],
        [2, 0, 1],
    ),
    "joined by Keras": (["norm", "0/norm"], ["net_0_norm", "net_norm"], [1, 0]),
    "twice theirs": (["a", "m/a"], ["m.a", "m.m.a"], [0, 1]),
    "parts of their own": (["a", "b"], ["y.b", "x.a"], [1, 0]),
    "no part of theirs": (["norm/w", "out/w"], ["layer_norm.w", "out.w"], None),
    "equal ones first": (["net/norm", "norm"], ["net.norm"], [0, None]),
}


@pytest.mark.parametrize(("paths", "known", "places"), PREFIXES.values(), ids=PREFIXES)
def test_names_with_a_prefix_on_one_side(paths, known, places):
    theirs = [Theirs(name, name, True) for name in known]
    if places is None:
        with pytest.raises(ValueError, match="none is called"):
            matched(None, paths, theirs, "zeros")
        return
    assert matched(None, paths, theirs, "zeros") == places
    if None in places:
        with pytest.raises(ValueError, match="has no counterpart of 'n"):
            matched(None, paths, theirs, "error")


@pytest.mark.parametrize(
    ("paths", "known", "error"),
    [
        (["m/m/a", "m/m/m/a"], ["m.a"], "'m.a' may be several .* more than one prefix"),
        (["m/a", "a"], ["m.m.a"], r"'m\.m\.a' may be several .* more than one prefix"),
        (["a", "m/a", "q"], ["m.a", "m.m.a", "z.q"], r"any of 'm\.a', 'm\.m\.a'"),
        (["norm", "0/norm", "q"], ["0.norm", "z.q"], r"'0\.norm' may be several"),
    ],
)
def test_names_that_fit_in_several_ways_are_not_matched(paths, known, error):
    theirs = [Theirs(name, name, True) for name in known]
    with pytest.raises(ValueError, match=error):
        matched(None, paths, theirs, "zeros")


def test_a_name_of_many_parts_takes_no_time():
    name = "a." * 100_000
    start = time.process_time()
    with pytest.raises(ValueError, match="none is called"):
        matched(
            None, ["x", "y"], [Theirs("", name + end, True) for end in "bc"], "error"
        )
    assert time.process_time() - start < 5


def test_a_frozen_parameter_that_another_ends_with_has_no_counterpart():
    """Llama's last norm, frozen, and an optimizer of the trained parameters."""
    names = ["layers.0.norm.weight", "layers.1.norm.weight"]
    theirs = [Theirs(name, name, True) for name in names]
    paths = ["norm/weight", *(name.replace(".", "/") for name in names)]
    assert matched(None, paths, theirs, "error", {"norm/weight"}) == [None, 0, 1]


def test_a_frozen_parameter_needs_no_prefix():
    theirs = [Theirs(name, name, True) for name in ("b", "a")]
    paths = ["net/a", "frozen/b", "net/b"]
    assert matched(None, paths, theirs, "error", {"frozen/b"}) == [1, None, 0]


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
    """A saved optimizer without a state for any parameter starts at zero."""
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


@pytest.mark.parametrize("named", [False, True])
def test_an_optimizer_of_the_trained_parameters_alone(named):
    """`AdamW(p for p in model.parameters() if p.requires_grad)` has no frozen ones."""
    params = cases.normal({**PAIR, "stem": (3,)}, jnp.float32, 0)
    trained = {name: x for name, x in params.items() if name in PAIR}
    _, _, state = torch_state(trained)
    tx = cases.adamw(groups={"stem": {"freeze": True}})
    names = {name: name for name in PAIR} if named else None
    saved = interchange.to_torch(state, trained, tx=cases.adamw(), names=names)
    found = interchange.from_torch(saved, params, tx=tx)
    assert found.mu["stem"] is None
    trees.assert_same_bits({name: found.mu[name] for name in PAIR}, state.mu)
    error = "has no counterpart of 'stem'" if named else "has 2 parameters, `params` 3"
    call = interchange.from_torch
    refused(ValueError, error, call, saved, params, tx=cases.adamw())


@pytest.mark.parametrize("is_given", [False, True])
def test_thousands_of_names_are_matched_at_once(is_given):
    """Looking at each name for each parameter takes 15 to 200 seconds here."""
    paths = [f"layers/{i // 8}/experts/{i % 8}/weight" for i in range(6000)]
    theirs = [Theirs("", f"module.{p.replace('/', '.')}", True) for p in paths]
    names = {p: f"module_{p.replace('/', '_')}" for p in paths} if is_given else None
    start = time.process_time()
    found = matched(names, paths, theirs, "error")
    assert time.process_time() - start < 1
    assert found == list(range(6000))
