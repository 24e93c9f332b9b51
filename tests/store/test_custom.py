"""Buffers of a user's rules: whatever holds for `mu` holds for a name of one's own."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import custom
from optadamw.store.state import buffers_in
from tests.support import trees
from tests.support.compilations import Compilations
from tests.support.lookahead import lookahead
from tests.support.momentum import scale_by_momentum

EIGHT = optadamw.blockwise(min_size=0)
SIXTEEN = optadamw.stochastic("bfloat16")
FORMS = {"float32": None, "16-bit": SIXTEEN, "8-bit": EIGHT}
RATE = optadamw.scale_by_learning_rate(0.1)
KINDS = {"kernel": (jnp.float32, (4, 64)), "bias": (jnp.float32, (64,))}

each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def momentum(form=None, *last):
    """A chain with `velocity` in any form, guarded as 8 bits need it."""
    return optadamw.skip_nonfinite(
        optadamw.chain(scale_by_momentum(0.9, form), RATE, *last)
    )


def trained(tx, steps=3, kinds=KINDS):
    params, step = trees.normal(kinds, seed=0), jax.jit(tx.step)
    state = tx.init(params)
    for i in range(steps):
        params, state = step(trees.normal(kinds, seed=1 + i), state, params)
    return params, state


# --- The state -----------------------------------------------------------------------


def test_names_that_state_lacks_are_in_custom_and_sorted():
    tx = momentum(EIGHT, lookahead(2))
    _, state = trained(tx)
    assert list(state.custom) == ["slow", "velocity", "velocity_scales"]
    assert list(buffers_in(state)) == list(state.custom)
    assert state.mu is None and state.custom["velocity"]["kernel"].dtype == jnp.uint8
    assert state.custom["velocity_scales"]["kernel"].shape == (4, 2)


def test_a_state_without_own_rules_has_no_custom():
    state = optadamw.adamw(0.1).init(trees.normal(KINDS, seed=0))
    assert state.custom is None


@each_form
def test_shapes_make_the_state_that_arrays_make(form):
    tx, params = momentum(form, lookahead(2, 0.5, SIXTEEN)), trees.normal(KINDS, 0)
    abstract = jax.eval_shape(lambda: params)
    state = tx.init(params)
    assert jax.tree.structure(tx.init(abstract)) == jax.tree.structure(state)
    for made in (tx.init(abstract), jax.eval_shape(tx.init, params)):
        trees.assert_same_types(made, jax.eval_shape(lambda: state))
    trees.assert_same_bits(jax.jit(tx.init)(params), state)


@each_form
def test_a_rebuilt_chain_is_not_traced_again(form):
    params, state = trained(momentum(form, lookahead(2)), steps=1)
    grads = trees.normal(KINDS, seed=9)
    with Compilations() as compilations:
        for _ in range(3):
            tx = momentum(form, lookahead(2))
            params, state = jax.jit(tx.step)(grads, state, params)
    assert compilations.count == 0


@each_form
def test_custom_buffers_follow_a_named_one_bit_for_bit(form):
    """`velocity` in `custom` is what a rule that calls its slot `mu` keeps in `mu`."""
    named = optadamw.skip_nonfinite(
        optadamw.chain(
            custom.atom(
                Named(
                    custom.hyperparameter("beta", 0.9, custom.BETA),
                    custom.storage("dtype", _nearest(form)),
                )
            ),
            RATE,
        )
    )
    params, state = trained(momentum(_nearest(form)))
    expected, other = trained(named)
    trees.assert_same_bits(params, expected)
    trees.assert_same_bits(state.custom["velocity"], other.mu)
    if form is EIGHT:
        trees.assert_same_bits(state.custom["velocity_scales"], other.mu_scales)


def _nearest(form):
    """The form without random bits, which depend on the name of the slot."""
    if form is SIXTEEN:
        return "bfloat16"
    return optadamw.blockwise(min_size=0, rounding="nearest") if form else None


@dataclass(frozen=True)
class Named(custom.Rule):
    """`tests.momentum` with a slot that State has a field for."""

    beta: custom.Hyperparameter
    mu: custom.Storage

    stage: ClassVar[custom.Stage] = custom.Stage.MOMENTS

    @property
    def slots(self):
        return (custom.Slot("mu", self.mu),)

    def scalars(self, clock, shared):
        return {"beta": self.beta.at(clock)}

    def apply(self, leaf, scalars):
        mu = scalars["beta"] * leaf.buffers["mu"] + leaf.value()
        return leaf.settled()._replace(numerator=mu).keeping(mu=mu)


def test_errors_name_the_place_of_the_buffer():
    tx = momentum()
    params, state = trained(tx)
    grads = trees.normal(KINDS, seed=9)
    partly = {"velocity": {"kernel": state.custom["velocity"]["kernel"]}}
    with pytest.raises(ValueError, match=r"structure of state.custom\['velocity'\]"):
        tx.step(grads, state._replace(custom=partly), params)
    short = state.custom["velocity"] | {"bias": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"Leaf 'bias': its buffer is float32\[3\]"):
        tx.step(grads, state._replace(custom={"velocity": short}), params)
    with pytest.raises(ValueError, match="lacks the buffer `velocity`"):
        tx.step(grads, state._replace(custom=None), params)
    extra = state.custom | {"other": params}
    with pytest.raises(ValueError, match="holds the buffer `other`"):
        tx.step(grads, state._replace(custom=extra), params)


def test_optax_finds_and_maps_the_buffers():
    tx = momentum(None, lookahead(2))
    params, state = trained(tx)
    found = optax.tree_utils.tree_get(state, "slow")
    trees.assert_same_bits(found, state.custom["slow"])
    zeros = jax.tree.map(jnp.zeros_like, params)
    changed = optax.tree_utils.tree_set(state, velocity=zeros)
    trees.assert_same_bits(changed.custom["velocity"], zeros)
    trees.assert_same_bits(changed.custom["slow"], state.custom["slow"])


def test_inside_optax_wrappers_and_chains():
    ours = momentum(None, lookahead(2))
    tx = optax.chain(optax.identity(), optax.masked(ours, {"kernel": True, "bias": 0}))
    params = trees.normal(KINDS, seed=0)
    state, update = tx.init(params), jax.jit(tx.update)
    only = {"kernel": params["kernel"]}
    own = ours.init(only)
    for i in range(3):
        grads = trees.normal(KINDS, seed=1 + i)
        updates, state = update(grads, state, params)
        moved, own = jax.jit(ours.update)({"kernel": grads["kernel"]}, own, only)
        trees.assert_same_bits(updates["kernel"], moved["kernel"])
        params = optax.apply_updates(params, updates)
        only = optax.apply_updates(only, moved)


# --- Control, groups, commits --------------------------------------------------------


@each_form
@pytest.mark.parametrize("call", ["step", "update", "jit_step"])
def test_a_refused_step_leaves_the_buffers_to_the_bit(form, call):
    tx = momentum(form, lookahead(1, 0.5, SIXTEEN))
    params, state = trained(tx)
    before = jax.tree.map(jnp.copy, (params, state))
    bad = trees.normal(KINDS, seed=9)
    bad["bias"] = bad["bias"].at[3].set(jnp.nan)
    after, kept = getattr(tx, call)(bad, state, params)
    if call == "update":
        after = optax.apply_updates(params, after)
    trees.assert_same_bits(after, before[0])
    trees.assert_same_bits(kept.custom, before[1].custom)
    assert optadamw.stats_of(kept).skipped == 1


@each_form
def test_accumulation_moves_them_once_a_window(form):
    tx = optadamw.multi_steps(momentum(form, lookahead(1)), 2)
    params = trees.normal(KINDS, seed=0)
    state, step = tx.init(params), jax.jit(tx.step)
    for i in range(4):
        before = state.custom
        params, state = step(trees.normal(KINDS, seed=1 + i), state, params)
        if i % 2 == 0:
            trees.assert_same_bits(state.custom, before)
    first = step(trees.normal(KINDS, seed=8), state, params)
    _, flushed = tx.flush(first[1], first[0])
    assert int(flushed.step) == 3 and list(flushed.custom) == list(state.custom)


def test_groups_have_numbers_of_their_own():
    def chain(beta, size):
        return optadamw.chain(scale_by_momentum(beta), RATE, lookahead(2, size))

    numbers = {"kernel": (0.9, 0.5), "bias": (0.5, 1.0)}
    tx = optadamw.param_groups(chain(0.9, 0.5), {"bias": chain(0.5, 1.0)})
    params, state = trained(tx, steps=4)
    for name, own in numbers.items():
        alone = chain(*own)
        one = {name: trees.normal(KINDS, seed=0)[name]}
        kept, step = alone.init(one), jax.jit(alone.step)
        for i in range(4):
            grads = trees.normal(KINDS, seed=1 + i)
            one, kept = step({name: grads[name]}, kept, one)
        trees.assert_same_bits(params[name], one[name])
        for slot, buffer in kept.custom.items():
            trees.assert_same_bits(state.custom[slot][name], buffer[name])
    with pytest.raises(ValueError, match="stores its buffers in another format"):
        optadamw.param_groups(
            optadamw.chain(scale_by_momentum(), RATE),
            {"bias": optadamw.chain(scale_by_momentum(0.9, SIXTEEN), RATE)},
        )


@pytest.mark.parametrize("commit", ["nearest", "stochastic", "kahan", "master"])
def test_slow_weights_see_what_each_commit_wrote(commit):
    kinds = {"kernel": (jnp.bfloat16, (4, 64))}
    tx = optadamw.with_commit(optadamw.chain(RATE, lookahead(1, 1.0)), commit)
    params, state = trained(tx, steps=3, kinds=kinds)
    slow = state.custom["slow"]["kernel"]
    assert slow.dtype == jnp.float32
    if commit in ("nearest", "stochastic"):
        trees.assert_same_bits(slow.astype(jnp.bfloat16), params["kernel"])
    else:
        np.testing.assert_allclose(slow, params["kernel"].astype(jnp.float32), 2**-8)


# --- Rules that the library itself has none of --------------------------------------


@dataclass(frozen=True)
class Shrunk(custom.Rule):
    """A rule on gradients that has a buffer and reads the parameter."""

    stage: ClassVar[custom.Stage] = custom.Stage.GRADIENT
    needs_params: ClassVar[bool] = True

    @property
    def slots(self):
        return (custom.Slot("seen", custom.storage("dtype", None)),)

    def apply(self, leaf, scalars):
        moved = leaf.value() + 0.1 * leaf.param + 0.5 * leaf.buffers["seen"]
        return leaf.settled()._replace(numerator=moved).keeping(seen=moved)


def test_a_norm_is_measured_behind_a_rule_on_gradients_with_a_buffer():
    """Before, the norm was measured without buffers and parameters: a KeyError."""
    tx = optadamw.chain(custom.atom(Shrunk()), optadamw.clip_by_global_norm(0.5), RATE)
    params, state = trained(tx)
    grads = trees.normal(KINDS, seed=9)
    seen = {
        name: grads[name] + 0.1 * params[name] + 0.5 * state.custom["seen"][name]
        for name in grads
    }
    norm = np.sqrt(sum(np.sum(np.square(np.float64(x))) for x in seen.values()))
    moved, _ = tx.step(grads, state, params)
    for name in grads:
        expected = params[name] - 0.1 * seen[name] * min(1, 0.5 / norm)
        np.testing.assert_allclose(moved[name], expected, rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Early(custom.Rule):
    """A buffer that is written after the commit, by a rule that is not the last."""

    kept: custom.Storage

    stage: ClassVar[custom.Stage] = custom.Stage.GRADIENT
    needs_params: ClassVar[bool] = True

    @property
    def slots(self):
        return (custom.Slot("last", self.kept),)

    def after_commit(self, target, leaf, scalars):
        return leaf.keeping(last=target), None


@pytest.mark.parametrize("form", ["float32", "bfloat16"])
def test_a_rounded_buffer_written_after_the_commit_is_kept(form):
    """Before, rounded buffers of early rules were taken from before the commit."""
    tx = optadamw.chain(custom.atom(Early(custom.storage("dtype", form))), RATE)
    params, state = trained(tx)
    expected = jax.tree.map(lambda p: p.astype(form), params)
    trees.assert_same_bits(state.custom["last"], expected)


@dataclass(frozen=True)
class Anchor(custom.Rule):
    """L2-SP: a pull towards the parameters as they were; the buffer is only read."""

    stage: ClassVar[custom.Stage] = custom.Stage.DIRECTION
    needs_params: ClassVar[bool] = True
    verb: ClassVar[str] = "pull_back"

    @property
    def slots(self):
        return (custom.Slot("anchor", custom.storage("dtype", None), start="param"),)

    def apply(self, leaf, scalars):
        pulled = leaf.value() + 0.5 * (leaf.param - leaf.buffers["anchor"])
        return leaf.settled()._replace(numerator=pulled)


def test_a_copy_of_the_parameters_may_be_read_alone():
    tx = optadamw.chain(custom.atom(Anchor()), RATE)
    _, state = trained(tx)
    trees.assert_same_bits(state.custom["anchor"], trees.normal(KINDS, seed=0))


# --- Reports -------------------------------------------------------------------------


@each_form
def test_describe_and_memory_plan_count_them(form):
    tx = momentum(form, lookahead(2, 0.5, SIXTEEN))
    params, state = trained(tx)
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    text = optadamw.describe(tx, params)
    assert f"state {size:,} bytes" in text and "slow bfloat16" in text
    plan = optadamw.memory_plan(tx, params)
    velocity = {k: v for k, v in state.custom.items() if k.startswith("velocity")}
    assert plan.shares["velocity"].total == _bytes(velocity)
    assert plan.shares["slow"].total == _bytes(state.custom["slow"])
    small = _bytes(state._replace(custom=None))
    assert plan.shares["counters"].total == small
    assert plan.persistent.total == _bytes((params, state))


def _bytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_describe_shows_each_rule_by_its_name_and_the_forms():
    tx = momentum(EIGHT)
    text = optadamw.describe(tx, trees.normal(KINDS, seed=0))
    assert "scale_by_momentum: beta=0.9, velocity_dtype=blockwise(min_size=0)" in text
    assert "velocity 8-bit/32" in text
    direction = optadamw.chain(custom.atom(Anchor()), RATE)
    assert "1. pull_back" in optadamw.describe(direction, trees.normal(KINDS, seed=0))


def test_dequantize_reads_blocks_in_custom():
    tx = momentum(EIGHT, lookahead(2))
    _, state = trained(tx)
    read = optadamw.dequantize(state)
    assert list(read.custom) == ["slow", "velocity"]
    _, exact = trained(momentum(None, lookahead(2)))
    for name, wanted in exact.custom["velocity"].items():
        # Three roundings of an eighth at most, relative to the largest of a block.
        found = read.custom["velocity"][name]
        assert found.dtype == jnp.float32 and np.any(found < 0)
        assert np.max(np.abs(found - wanted)) <= 3 / 8 * np.max(np.abs(wanted))


def test_swap_ema_and_finalize_leave_them():
    last = (lookahead(2), optadamw.ema_params(0.9))
    tx = optadamw.chain(optadamw.scale_by_adam(), RATE, *last)
    params, state = trained(tx)
    averaged, swapped = optadamw.swap_ema(state, params)
    back, again = optadamw.swap_ema(swapped, averaged)
    trees.assert_same_bits((back, again), (params, state))
    trees.assert_same_types(optadamw.finalize(state, params), params)
