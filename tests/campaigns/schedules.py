"""Every hyperparameter that goes astray under every guard: argument x value x policy.

A schedule is legal for two steps, then returns a bad value. The guard must skip that
step, leave every bit of parameters and buffers as it was, and count it as `illegal`. A
value that is unusual and legal must be taken.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optadamw
from tests.campaigns.campaign import Case

INF, NAN = float("inf"), float("nan")
VALUES = (NAN, INF, -INF, -1.0, -1e-9, -0.0, 0.0, 0.5, 1.0, 1 - 1e-9, 2.0, 3e38)
"""1 - 1e-9 is 1.0 in float32. 3e38 is the largest rate that a float32 can hold."""

LEGAL = {
    "learning_rate": (1e-3, lambda x: 0 <= x < INF),
    "b1": (0.9, lambda x: 0 <= x < 1),
    "b2": (0.999, lambda x: 0 <= x < 1),
    "eps": (1e-8, lambda x: 0 <= x < INF),
    "eps_root": (1e-8, lambda x: 0 <= x < INF),
    "weight_decay": (1e-2, lambda x: 0 <= x < INF),
    "max_learning_rate": (1e-3, lambda x: 0 < x < INF),
    "clip_value": (1.0, lambda x: 0 < x < INF),
    "clip_norm": (1.0, lambda x: 0 < x < INF),
    "clip_global_norm": (1.0, lambda x: 0 < x < INF),
    "clip_eps": (1e-6, lambda x: 0 <= x < INF),
    "ema_decay": (0.99, lambda x: 0 <= x <= 1),
    "ema_overwrite_every": (3.0, lambda x: abs(x) <= 2.0**30),
}
"""By argument: a usual value, and which float32 numbers are legal."""

NEEDED = {
    "max_learning_rate": {"weight_decay_mode": "schedule"},
    "clip_eps": {"clip_global_norm": 1.0},
    "ema_overwrite_every": {"ema_decay": 0.99},
}
POLICIES: dict[str, dict[str, Any]] = {
    "skip_nonfinite": {"skip_nonfinite": True},
    "skip_spikes": {"skip_spikes": True},
    "loss scale": {"loss_scale": optadamw.DynamicLossScale(initial=1.0)},
    "stats": {"skip_nonfinite": True, "stats": "norms"},
    "drop": {"skip_nonfinite": True, "accumulate_steps": 1},
    "wait": {
        "skip_nonfinite": True,
        "accumulate_steps": 1,
        "on_bad_micro_step": "wait",
    },
    "abort": {
        "skip_nonfinite": True,
        "accumulate_steps": 1,
        "on_bad_micro_step": "abort",
    },
}
KINDS = ("schedule", "array", "group")
COMMON = (
    *("ema_decay", "ema_overwrite_every", "clip_global_norm"),
    *("clip_eps", "max_learning_rate"),
)
"""Arguments that no group sets, or not by themselves."""


def cases(full: bool) -> Iterator[Case]:
    """All policies and kinds for each argument; one of each by turns if not `full`."""
    for number, argument in enumerate(LEGAL):
        policies = list(POLICIES)
        kinds = KINDS[: 2 if argument in COMMON else 3]
        if not full:
            policies = [policies[number % len(policies)]]
            kinds = (kinds[number % len(kinds)],)
        for policy in policies:
            for kind in kinds:
                name = f"{argument}, {kind}, {policy}"
                yield Case(name, partial(guarded, argument, kind, policy))


def transformation(
    argument: str, kind: str, policy: str, value: Any
) -> optadamw.Transformation:
    """An AdamW in which `argument` is `value` from step 2 on."""
    usual, _ = LEGAL[argument]
    astray = value
    if kind != "array":
        astray = _astray(usual, value)
    given = {"learning_rate": 1e-3, "weight_decay": 0.01, **NEEDED.get(argument, {})}
    if kind == "group":
        groups = {"w": {argument: astray}}
        return optadamw.adamw(**given, **POLICIES[policy], groups=groups)
    return optadamw.adamw(**given | {argument: astray}, **POLICIES[policy])


def _astray(usual: float, value: Any) -> Any:
    return lambda step: jnp.where(step >= 2, value, jnp.float32(usual))


def guarded(argument: str, kind: str, policy: str) -> str:
    """Give `argument` every value in one compiled program."""
    usual, legal = LEGAL[argument]
    params = {"w": jnp.asarray([1.0, -2.0, 3.0]), "v": jnp.asarray([0.5, 1.5])}
    grads = jax.tree.map(lambda p: 0.1 * p + 0.3, params)

    @jax.jit
    def step(value, params, state):
        return transformation(argument, kind, policy, value).step(grads, state, params)

    def taken(value, params, state):
        return step(jnp.float32(value), params, state)

    before = (
        params,
        transformation(argument, kind, policy, jnp.float32(usual)).init(params),
    )
    for _ in range(2):
        before = taken(usual, *before)
    skipped = 0
    for value in VALUES:
        after = taken(value, *before)
        stats = optadamw.stats_of(after[1])
        told = f"{argument} = {value}: {stats}"
        if legal(float(np.float32(value))):
            assert int(stats.illegal) == 0, told
            assert int(stats.skipped) == 0, told
            assert int(after[1].step) == 3, told
            continue
        skipped += 1
        assert int(stats.illegal) == int(stats.skipped) == 1, told
        assert int(stats.consecutive) == 1 and int(stats.nonfinite) == 0, told
        # The gradient was good: its norm enters the window of the spike guard.
        same = after[1]._replace(events=before[1].events, history=before[1].history)
        for now, then in zip(
            jax.tree.leaves((after[0], same)), jax.tree.leaves(before), strict=True
        ):
            assert np.asarray(now).tobytes() == np.asarray(then).tobytes(), told
    return f"{skipped} of {len(VALUES)} values skipped"
