"""The table of planted faults: a line, a wrong one for it, the test that must fail."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One line of the package replaced by a wrong one."""

    name: str
    path: str
    """The file, from the package's folder."""
    old: str
    """What it says, exactly once."""
    new: str
    noticed_by: str
    """The test that must fail, as pytest selects it, from the folder of tests."""


KNOB = "rules/test_knobs.py::test_a_knob_away_from_its_default"
ALL_ON = "rules/test_knobs.py::test_other_dtypes_with_everything_on"
DEFAULT = f"{KNOB}[learning_rate-options0-theirs0]"


def knob(name: str) -> str:
    """Select the rows of one knob."""
    return f"rules/test_knobs.py -k 'test_a_knob and {name}-'"


FAULTS = [
    # Moments
    Fault(
        "no bias correction of the first moment",
        "rules/adam.py",
        '"remaining_mu": self._remaining("mu", b1, clock.time)',
        '"remaining_mu": 1.0',
        DEFAULT,
    ),
    Fault(
        "no bias correction of the second moment",
        "rules/adam.py",
        '"remaining_nu": self._remaining("nu", b2, clock.time)',
        '"remaining_nu": 1.0',
        DEFAULT,
    ),
    Fault(
        "bias correction one step late",
        "base/clock.py",
        "return self.number.astype(self.dtype)",
        "return self.number.astype(self.dtype) + 1",
        DEFAULT,
    ),
    Fault(
        "bias correction as 1 - beta**t in float32",
        "base/numerics.py",
        "return -jnp.expm1(exponent * log_beta)",
        "return 1 - jnp.exp(log_beta) ** exponent",
        "rules/test_accuracy.py::test_one_float32_step_is_within_eight_ulps",
    ),
    Fault(
        "bias correction cannot be switched off",
        "rules/adam.py",
        "return one_minus_power(beta, t) if is_corrected else 1.0",
        "return one_minus_power(beta, t)",
        knob("bias_correction"),
    ),
    Fault(
        "b2 used for the first moment",
        "rules/adam.py",
        "running_mean(mu, g, b1, one_minus_b1,",
        "running_mean(mu, g, b2, one_minus_b2,",
        DEFAULT,
    ),
    Fault(
        "b1 used for the new share of the second moment",
        "rules/adam.py",
        "running_mean(nu, g * g, b2, one_minus_b2,",
        "running_mean(nu, g * g, b2, one_minus_b1,",
        DEFAULT,
    ),
    Fault(
        "the second moment of the magnitude, not of the square",
        "rules/adam.py",
        "running_mean(nu, g * g, ",
        "running_mean(nu, jnp.abs(g), ",
        DEFAULT,
    ),
    Fault(
        "the first moment begins anew at step 3",
        "rules/adam.py",
        '"one_minus_b1": 1.0 - b1,',
        '"one_minus_b1": jnp.where(clock.number == 3, 1.0, 1.0 - b1),',
        DEFAULT,
    ),
    Fault(
        "moments in the parameter's dtype",
        "store/dense.py",
        "real = self.dtype or compute_dtype(param.dtype)",
        "real = self.dtype or param.dtype",
        f"{ALL_ON} -k 'bfloat16 or float16'",
    ),
    Fault(
        "the step takes the first moment rounded to mu_dtype",
        "rules/adam.py",
        "leaf = leaf._replace(gradient=g, numerator=mu,",
        "leaf = leaf._replace(gradient=g, numerator=mu.astype(jnp.bfloat16)"
        ".astype(mu.dtype),",
        knob("mu_dtype"),
    ),
    Fault(
        "a huge gradient squared to infinity",
        "base/bounded.py",
        "return jnp.where(jnp.isfinite(g), jnp.clip(g, -most, most), g)",
        "return g",
        "rules/test_field_faults.py::test_n3_a_huge_finite_gradient_destroys_nothing",
    ),
    Fault(
        "weights of a mean that do not sum to 1",
        "base/means.py",
        "return old + take * (new - old)",
        "return keep * old + take * new",
        "campaigns/test_short.py -k drift",
    ),
    # Direction
    Fault(
        "eps inside the root",
        "rules/adam.py",
        'sqrt(second + scalars["eps_root"]) + scalars["eps"]',
        'sqrt(second + scalars["eps_root"] + scalars["eps"])',
        knob("eps"),
    ),
    Fault(
        "eps dropped",
        "rules/adam.py",
        'sqrt(second + scalars["eps_root"]) + scalars["eps"]',
        'sqrt(second + scalars["eps_root"])',
        knob("eps"),
    ),
    Fault(
        "eps_root dropped",
        "rules/adam.py",
        'sqrt(second + scalars["eps_root"]) + scalars["eps"]',
        'sqrt(second) + scalars["eps"]',
        knob("eps_root"),
    ),
    Fault(
        "epsilon hat treated as eps",
        "rules/adam.py",
        'if self.eps_mode == "hat":',
        "if False:",
        knob("eps_mode"),
    ),
    Fault(
        "Nesterov's momentum corrected for this step, not the next",
        "rules/adam.py",
        "one_minus_power(b1, clock.time + 1)",
        "one_minus_power(b1, clock.time)",
        knob("nesterov"),
    ),
    Fault(
        "Nesterov without the gradient",
        "rules/adam.py",
        'numerator + leaf.gradient * scalars["gradient_scale"]',
        "numerator",
        knob("nesterov"),
    ),
    Fault(
        "zero over zero is NaN",
        "base/numerics.py",
        "jnp.where(counts_as_zero(denominator), jnp.inf, denominator)",
        "denominator",
        "rules/test_field_faults.py::test_n1_a_zero_gradient_moves_nothing",
    ),
    Fault(
        "a moment that is flushed to 0 is divided by",
        "base/numerics.py",
        "lax.abs(denominator) < smallest_root(denominator.dtype)",
        "denominator == 0",
        "rules/test_field_faults.py -k flushed",
    ),
    Fault(
        "the derivative of the root is infinite at zero",
        "base/numerics.py",
        "positive = root > 0",
        "positive = root > -1",
        "rules/test_field_faults.py -k test_n15",
    ),
    Fault(
        "amsgrad without the maximum",
        "rules/amsgrad.py",
        'nu_max = jnp.maximum(leaf.buffers["nu_max"], nu)',
        "nu_max = nu",
        knob("amsgrad"),
    ),
    Fault(
        "amsgrad used but not kept",
        "rules/amsgrad.py",
        "return leaf.keeping(nu_max=nu_max)",
        "return leaf.keeping(nu_max=nu)",
        knob("amsgrad"),
    ),
    Fault(
        "amsgrad 'corrected' is the maximum of the raw moment",
        "rules/amsgrad.py",
        'nu = nu * scalars["nu_scale"]',
        "pass",
        knob("amsgrad"),
    ),
    Fault(
        "caution without rescaling",
        "rules/caution.py",
        "leaf.numerator * scale",
        "leaf.numerator",
        knob("caution"),
    ),
    Fault(
        "maximize after the moments",
        "rules/maximize.py",
        "return leaf.settled()._replace(numerator=-leaf.value())",
        "return leaf",
        knob("maximize"),
    ),
    # Decay and rate
    Fault(
        "coupled L2: the decay goes through the moments",
        "rules/adam.py",
        "bounded(leaf.value(), ",
        "bounded(leaf.value() + 1e-4 * leaf.param, ",
        DEFAULT,
    ),
    Fault(
        "no decay",
        "rules/decay.py",
        "-0.0, share * leaf.param)",
        "-0.0, 0 * share * leaf.param)",
        knob("weight_decay"),
    ),
    Fault(
        "every parameter is decayed, whatever the mask",
        "rules/decay.py",
        "return self.where",
        "return None",
        knob("mask"),
    ),
    Fault(
        "the decay is of the parameter after the step",  # rate * decay = 5e-5
        "leaf/compute.py",
        "target = before + update\n",
        "target = before + update * (1 - 5e-5)\n",
        DEFAULT,
    ),
    Fault(
        "decay without the learning rate",
        "rules/decay.py",
        "shrinkage = learning_rate * weight_decay",
        "shrinkage = weight_decay",
        knob("weight_decay"),
    ),
    Fault(
        "decay by the learning rate where only the schedule was asked for",
        "rules/decay.py",
        "shrinkage = self._multiplier(learning_rate, clock) * weight_decay",
        "shrinkage = learning_rate * weight_decay",
        knob("weight_decay_mode"),
    ),
    Fault(
        "corrected decay without the square",
        "rules/decay.py",
        "shrinkage = learning_rate * multiplier * weight_decay",
        "shrinkage = multiplier * weight_decay",
        knob("weight_decay_mode"),
    ),
    Fault(
        "schedules count from one",
        "base/hyperparameters.py",
        "self.schedule(clock.step)",
        "self.schedule(clock.number)",
        knob("learning_rate"),
    ),
    # Clips
    Fault(
        "a small norm is scaled up to the limit",
        "rules/clip.py",
        "above = (norm > limit) & jnp.isfinite(norm)",
        "above = jnp.isfinite(norm)",
        knob("clip_norm"),
    ),
    Fault(
        "the global norm forgets the last parameter",
        "base/numerics.py",
        "total = jnp.sum(jnp.stack([plain for plain, _ in squares]))",
        "total = jnp.sum(jnp.stack([p for p, _ in squares[:-1] or squares]))",
        knob("clip_global_norm"),
    ),
    Fault(
        "the norm of a huge gradient overflows",
        "base/numerics.py",
        "return lax.platform_dependent(cpu=by_branch, default=by_selection)",
        "return sqrt(total)",
        "rules/test_field_faults.py -k test_n3_a_clip",
    ),
    # Counting, writing, averaging
    Fault(
        "a master of 24 bits is not rounded at random",
        "commit/short_master.py",
        "bits_at(site, target.shape) >> 24",
        "jnp.uint32(128)",
        "commit/test_short_master.py",
    ),
    Fault(
        "a float16 parameter that was changed is forgotten",
        "commit/master.py",
        "jnp.where(is_rounded, copy, param.astype(copy.dtype))",
        "copy",
        "commit/test_changed_parameters.py",
    ),
    Fault(
        "the counter stops at 256",
        "base/numerics.py",
        "most = jnp.iinfo(count.dtype).max",
        "most = 256",
        "rules/test_field_faults.py::test_n10_the_counter_is_int32_and_passes_256",
    ),
    Fault(
        "the counter is a Python number",
        "store/state.py",
        "return jnp.asarray(value)",
        "return value.item()",
        DEFAULT,
    ),
    Fault(
        "the counter wraps around",
        "base/numerics.py",
        "return jnp.where(count < most, count + 1, most).astype(count.dtype)",
        "return count + 1",
        "rules/test_field_faults.py -k test_n9",
    ),
    Fault(
        "an update of a 16-bit parameter is rounded as it is",
        "leaf/compute.py",
        "if not (narrow and program.is_whole):",
        "if True:",
        f"{ALL_ON} -k update",
    ),
    Fault(
        "a parameter without a gradient loses its moments",
        "walk/step.py",
        "output, buffers = leaf.param, leaf.buffers",
        "output, buffers = leaf.param, {k: 0 * v for k, v in leaf.buffers.items()}",
        "rules/test_knobs.py::test_a_missing_gradient_touches_nothing",
    ),
    Fault(
        "the average is of the parameter before the step",
        "leaf/compute.py",
        "target = commit.read_back(written, leaf.buffers)",
        "target = before",
        knob("ema_decay"),
    ),
    Fault(
        "the average is of the parameter before it is rounded",
        "leaf/compute.py",
        "target = commit.read_back(written, leaf.buffers)",
        "target = before + update",
        f"{ALL_ON} -k 'bfloat16 or float16'",
    ),
    Fault(
        "the average begins at zero",
        "rules/ema.py",
        'start="param"',
        'start="zeros"',
        knob("ema_decay"),
    ),
    Fault(
        "the average's warm-up counts from zero",
        "rules/ema.py",
        'jnp.maximum(scalars["take"], 9 / (10 + t))',
        'jnp.maximum(scalars["take"], 9 / (9 + t))',
        knob("ema_warmup"),
    ),
    Fault(
        "debiasing one step early",
        "rules/ema.py",
        "one_minus_power(decay, t)",
        "one_minus_power(decay, t + 1)",
        knob("ema_debias"),
    ),
    Fault(
        "the average overwrites one step early",
        "rules/ema.py",
        "clock.number % jnp.maximum(every, 1) == 0",
        "clock.step % jnp.maximum(every, 1) == 0",
        knob("ema_overwrite_every"),
    ),
    # Windows, guards, scales
    Fault(
        "a dropped gradient is multiplied by zero",
        "leaf/compute.py",
        "term = jnp.where(keep, term, -0.0)",
        "term = term * keep",
        "laws/test_guard.py -k a_run_with_bad_gradients",
    ),
    Fault(
        "a window begins with what the one before left",
        "leaf/compute.py",
        "before = jnp.where(first, 0.0, store.decode(accumulator, like))",
        "before = store.decode(accumulator, like)",
        "laws/test_accumulation.py",
    ),
    Fault(
        "the mean is over micro-batches and not their weights",
        "walk/accumulate.py",
        "share = weight",
        "share = jnp.ones_like(weight)",
        "laws/test_accumulation.py",
    ),
    Fault(
        "a skipped step is counted as a step",
        "walk/next_state.py",
        "jnp.where(go, number, state.step)",
        "jnp.where(go, number, number)",
        "laws/test_guard.py -k leaves_every_bit",
    ),
    Fault(
        "a gradient that is not finite becomes a step",
        "control/signals.py",
        "return self.nonfinite | self.spike",
        "return self.spike",
        "laws/test_guard.py -k leaves_every_bit",
    ),
    Fault(
        "a spike widens the limit",
        "control/spikes.py",
        "jnp.minimum(value, limit)",
        "value",
        "laws/test_guard.py -k huge_value",
    ),
    Fault(
        "the gradients keep the loss scale",
        "control/control.py",
        "return 1 / state.loss_scale.astype(clock.dtype)",
        "return 0 * state.loss_scale.astype(clock.dtype) + 1",
        "control/test_loss_scale.py",
    ),
    Fault(
        "the loss scale grows one step late",
        "control/loss_scale.py",
        "is_full = growth + 1 >= self.growth_interval",
        "is_full = growth >= self.growth_interval",
        "control/test_loss_scale.py -k pytorchs",
    ),
    Fault(
        "a bad gradient does not restart the count of good steps",
        "control/loss_scale.py",
        "return following, jnp.where(bad, 0, count).astype(jnp.int32)",
        "return following, count.astype(jnp.int32)",
        "control/test_loss_scale.py -k pytorchs",
    ),
    Fault(
        "a second moment below the smallest code becomes 0",
        "store/block_code.py",
        "enough = jnp.maximum(floor - (1 << 23), 1) if signed else 1",
        "enough = jnp.maximum(floor - (1 << 23), 1)",
        "house/test_studies.py -k two_implementations",
    ),
    Fault(
        "both moments are rounded by the same random bits",
        "base/random_bits.py",
        "self.key ^ jnp.uint32(zlib.crc32(buffer.encode()))",
        "self.key ^ jnp.uint32(0 * zlib.crc32(buffer.encode()))",
        "store/test_composition.py -k two_moments_draw",
    ),
    Fault(
        "8-bit moments without a guard",
        "walk/composition.py",
        "if self.needs_guard and self.control.effective_guard is None:",
        "if False:",
        "store/test_refusals.py -k chain_without_a_guard",
    ),
    Fault(
        "a frozen second moment is let through",
        "store/moments.py",
        "elif 1 - known <= half:",
        "elif 1 - known <= half / 8:",
        "store/test_refusals.py -k second_moment_that_would_freeze",
    ),
    Fault(
        "an aborted window goes on with the rest",
        "walk/accumulate.py",
        "total = jnp.where(aborted, ABORTED, total)",
        "total = jnp.where(aborted, 0, total)",
        "control/test_calls.py -k every_combination",
    ),
    Fault(
        "a flush divides by the size of a full window",
        "walk/accumulate.py",
        "accumulation.scale(state.weight, self.clock)",
        "accumulation.scale(accumulation.due(self.clock) * 1.0, self.clock)",
        "laws/test_accumulation.py -k flush",
    ),
    Fault(
        "bad gradients in a row are counted for ever",
        "control/control.py",
        "jnp.where(bad, saturating_increment(run), jnp.where(good, 0, run))",
        "jnp.where(bad, saturating_increment(run), run)",
        "control/test_calls.py -k every_combination",
    ),
]
