"""The comparison of a step of the library with the oracle, buffer by buffer.

Each step is judged from the library's own state before it: the oracle takes that state
(exactly, as float64) and one step, so errors cannot accumulate or hide one another and
the tolerance is that of a single step. By induction over the steps, from an `init` that
is compared exactly, the whole trajectory is right.

Errors are counted in ULPs of the dtype the library computes in, at the magnitude of the
terms that were added (`Outcome.scale`): a sum that cancels has no accuracy in its own
ULPs in any float32 arithmetic.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

from optadamw.store.state import buffer_in
from tests.support import floats, oracle

# Goal R1 allows a direction 8 ULP; clipping adds a norm, a division and a product.
ULPS = 8.0
CLIPPED_ULPS = 12.0
# The oracle is no more exact than a float64 parameter, so both their errors count.
FLOAT64_FACTOR = 2.0
# A 16-bit result is the float64 one rounded once: half an ULP and what float32 adds.
ONE_ROUNDING = 0.51


def follow(
    make: Callable[..., Any],
    adamw: oracle.AdamW,
    params: dict[str, np.ndarray],
    gradients: Iterable[dict[str, np.ndarray | None]],
    *,
    route: str = "step",
    traced: dict[str, Any] | None = None,
) -> float:
    """Take a step for each tree of `gradients` and compare each with the oracle.

    Args:
        make: Builds the transformation from the `traced` hyperparameters.
        adamw: The oracle with the same options.
        params: The parameters at the start.
        gradients: One tree for each step.
        route: "step", or "update" for `update` and `optax.apply_updates`.
        traced: Hyperparameters that enter the compiled step as arguments.

    Returns:
        The largest error met, as a share of what is allowed.
    """
    steps = trajectory(make, params, gradients, route=route, traced=traced)
    params, state = next(steps)
    check_start(adamw, state, params)
    types = jax.tree.map(_type, (params, state))
    worst = 0.0
    for grads, before, after in steps:
        assert jax.tree.map(_type, after) == types
        worst = max(worst, check_step(adamw, grads, before, after, route))
    return worst


def trajectory(
    make: Callable[..., Any],
    params: dict[str, np.ndarray],
    gradients: Iterable[dict[str, np.ndarray | None]],
    *,
    route: str = "step",
    traced: dict[str, Any] | None = None,
) -> Iterator[Any]:
    """Yield the first (params, state), then (grads, before, after) of each step."""
    hyperparameters = {name: jnp.asarray(x) for name, x in (traced or {}).items()}

    def advance(hyperparameters: Any, grads: Any, state: Any, params: Any) -> Any:
        tx = make(**hyperparameters)
        if route == "step":
            return tx.step(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    advance = jax.jit(advance)
    before = {name: jnp.asarray(p) for name, p in params.items()}
    before = before, make(**hyperparameters).init(before)
    yield before
    for grads in gradients:
        given = {k: None if g is None else jnp.asarray(g) for k, g in grads.items()}
        after = advance(hyperparameters, given, before[1], before[0])
        yield grads, before, after
        before = after


def check_start(adamw: oracle.AdamW, state: Any, params: dict[str, Any]) -> None:
    """Compare a fresh state with the oracle's, exactly, and its dtypes with the rule.

    Moments and averages are kept in float32 for parameters of 32 bits or fewer.
    """
    expected = adamw.init(host(params))
    assert getattr(state.step, "dtype", None) == jnp.int32 and state.step.shape == ()
    assert int(state.step) == expected.step
    for field in ("mu", "nu", "nu_max", "ema", "mu_slow"):
        buffers, wanted = buffer_in(state, field), getattr(expected, field)
        if wanted is None:
            assert jax.tree.leaves(buffers) == [], field
            continue
        for name, p in params.items():
            real = floats.compute_dtype(p.dtype)
            if field == "mu" and adamw.mu_dtype is not None:
                real = np.dtype(adamw.mu_dtype)
            kept = np.result_type(real, np.complex64) if _is_complex(p) else real
            assert buffers[name].dtype == kept, (field, name)
            assert buffers[name].shape == p.shape, (field, name)
            np.testing.assert_array_equal(_wide(buffers[name]), wanted[name])


def check_step(
    adamw: oracle.AdamW,
    grads: dict[str, Any],
    before: tuple[Any, Any],
    after: tuple[Any, Any],
    route: str = "step",
) -> float:
    """Compare one step with the oracle's from the same state.

    Returns:
        The largest error, as a share of what is allowed.
    """
    old, old_state = host(before[0]), as_oracle_state(before[1])
    new, new_state = host(after[0]), as_oracle_state(after[1])
    outcome = adamw.step(grads, old_state, old)
    assert new_state.step == min(outcome.state.step, 2**31 - 1), new_state.step
    clips = adamw.clip_norm is not None or adamw.clip_global_norm is not None
    ulps = CLIPPED_ULPS if clips else ULPS
    all_float64 = all(floats.compute_dtype(p.dtype).itemsize == 8 for p in old.values())
    shares = {}
    for name, p in old.items():
        allowed = _Allowed(adamw, outcome, name, p, ulps, all_float64)
        mu, nu = outcome.state.mu[name], outcome.state.nu[name]
        shares[name, "mu"] = _share(new_state.mu[name], mu, allowed.mu())
        shares[name, "nu"] = _share(new_state.nu[name], nu, allowed.relative(nu))
        if outcome.state.nu_max is not None:
            nu_max = outcome.state.nu_max[name]
            shares[name, "nu_max"] = _share(
                new_state.nu_max[name], nu_max, allowed.relative(nu_max)
            )
        if outcome.state.ema is not None:
            shares[name, "ema"] = _share(
                new_state.ema[name], outcome.state.ema[name], allowed.ema()
            )
        if outcome.state.mu_slow is not None:
            slow = floats.as_reals(outcome.state.mu_slow[name])
            # No smaller than the sum of the magnitudes of its two terms.
            size = np.abs(slow) + 2 * np.abs(floats.as_reals(old_state.mu_slow[name]))
            shares[name, "mu_slow"] = _share(
                new_state.mu_slow[name], slow, allowed.relative(size)
            )
        every = adamw.overwrite_every(outcome.state.step - 1)
        if every and outcome.state.step % every == 0 and grads[name] is not None:
            # The parameter is the library's own average, rounded: no tolerance.
            expected, tolerance = (
                floats.round_to(floats.as_reals(new_state.ema[name]), p.dtype),
                0.0,
            )
        else:
            expected = floats.as_reals(outcome.target[name])
            tolerance = allowed.parameter()
        if route == "update":
            tolerance = tolerance + allowed.applied(expected)
        shares[name, "params"] = _share(new[name], expected, tolerance)
        if grads[name] is None:
            np.testing.assert_array_equal(new[name], p)
    worst = max(shares, key=shares.get)
    assert shares[worst] <= 1.0, (
        f"{worst[1]} of {worst[0]!r} is {shares[worst]:.3g} times what is allowed"
    )
    return shares[worst]


class _Allowed:
    """The tolerances of one parameter's results after one step."""

    def __init__(
        self,
        adamw: oracle.AdamW,
        outcome: oracle.Outcome,
        name: str,
        p: np.ndarray,
        ulps: float,
        all_float64: bool,
    ) -> None:
        self.adamw, self.p = adamw, p
        self.compute = floats.compute_dtype(p.dtype)
        self.factor = FLOAT64_FACTOR if self.compute.itemsize == 8 else 1.0
        if adamw.clip_global_norm is not None and not all_float64:
            # A norm to which a float32 parameter contributes is a float32 number.
            self.compute = np.dtype(np.float32)
        self.ulps = ulps * self.factor
        self.target = floats.as_reals(outcome.target[name])
        self.moment = floats.as_reals(outcome.moment[name])
        self.scale = floats.as_reals(outcome.scale[name])
        self.moment_scale = floats.as_reals(outcome.moment_scale[name])
        self.ema_scale = floats.as_reals(outcome.ema_scale[name])

    def relative(self, x: Any) -> np.ndarray:
        # Subnormal results are flushed to zero by XLA on the CPU.
        tiny = float(np.finfo(self.compute).tiny)
        return self.ulps * floats.ulp(floats.as_reals(x), self.compute) + tiny

    def mu(self) -> np.ndarray:
        tolerance = self.relative(self.moment_scale)
        if self.adamw.mu_dtype is None:
            return tolerance
        # Around the oracle's rounded value: an ULP where the sum is near a midpoint.
        dtype = self.adamw.mu_dtype
        turned = floats.near_midpoint(self.moment, dtype, tolerance)
        return tolerance + turned * floats.ulp(self.moment, dtype)

    def parameter(self) -> np.ndarray:
        rounding = self.factor * ONE_ROUNDING * floats.ulp(self.target, self.p.dtype)
        return rounding + self.relative(self.scale)

    def ema(self) -> np.ndarray:
        turned = 0.0
        if ml_dtypes.finfo(self.p.dtype).bits == 16:
            slack = self.relative(self.scale)
            turned = floats.near_midpoint(self.target, self.p.dtype, slack)
            turned = turned * floats.ulp(self.target, self.p.dtype)
        return self.relative(self.ema_scale) + self.relative(self.scale) + turned

    def applied(self, target: np.ndarray) -> np.ndarray:
        """Return what `update` and `apply_updates` add to the error of `step`.

        Nothing where `target - p` is exact: below float32, within a factor of two.
        """
        p = floats.as_reals(self.p).astype(np.float64)
        rounding = floats.ulp(target - p, self.p.dtype) / 2
        rounding = rounding + floats.ulp(target, self.p.dtype) / 2
        if ml_dtypes.finfo(self.p.dtype).bits > 16:
            return rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = target / p
        exact = ((ratio >= 0.5) & (ratio <= 2.0)) | (target == p)
        return np.where(exact, 0.0, rounding)


def host(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copy a dict of device arrays to NumPy, dtypes unchanged."""
    return {name: np.asarray(x) for name, x in tree.items()}


def as_oracle_state(state: Any) -> oracle.State:
    """Copy the library's state record to the oracle's, exactly."""

    def copied(buffers: Any) -> dict[str, np.ndarray] | None:
        if buffers is None:
            return None
        return {name: _wide(x) for name, x in buffers.items() if x is not None}

    return oracle.State(
        int(state.step),
        copied(state.mu),
        copied(state.nu),
        copied(state.nu_max),
        copied(state.ema),
        copied(buffer_in(state, "mu_slow")),
    )


def _share(actual: Any, expected: Any, tolerance: Any) -> float:
    """Return the largest error as a share of the tolerance at its element."""
    actual = floats.as_reals(_wide(actual)).astype(np.float64)
    expected = floats.as_reals(expected).astype(np.float64)
    assert actual.shape == expected.shape
    if actual.size == 0:
        return 0.0
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.abs(actual - expected) / tolerance
    share = np.where(np.isnan(share), np.inf, share)
    return float(np.max(np.where(same, 0.0, share)))


def _wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _is_complex(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def _type(x: Any) -> tuple[Any, ...]:
    return x.shape, x.dtype, getattr(x, "weak_type", False)
