"""An author's mistake in a rule raises in words, before a number is wrong."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import custom
from tests.support import trees
from tests.support.momentum import scale_by_momentum

KINDS = {"kernel": (jnp.float32, (4, 8)), "bias": (jnp.float32, (8,))}
RATE = optadamw.scale_by_learning_rate(0.1)
PLAIN = custom.storage("dtype", None)


@dataclass(frozen=True)
class Good(custom.Rule):
    """A rule without a fault; the others below have one each."""

    stage: ClassVar[custom.Stage] = custom.Stage.CAUTION
    verb: ClassVar[str] = "be_good"

    def apply(self, leaf, scalars):
        return leaf


def took_a_step(rule):
    tx = optadamw.chain(custom.atom(rule), RATE)
    params = trees.normal(KINDS, seed=0)
    return tx.step(trees.normal(KINDS, seed=1), tx.init(params), params)


def test_a_rule_without_a_fault_is_taken():
    moved, state = took_a_step(Good())
    assert state.custom is None and moved.keys() == KINDS.keys()


# --- When the transformation is built ------------------------------------------------


@dataclass(frozen=True)
class NoStage(custom.Rule):
    def apply(self, leaf, scalars):
        return leaf


@dataclass(frozen=True)
class StageInWords(Good):
    stage: ClassVar[Any] = "caution"


@dataclass(frozen=True)
class NoName(Good):
    verb: ClassVar[Any] = None


@dataclass(frozen=True)
class NoComma(Good):
    publishes: ClassVar[Any] = "rate"


@dataclass(frozen=True)
class Unhashable(Good):
    sizes: list = field(default_factory=lambda: [1, 2])


@dataclass(frozen=True)
class RawArray(Good):
    size: Any = field(default_factory=lambda: jnp.ones(()))


@dataclass(frozen=True)
class Misspelled(custom.Rule):
    stage: ClassVar[custom.Stage] = custom.Stage.CAUTION

    def aply(self, leaf, scalars):
        return leaf


@dataclass(frozen=True)
class NeedsParams(custom.Rule):
    stage: ClassVar[custom.Stage] = custom.Stage.COMMITTED

    def after_commit(self, target, leaf, scalars):
        return leaf, None


@dataclass(frozen=True)
class NoSums(Good):
    def leaf_scalars(self, leaf, scalars):
        return {"mean": jnp.mean(leaf.value())}


@dataclass(frozen=True)
class SlotsAsMethod(Good):
    def slots(self):
        return (custom.Slot("slow", PLAIN),)


@dataclass(frozen=True)
class OneSlot(Good):
    slots: ClassVar[Any] = custom.Slot("slow", PLAIN)


@dataclass(frozen=True)
class SlotOfNames(Good):
    slots: ClassVar[Any] = ("slow",)


BUILT = {
    "a class": (Good, TypeError, r"Call it: Good\(\)"),
    "no rule": ("be_good", TypeError, "`rules` must be rules, instances"),
    "no stage": (
        NoStage(),
        TypeError,
        "`NoStage.stage` must be a member of Stage",
    ),
    "a stage in words": (StageInWords(), TypeError, "got 'caution' of type str"),
    "no name": (NoName(), TypeError, "`NoName.verb` must be the name"),
    "no comma": (NoComma(), TypeError, r"`NoComma.publishes` must be a tuple"),
    "a list": (Unhashable(), TypeError, r"`Unhashable.sizes` must be hashable.*tuples"),
    "an array": (RawArray(), TypeError, r"`RawArray.size` .*hyperparameter\("),
    "misspelled": (Misspelled(), TypeError, "overrides neither `apply` nor"),
    "needs_params": (NeedsParams(), TypeError, r"`needs_params: ClassVar\[bool\] ="),
    "no sums": (NoSums(), TypeError, r"`sums: ClassVar\[bool\] = True`"),
    "slots as method": (SlotsAsMethod(), TypeError, "Make it a property that does"),
    "one slot": (OneSlot(), TypeError, "`OneSlot.slots` must be a tuple of Slot"),
    "a slot of names": (SlotOfNames(), TypeError, "Mind the comma"),
}


@pytest.mark.parametrize(("rule", "error", "message"), BUILT.values(), ids=BUILT)
def test_an_unfinished_rule_is_refused_when_its_chain_is_built(rule, error, message):
    with pytest.raises(error, match=message):
        custom.atom(rule)


@dataclass(frozen=True)
class Keeps(Good):
    slot: custom.Slot

    @property
    def slots(self):
        return (self.slot,)


def _slot(name="mine", store=PLAIN, start="zeros"):
    return custom.Slot(name, store, start)


UNSIGNED = custom.storage("dtype", optadamw.blockwise(), signed=False)
SCALARS = ("step", "micro_step", "weight", "loss_scale", "growth", "events", "history")
SLOTS = {
    **{n: (_slot(n), "mean something else in a State") for n in (*SCALARS, "stats")},
    "custom": (_slot("custom"), "mean something else in a State"),
    "accumulator": (_slot("accumulator"), "mean something else in a State"),
    "residual": (_slot("residual"), "mean something else in a State"),
    "no identifier": (_slot("my slot"), "Python identifier; got 'my slot'"),
    "path": (_slot("a/b"), "Python identifier; got 'a/b'"),
    "empty": (_slot(""), "Python identifier; got ''"),
    "keyword": (_slot("lambda"), "Python identifier; got 'lambda'"),
    "number": (_slot(3), "Python identifier; got 3 of type int"),
    "scales": (_slot("slow_scales"), "does not end in '_scales'"),
    "scales of mu": (_slot("mu_scales"), "does not end in '_scales'"),
    "start": (_slot(start="params"), "start` must be 'zeros' or 'param'; got 'params'"),
    "store": (_slot(store="bfloat16"), r"must be a Storage; got 'bfloat16'.*storage\("),
    "form": (_slot(store=optadamw.blockwise()), r"must be a Storage; got blockwise"),
    "unsigned": (_slot(store=UNSIGNED), "signed, unless the buffer is nu or nu_max"),
}


@pytest.mark.parametrize(("slot", "message"), SLOTS.values(), ids=SLOTS)
def test_a_slot_that_a_state_cannot_hold_is_refused(slot, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        custom.atom(Keeps(slot))
    assert "Keeps.slots" in str(error.value)


def test_a_name_belongs_to_one_rule():
    with pytest.raises(ValueError, match="both claim the buffer `velocity`"):
        optadamw.chain(scale_by_momentum(), scale_by_momentum(0.5), RATE)


def test_unsigned_blocks_are_for_second_moments():
    assert custom.atom(Keeps(_slot("nu", UNSIGNED)))


# --- When the first step is traced ---------------------------------------------------


@dataclass(frozen=True)
class Returns(Good):
    """A rule whose `apply` returns what a function makes of the leaf."""

    made: Any

    def apply(self, leaf, scalars):
        return self.made(leaf)


APPLIED = {
    "nothing": (lambda leaf: None, TypeError, "must return a Leaf; got None"),
    "array": (lambda leaf: leaf.value(), TypeError, "must return a Leaf; got a"),
    "pair": (lambda leaf: (leaf, None), TypeError, "must return a Leaf; got a tuple"),
    "sum": (
        lambda leaf: leaf._replace(numerator=jnp.sum(leaf.numerator)),
        ValueError,
        r"a numerator of the parameter's shape, float32\[8\]; got float32\[\]",
    ),
    "dtype": (
        lambda leaf: leaf._replace(numerator=leaf.numerator.astype("bfloat16")),
        ValueError,
        r"float32\[8\]; got bfloat16\[8\]",
    ),
    "denominator": (
        lambda leaf: leaf._replace(denominator=jnp.ones((3, 1))),
        ValueError,
        r"a denominator of the parameter's shape, \[8\]; got \[3, 1\]",
    ),
    "typo": (
        lambda leaf: leaf.keeping(slwo=leaf.value()),
        ValueError,
        "writes the buffer `slwo`, which is no slot; the slots are: none",
    ),
}


@pytest.mark.parametrize(("made", "error", "message"), APPLIED.values(), ids=APPLIED)
def test_what_apply_returns_is_a_leaf_of_the_same_kind(made, error, message):
    with pytest.raises(error, match=message) as raised:
        took_a_step(Returns(made))
    assert "`be_good: apply`" in str(raised.value)


@pytest.mark.parametrize("number", [1, 1.0, 2.0])
def test_a_denominator_may_be_a_number(number):
    found, _ = took_a_step(Returns(lambda leaf: leaf._replace(denominator=number)))
    array = jnp.float32(number)
    wanted, _ = took_a_step(Returns(lambda leaf: leaf._replace(denominator=array)))
    trees.assert_same_bits(found, wanted)


@dataclass(frozen=True)
class Writes(Keeps):
    """A rule with one slot, which its `apply` treats as a function says."""

    made: Any = None

    def apply(self, leaf, scalars):
        return self.made(leaf)


@dataclass(frozen=True)
class Late(Writes):
    """The like in `after_commit`."""

    needs_params: ClassVar[bool] = True

    def apply(self, leaf, scalars):
        return leaf

    def after_commit(self, target, leaf, scalars):
        return self.made(leaf)


WRITTEN = {
    "never": (Writes, lambda leaf: leaf, "never writes its buffer `mine`"),
    "as read": (
        Writes,
        lambda leaf: leaf.keeping(mine=leaf.buffers["mine"]),
        "never writes its buffer `mine`",
    ),
    "sum": (
        Writes,
        lambda leaf: leaf.keeping(mine=jnp.sum(leaf.numerator)),
        r"an array of shape \(\) into its buffer `mine`, which has shape \(8,\)",
    ),
    "typo": (
        Writes,
        lambda leaf: leaf.keeping(main=leaf.value()),
        "writes the buffer `main`, which is no slot; the slots are: mine",
    ),
    "dropped": (
        Writes,
        lambda leaf: leaf._replace(buffers={}),
        "without the buffer `mine`",
    ),
    "late, never": (Late, lambda leaf: (leaf, None), "never writes its buffer `mine`"),
    "late, nothing": (
        Late,
        lambda leaf: None,
        "a Leaf and an Overwrite or None",
    ),
    "late, leaf": (Late, lambda leaf: leaf, "must return a Leaf and an Overwrite"),
    "late, array": (
        Late,
        lambda leaf: (leaf, leaf.value()),
        "must return a Leaf and an Overwrite",
    ),
    "late, typo": (
        Late,
        lambda leaf: (leaf.keeping(main=leaf.value()), None),
        "`be_good: after_commit` writes the buffer `main`",
    ),
}


@pytest.mark.parametrize(("kind", "made", "message"), WRITTEN.values(), ids=WRITTEN)
def test_a_slot_is_written_by_its_name_and_in_its_shape(kind, made, message):
    with pytest.raises((TypeError, ValueError), match=message):
        took_a_step(kind(_slot(), made))


def test_a_slot_that_starts_as_the_parameter_may_be_read_alone():
    took_a_step(Writes(_slot(start="param"), lambda leaf: leaf))


@dataclass(frozen=True)
class Shares(Good):
    """A rule whose `scalars` returns what a function makes of the clock."""

    made: Any
    publishes: ClassVar[tuple[str, ...]] = ()

    def scalars(self, clock, shared):
        return self.made(clock)


@dataclass(frozen=True)
class Publishes(Shares):
    publishes: ClassVar[tuple[str, ...]] = ("size",)


@dataclass(frozen=True)
class OfNorm(Shares):
    reads_norm: ClassVar[bool] = True

    def scalars(self, clock, shared):
        return {}

    def norm_scalars(self, norm, scalars):
        return self.made(norm)


HALF = custom.hyperparameter("size", 0.5, custom.FRACTION)
SHARED = {
    "nothing": (Shares, lambda clock: None, "must return a mapping .*got None"),
    "number": (Shares, lambda clock: 0.5, r"must return a mapping .*got 0\.5"),
    "None in it": (Shares, lambda clock: {"size": None}, "`size` is None of type None"),
    "hyperparameter": (Shares, lambda clock: {"size": HALF}, r"`\.at\(clock\)`"),
    "word": (Shares, lambda clock: {"size": "half"}, "`size` is 'half' of type str"),
    "complex": (Shares, lambda clock: {"size": 1j}, "`size` is 1j of type complex"),
    "vector": (
        Shares,
        lambda clock: {"size": jnp.ones(3)},
        r"`size` is an array of shape \(3,\)",
    ),
    "NumPy": (
        Shares,
        lambda clock: {"size": np.ones((1, 1))},
        r"`size` is an array of shape \(1, 1\)",
    ),
    "unpublished": (
        Publishes,
        lambda clock: {"rate": 1.0},
        "`size`, which the rule",
    ),
    "norm": (OfNorm, lambda norm: norm, "norm_scalars` must return a mapping"),
}


@pytest.mark.parametrize(("kind", "made", "message"), SHARED.values(), ids=SHARED)
def test_scalars_are_real_scalars(kind, made, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        took_a_step(kind(made))
    assert "`be_good: " in str(error.value)


@pytest.mark.parametrize("value", [1, 0.5, True, np.float32(2), jnp.int32(3)])
def test_every_real_scalar_is_taken(value):
    took_a_step(Shares(lambda clock: {"size": value}))
