"""Parameters that changed between save and restore: shapes, names, dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optadamw import checkpoint
from tests.checkpoint.runs import adamw
from tests.support import trees

# --- Parameters that changed ---------------------------------------------------------

TX = adamw(ema_decay=0.9)


def _saved(params: Any) -> Any:
    state = TX.init(params)
    params, state = TX.step(params, state, params)
    return checkpoint.to_portable(TX, state, params)


OLD = {"enc": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "out": jnp.ones(4)}
NEW = {"stem": OLD["enc"], "out": OLD["out"]}


def test_a_shape_that_changed_is_refused():
    with pytest.raises(
        ValueError,
        match=r"Leaf 'mu/out': it was saved with shape \(4,\), and here it has \(5,\)\."
        r".*rename=",
    ):
        checkpoint.restore(TX, OLD | {"out": jnp.ones(5)}, _saved(OLD))


def test_a_renamed_parameter_is_refused_and_named():
    with pytest.raises(
        ValueError,
        match=r"Leaf 'mu/stem/bias': it was not saved, and 'mu/enc/\w+' has no place "
        r"here.*rename=\{'stem/bias'",
    ):
        checkpoint.restore(TX, NEW, _saved(OLD))


@pytest.mark.parametrize(
    "rename",
    [
        {"stem": "enc"},
        {"stem/kernel": "enc/kernel", "stem/bias": "enc/bias"},
        lambda path: path.replace("stem", "enc"),
    ],
    ids=["subtree", "leaves", "function"],
)
def test_a_rename_map_finds_what_was_renamed(rename):
    saved = _saved(OLD)
    state, report = checkpoint.restore(TX, NEW, saved, rename=rename)
    assert report.is_whole
    assert ("nu/stem/kernel", "nu/enc/kernel") in report.renamed
    assert "nu/stem/bias from nu/enc/bias" in str(report) or "more" in str(report)
    np.testing.assert_array_equal(state.mu["stem"]["kernel"], saved["mu/enc/kernel"])
    params = checkpoint.params_of(saved, NEW, rename=rename)
    np.testing.assert_array_equal(params["stem"]["bias"], saved["params/enc/bias"])


def test_a_renamed_parameter_may_start_afresh():
    state, report = checkpoint.restore(TX, NEW, _saved(OLD), rename={"stem": None})
    assert "mu/stem/bias" in report.fresh and "mu/enc/bias" in report.left_over
    assert not jnp.any(state.mu["stem"]["kernel"])
    np.testing.assert_array_equal(state.ema["stem"]["bias"], NEW["stem"]["bias"])


def test_a_parameter_that_was_added_or_removed_is_reported():
    more = OLD | {"head": jnp.ones(2)}
    _, report = checkpoint.restore(TX, more, _saved(OLD))
    assert set(report.fresh) == {"mu/head", "nu/head", "ema/head"}
    assert "mu/head, nu/head: starting at zero" in str(report)
    _, report = checkpoint.restore(TX, OLD, _saved(more))
    assert set(report.left_over) == {"mu/head", "nu/head", "ema/head"}


@pytest.mark.parametrize("filled", [0, 2])
def test_a_parameter_that_was_added_inside_a_window_is_noted(filled):
    tx = adamw(accumulate_steps=3)
    params, state = OLD, tx.init(OLD)
    for _ in range(filled):
        params, state = tx.step(params, state, params)
    more = params | {"head": jnp.ones(2)}
    _, report = checkpoint.restore(tx, more, checkpoint.to_portable(tx, state, params))
    assert ("count as 0 in its first 2 micro-batches" in str(report)) == bool(filled)


REFUSED_RENAMES = {
    "unknown key": ({"stm": "enc"}, r"`rename` has the key 'stm'.*'stem/"),
    "unknown target": (
        {"stem": "en"},
        r"'mu/stem/bias': `rename` takes it from 'mu/en/",
    ),
    "a list": (["stem"], r"`rename` must be a mapping"),
    "a number": ({"stem": 3}, r"`rename` must be a mapping.*got 3"),
}


@pytest.mark.parametrize(
    ("rename", "words"), REFUSED_RENAMES.values(), ids=REFUSED_RENAMES
)
def test_a_bad_rename_is_refused(rename, words):
    with pytest.raises((ValueError, TypeError), match=words):
        checkpoint.restore(TX, NEW, _saved(OLD), rename=rename)


@pytest.mark.parametrize(
    ("like", "words"),
    [
        (OLD | {"head": jnp.ones(2)}, "'params/head' was not saved"),
        ({"out": OLD["out"]}, "'params/enc/bias' was saved and is no parameter"),
        (OLD | {"out": jnp.ones(5)}, r"shape \(4,\), and here it has \(5,\)"),
        (OLD | {"out": jnp.ones(4, jnp.float16)}, "Pass cast=True"),
    ],
    ids=["added", "removed", "shape", "dtype"],
)
def test_parameters_that_changed_are_refused(like, words):
    with pytest.raises(ValueError, match=words):
        checkpoint.params_of(_saved(OLD), like)


def test_a_new_head_is_taken_from_like_and_an_old_one_left_behind():
    like = {"enc": OLD["enc"], "head": {"w": jnp.full((3, 2), 7.0)}}
    assert "out" in OLD
    with pytest.raises(ValueError, match=r"rename=\{'head/w': None\}"):
        checkpoint.params_of(_saved(OLD), like, drop=("out",))
    with pytest.raises(ValueError, match=r"drop=\('out',\)"):
        checkpoint.params_of(_saved(OLD), like, rename={"head": None})
    found = checkpoint.params_of(
        _saved(OLD), like, rename={"head": None}, drop=("out",)
    )
    whole = checkpoint.params_of(_saved(OLD), OLD)
    trees.assert_same_bits(found, {"enc": whole["enc"], "head": like["head"]})
    assert found["head"]["w"] is not like["head"]["w"]
    shapes = jax.eval_shape(lambda: like)
    with pytest.raises(ValueError, match="Leaf 'params/head/w': it is new, and `like`"):
        checkpoint.params_of(_saved(OLD), shapes, rename={"head": None}, drop=("out",))


def test_a_new_head_takes_the_place_of_the_saved_one():
    like = OLD | {"out": jnp.full((9,), 7.0)}
    found = checkpoint.params_of(_saved(OLD), like, rename={"out": None})
    trees.assert_same_bits(found["out"], like["out"])
    # A subtree with other parameters.
    like = {"enc": {"deep": jnp.ones(2)}, "out": OLD["out"]}
    found = checkpoint.params_of(_saved(OLD), like, rename={"enc": None})
    trees.assert_same_bits(found["enc"], like["enc"])
    with pytest.raises(ValueError, match=r"drop=\('enc/bias',\)"):
        checkpoint.params_of(_saved(OLD), like, rename={"enc/deep": None})
    # Another parameter may have the saved one.
    like = {"enc": OLD["enc"], "out": jnp.full((9,), 7.0), "old": OLD["out"]}
    rename = {"out": None, "old": "out"}
    found = checkpoint.params_of(_saved(OLD), like, rename=rename)
    trees.assert_same_bits(found["old"], checkpoint.params_of(_saved(OLD), OLD)["out"])


@pytest.mark.parametrize(
    "rename", [{"": None}, lambda path: None], ids=["dict", "function"]
)
def test_a_parameter_that_is_the_whole_tree_may_be_new(rename):
    saved = _saved(jnp.ones(3))
    found = checkpoint.params_of(saved, jnp.zeros(2), rename=rename)
    trees.assert_same_bits(found, jnp.zeros(2))


def test_a_parameter_that_is_the_whole_tree_is_dropped():
    new = {"w": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"drop=\('',\)"):
        checkpoint.params_of(_saved(jnp.ones(3)), new, rename={"w": None})
    found = checkpoint.params_of(
        _saved(jnp.ones(3)), new, rename={"w": None}, drop=("",)
    )
    trees.assert_same_bits(found, new)


@pytest.mark.parametrize("thaws", [False, True])
def test_a_frozen_subtree_is_renamed(thaws):
    """It has no buffers, and is named all the same."""
    frozen = adamw(groups={"enc/*": {"freeze": True}})
    _, state = frozen.step(OLD, frozen.init(OLD), OLD)
    saved = checkpoint.to_portable(frozen, state, OLD)
    tx = adamw() if thaws else adamw(groups={"stem/*": {"freeze": True}})
    rename = {"stem": "enc"}
    restored, report = checkpoint.restore(tx, NEW, saved, rename=rename)
    trees.assert_same_bits(restored.mu["out"], state.mu["out"])
    assert ("mu/stem/kernel" in report.fresh) == thaws
    trees.assert_same_bits(checkpoint.params_of(saved, NEW, rename=rename), NEW)
    with pytest.raises(ValueError, match="neither a parameter nor a subtree"):
        checkpoint.restore(tx, NEW, saved, rename={"stemm": "enc"})
    with pytest.raises(ValueError, match=r"'mu/encoder/.*', which was not saved"):
        checkpoint.restore(adamw(), NEW, saved, rename={"stem": "encoder"})


@pytest.mark.parametrize(
    "rename", [{"stem": "enc"}, lambda path: path.replace("stem", "enc")]
)
def test_a_frozen_parameter_is_renamed_in_the_trees_of_optax(rename):
    def tx(name):
        inner = adamw(groups={f"{name}/*": {"freeze": True}})
        return optax.MultiSteps(inner, 3).gradient_transformation()

    state = tx("enc").update(OLD, tx("enc").init(OLD), OLD)[1]
    saved = checkpoint.to_portable(tx("enc"), state)
    found, report = checkpoint.restore(tx("stem"), NEW, saved, rename=rename)
    assert report.is_whole
    trees.assert_same_bits(found.acc_grads["stem"], state.acc_grads["enc"])


@pytest.mark.parametrize(
    ("drop", "error", "words"),
    [
        ("out", TypeError, "a tuple of saved paths"),
        (("outt",), ValueError, "Near it: .*out"),
    ],
)
def test_a_drop_that_drops_nothing_is_refused(drop, error, words):
    with pytest.raises(error, match=words):
        checkpoint.params_of(_saved(OLD), {"enc": OLD["enc"]}, drop=drop)


def test_a_layer_that_is_gone_is_dropped_by_its_path():
    found = checkpoint.params_of(_saved(OLD), {"out": OLD["out"]}, drop=["enc"])
    whole = checkpoint.params_of(_saved(OLD), OLD)
    trees.assert_same_bits(found, {"out": whole["out"]})


def test_parameters_that_were_not_saved_are_refused():
    with pytest.raises(ValueError, match="holds no parameters"):
        checkpoint.params_of(checkpoint.to_portable(TX, TX.init(OLD)), OLD)


def test_a_tree_without_leaves_has_no_parameters_to_save():
    saved = checkpoint.to_portable(TX, TX.init({}), {})
    assert checkpoint.params_of(saved, {}) == {}


def test_a_parameter_is_renamed_in_the_trees_of_optax_too():
    """Optax accumulates gradients in a tree of the parameters, by their names."""
    tx = optax.MultiSteps(adamw(), 3).gradient_transformation()
    old = {"encoder": {"w": jnp.ones(3)}, "w": jnp.ones(2)}
    state = tx.update(old, tx.init(old), old)[1]
    saved = checkpoint.to_portable(tx, state)
    new = {"stem": {"w": jnp.ones(3)}, "w": jnp.ones(2)}
    found, report = checkpoint.restore(tx, new, saved, rename={"stem": "encoder"})
    assert report.is_whole
    assert ("around/acc_grads/stem/w", "around/acc_grads/encoder/w") in report.renamed
    kept = state.acc_grads["encoder"]["w"]
    assert found.acc_grads["stem"]["w"].tolist() == kept.tolist() != [0.0] * 3
    found, report = checkpoint.restore(tx, new, saved, rename={"stem": None})
    assert "around/acc_grads/stem/w" in report.fresh


@pytest.mark.parametrize("rename", [{"w": None}, {"w": "v", "v": "w"}], ids=str)
def test_a_renamed_parameter_leaves_another_whose_path_ends_with_its_own(rename):
    tx = optax.MultiSteps(adamw(), 3).gradient_transformation()
    part = {"v": jnp.full(2, 1.0), "w": jnp.full(2, 2.0)}
    params = {"part": part, "v": jnp.full(2, 3.0), "w": jnp.full(2, 4.0)}
    saved = checkpoint.to_portable(tx, tx.update(params, tx.init(params), params)[1])
    found, _ = checkpoint.restore(tx, params, saved, rename=rename)
    kept = found.acc_grads["part"]
    assert [kept[k].tolist() for k in "vw"] == [[1.0, 1.0], [2.0, 2.0]]
    assert found.acc_grads["w"].tolist() == [0.0 if rename["w"] is None else 3.0] * 2


def test_a_tree_of_optax_without_the_renamed_parameter_starts_afresh():
    """Optax's `masked` leaves it out, and another one has the present path there."""
    tx = optax.chain(optax.masked(optax.trace(0.9), {"v": False, "w": True}), adamw())
    params = {"v": jnp.ones(2), "w": jnp.ones(2)}
    saved = checkpoint.to_portable(tx, tx.update(params, tx.init(params), params)[1])
    _, report = checkpoint.restore(tx, params, saved, rename={"v": "w", "w": "v"})
    assert report.fresh == ("around/0/inner_state/trace/w",)


# --- Dtypes --------------------------------------------------------------------------


def test_a_cast_rounds_and_stays_finite():
    old, new = adamw(), adamw(mu_dtype="float16")
    params = {"w": jnp.zeros(4)}
    mu = jnp.array([1e30, -1e30, 1.0002, jnp.inf])
    state = old.init(params)._replace(mu={"w": mu})
    saved = checkpoint.to_portable(old, state)
    state, report = checkpoint.restore(new, params, saved, cast=True)
    expected = [65504.0, -65504.0, np.float16(1.0002), np.inf]
    assert state.mu["w"].dtype == jnp.float16
    assert state.mu["w"].tolist() == expected
    assert report.cast == (("mu/w", "float32", "float16"),)


def test_another_kind_of_number_is_refused_even_where_casts_are_allowed():
    tx = adamw()
    saved = checkpoint.to_portable(tx, tx.init({"w": jnp.zeros(2, jnp.complex64)}))
    with pytest.raises(ValueError, match="saved as complex64, and here it is float32"):
        checkpoint.restore(tx, {"w": jnp.zeros(2)}, saved, cast=True)


def test_parameters_in_the_other_order_of_bytes(tmp_path):
    params = {"w": np.arange(4.0).astype(">f4"), "n": np.ones(2, ">c8")}
    state = adamw().init({"w": jnp.ones(4), "n": jnp.ones(2, jnp.complex64)})
    checkpoint.save(tmp_path / "x.npz", adamw(), state, params)
    found = checkpoint.params_of(checkpoint.load(tmp_path / "x.npz"), params)
    for name, x in params.items():
        assert found[name].dtype.isnative
        np.testing.assert_array_equal(found[name], x)


def test_parameters_in_bytes_without_a_type_are_refused(tmp_path):
    """`np.savez` writes bfloat16 so."""
    params = {"w": np.ones(2, jnp.bfloat16).view("V2")}
    state = adamw().init({"w": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"'params/w'.*\|V2: bytes .*\.safetensors"):
        checkpoint.save(tmp_path / "x.npz", adamw(), state, params)
