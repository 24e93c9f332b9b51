"""Checkpoints by name, of buffers that State does not name."""

import itertools
import pickle
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint, custom
from optadamw.checkpoint.names import AROUND, PARAMS, STATES
from tests.store.test_custom import (
    EIGHT,
    FORMS,
    KINDS,
    RATE,
    SIXTEEN,
    each_form,
    momentum,
    trained,
)
from tests.support import trees
from tests.support.lookahead import lookahead
from tests.support.momentum import Momentum, scale_by_momentum


@each_form
def test_a_checkpoint_goes_on_bit_for_bit(form, tmp_path):
    tx = momentum(form, lookahead(2, 0.5, SIXTEEN))
    params, state = trained(tx)
    checkpoint.save(tmp_path / "state.npz", tx, state, params)
    saved = checkpoint.load(tmp_path / "state.npz")
    restored, report = checkpoint.restore(tx, params, saved)
    assert report.is_whole
    trees.assert_same_bits(restored, state)
    trees.assert_same_bits(checkpoint.params_of(saved, params), params)
    grads = trees.normal(KINDS, seed=9)
    trees.assert_same_bits(
        tx.step(grads, restored, params), tx.step(grads, state, params)
    )
    trees.assert_same_bits(pickle.loads(pickle.dumps(state)), state)


def test_names_are_those_of_the_slots():
    tx = momentum(EIGHT, lookahead(2))
    _, state = trained(tx)
    names = {n.split("/")[0] for n in checkpoint.to_portable(tx, state)}
    own = {"slow", "velocity", "velocity_scales"}
    assert names == own | {"events", "step", "optadamw.json"}


def test_a_buffer_that_was_not_saved_starts_afresh_and_is_reported():
    before, tx = momentum(), momentum(None, lookahead(2))
    params, state = trained(before)
    saved = checkpoint.to_portable(before, state)
    restored, report = checkpoint.restore(tx, params, saved)
    trees.assert_same_bits(restored.custom["velocity"], state.custom["velocity"])
    trees.assert_same_bits(restored.custom["slow"], params)
    assert report.fresh == ("slow/bias", "slow/kernel")
    assert "slow starts afresh" in report.notes
    assert "+ lookahead" in str(report)


def test_a_buffer_that_has_no_place_is_left_over():
    before, tx = momentum(None, lookahead(2)), momentum()
    params, state = trained(before)
    saved = checkpoint.to_portable(before, state)
    restored, report = checkpoint.restore(tx, params, saved)
    assert report.left_over == ("slow/bias", "slow/kernel")
    assert list(restored.custom) == ["velocity"]


@pytest.mark.parametrize(("old", "new"), [*itertools.permutations(FORMS, 2)])
def test_forms_are_cast_when_asked(old, new):
    before, tx = momentum(FORMS[old]), momentum(FORMS[new])
    params, state = trained(before)
    saved = checkpoint.to_portable(before, state)
    with pytest.raises(ValueError, match=r"Leaf 'velocity/.*cast=True"):
        checkpoint.restore(tx, params, saved)
    restored, report = checkpoint.restore(tx, params, saved, cast=True)
    trees.assert_same_types(restored, tx.init(params))
    assert {n for n, _, _ in report.cast} == {"velocity/bias", "velocity/kernel"}
    assert report.left_over == ()
    wide = [
        jax.tree.map(lambda x: np.asarray(x, np.float32), optadamw.dequantize(s).custom)
        for s in (restored, state)
    ]
    for name, wanted in wide[1]["velocity"].items():
        error = np.max(np.abs(wide[0]["velocity"][name] - wanted))
        assert error <= np.max(np.abs(wanted)) / 16


def test_afresh_takes_the_name_of_a_slot():
    tx = momentum(EIGHT, lookahead(2))
    params, state = trained(tx)
    saved = checkpoint.to_portable(tx, state)
    restored, report = checkpoint.restore(tx, params, saved, afresh=("velocity",))
    trees.assert_same_bits(restored.custom["slow"], state.custom["slow"])
    fresh = tx.init(params).custom
    for name in ("velocity", "velocity_scales"):
        trees.assert_same_bits(restored.custom[name], fresh[name])
    assert "velocity starts afresh, as asked" in report.notes
    for name in ("custom", "step", "velocity_scales", "fast"):
        with pytest.raises(ValueError, match=r"`afresh` .*slow, velocity\)"):
            checkpoint.restore(tx, params, saved, afresh=(name,))


def test_parameters_are_renamed_in_them():
    tx = momentum(EIGHT, lookahead(2))
    params, state = trained(tx)
    saved = checkpoint.to_portable(tx, state)
    now = {"weight": params["kernel"], "bias": params["bias"]}
    with pytest.raises(ValueError, match="may have been renamed"):
        checkpoint.restore(tx, now, saved)
    restored, _ = checkpoint.restore(tx, now, saved, rename={"weight": "kernel"})
    for name, buffer in state.custom.items():
        trees.assert_same_bits(restored.custom[name]["weight"], buffer["kernel"])


def test_what_orbax_gives_back_and_states_in_memory_are_read():
    tx = momentum(EIGHT, lookahead(2))
    params, state = trained(tx)
    held = {k: v for k, v in state._asdict().items() if v is not None}
    for saved in (state, held, state._asdict()):
        restored, report = checkpoint.restore(tx, params, saved, made_by=tx)
        trees.assert_same_bits(restored, state)
        assert report.is_whole


def test_inside_optax_there_may_be_several_states():
    parts = momentum(EIGHT), optadamw.chain(optadamw.ema_params(0.9), lookahead(2))
    tx = optax.chain(*parts)
    params = trees.normal(KINDS, seed=0)
    state = tx.init(params)
    _, state = tx.update(trees.normal(KINDS, seed=1), state, params)
    saved = checkpoint.to_portable(tx, state)
    assert "states/0/velocity/kernel" in saved and "states/1/slow/kernel" in saved
    restored, report = checkpoint.restore(tx, params, saved)
    trees.assert_same_bits(restored, state)
    assert report.is_whole


@dataclass(frozen=True)
class Other(custom.Rule):
    """Another rule with a slot of the same name, in which it keeps something else."""

    velocity: custom.Storage

    stage: ClassVar[custom.Stage] = custom.Stage.MOMENTS
    verb: ClassVar[str] = "scale_by_other"

    @property
    def slots(self):
        return (custom.Slot("velocity", self.velocity),)

    def apply(self, leaf, scalars):
        return leaf.keeping(velocity=leaf.value())


def test_the_buffer_of_another_rule_is_not_taken_for_ones_own():
    before = optadamw.chain(scale_by_momentum(), RATE)
    params, state = trained(before)
    saved = checkpoint.to_portable(before, state)
    tx = optadamw.chain(custom.atom(Other(custom.storage("dtype", None))), RATE)
    with pytest.raises(ValueError, match="a buffer of scale_by_momentum; here it is a"):
        checkpoint.restore(tx, params, saved)
    restored, _ = checkpoint.restore(tx, params, saved, afresh=("velocity",))
    trees.assert_same_bits(restored.custom, tx.init(params).custom)


def test_an_altered_buffer_is_found():
    tx = momentum(None, lookahead(2))
    params, state = trained(tx)
    saved = dict(checkpoint.to_portable(tx, state))
    saved["slow/bias"] = saved["slow/bias"] + np.float32(1)
    with pytest.raises(checkpoint.DamagedCheckpoint, match="slow/bias"):
        checkpoint.restore(tx, params, saved)


@pytest.mark.parametrize("name", ["around", "states", "params"])
def test_first_words_of_checkpoint_names_are_no_slots(name):
    assert name in (AROUND, PARAMS, STATES)
    rule = Renamed(custom.storage("dtype", None), name)
    with pytest.raises(ValueError, match=f"got '{name}'. These mean something else"):
        custom.atom(rule)
    assert custom.atom(replace(rule, name="mine"))


@dataclass(frozen=True)
class Renamed(Other):
    """`Other` with a slot of any name."""

    name: str

    @property
    def slots(self):
        return (custom.Slot(self.name, self.velocity),)


def test_a_sharded_state_goes_back_to_its_devices():
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {"kernel": jax.device_put(jnp.ones((4, 64)), spec)}
    tx = momentum(EIGHT, lookahead(2))
    state = tx.init(params)
    saved = checkpoint.to_portable(tx, state)
    restored, _ = checkpoint.restore(tx, params, saved)
    for buffer in jax.tree.leaves(restored.custom):
        assert buffer.sharding.is_equivalent_to(spec, buffer.ndim)


@dataclass(frozen=True)
class Named(Momentum):
    """The heavy ball with another name of its buffer."""

    name: str = "velocity"

    @property
    def slots(self):
        return (custom.Slot(self.name, self.velocity),)

    def apply(self, leaf, scalars):
        moment = scalars["beta"] * leaf.buffers[self.name] + leaf.value()
        leaf = leaf.settled()._replace(numerator=moment)
        return leaf.keeping(**{self.name: moment})


@pytest.mark.parametrize("name", ["rules", "blocks", "window"])
def test_a_buffer_with_the_name_of_a_setting(name, tmp_path):
    """The record has settings of these names beside the meaning of each buffer."""
    rule = Named(
        custom.hyperparameter("beta", 0.9, custom.BETA),
        custom.storage("dtype", EIGHT),
        name,
    )
    tx = optadamw.chain(custom.atom(rule), optadamw.scale_by_learning_rate(0.1))
    tx = optadamw.skip_nonfinite(optadamw.multi_steps(tx, 2))
    params = {"w": jnp.ones((64, 64))}
    _, state = tx.update(params, tx.init(params), params)
    checkpoint.save(tmp_path / "x.npz", tx, state, params)
    found, report = checkpoint.restore(tx, params, checkpoint.load(tmp_path / "x.npz"))
    trees.assert_same_bits(found, state)
    assert report.is_whole and f"{name}/w" in report.kept
