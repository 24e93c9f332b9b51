"""Random sets of `adamw`'s options, tried as a user would: step, report, save, go on.

The other campaigns take options one at a time or in fixed sets. Here two to nine of
fifty are drawn together. `adamw` refuses a set with an error that has a remedy, or it
holds all of these: the transformation is a value that prints as its call; types do not
change; eager and compiled steps agree; a saved state is restored bit for bit; a guard
lets no NaN through.
"""

import copy
import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optadamw
from optadamw import adjustable, blockwise, checkpoint, schedules, stochastic
from tests.campaigns.campaign import Case

SETS = 1000
LINE = schedules.linear_schedule(1e-2, 0.0, 3)
BITS_8, BITS_16 = blockwise(min_size=0), stochastic("bfloat16")
CHOICES: dict[str, tuple[Any, ...]] = {
    "learning_rate": (1e-3, 0.0, adjustable(1e-2), LINE),
    "b1": (0.0, 0.3, 0.99, adjustable(0.9)),
    "b2": (0.0, 0.3, 0.9999, adjustable(0.9)),
    "eps": (0.0, 1e-3, adjustable(1e-8)),
    "eps_root": (1e-8,),
    "mu_dtype": ("bfloat16", "float16", BITS_16, BITS_8, blockwise(), "complex64"),
    "nu_dtype": (BITS_16, BITS_8, "float32"),
    "weight_decay": (0.0, 0.1, adjustable(0.1), LINE),
    "mask": ("w", ["w"], "!b", "*"),
    "groups": (
        {"w": {"learning_rate": 0.01}},
        {"b": {"weight_decay": 0.0}},
        {"w": {"b1": 0.5, "amsgrad": True}},
        [("b", {"clip_norm": 1.0})],
        {"b": {"mask": "b"}},
        {"b": {"freeze": True}},
    ),
    "clip_global_norm": (1.0, adjustable(1.0), schedules.constant_schedule(1.0)),
    "clip_eps": (1e-6,),
    "clip_norm": (0.5,),
    "clip_value": (0.1,),
    "accumulate_steps": (2, 3, schedules.piecewise_constant_schedule(1, {2: 2})),
    "accumulator_dtype": ("float32", "bfloat16"),
    "precision": ("full", "mixed", "compact"),
    "commit": ("nearest", "stochastic", "kahan", "master"),
    "residual_bits": (8, 16),
    "seed": (0, 7),
    "update_dtype": ("float32", "bfloat16"),
    "loss_scale": (8.0, optadamw.DynamicLossScale(2.0**4)),
    "skip_nonfinite": (True,),
    "skip_spikes": (True,),
    "on_bad_micro_step": ("drop", "wait", "abort"),
    "max_consecutive": (2,),
    "stats": (True, "norms"),
    "offload": ("mu", ("mu", "nu")),
    "reproducible_norms": (True,),
    "ema_decay": (0.9, 0.0, 1.0, adjustable(0.9)),
    "ema_debias": (True, False),
    "ema_warmup": (True,),
    "ema_overwrite_every": (1, 2),
    "ema_dtype": ("float32", BITS_16),
    "weight_decay_mode": ("lr", "schedule", "independent", "corrected"),
    "max_learning_rate": (0.1,),
    "cautious_weight_decay": (True,),
    "nesterov": (True, "current"),
    "amsgrad": (True, "raw", "corrected"),
    "b3": (0.9, 0.999),
    "slow_alpha": (2.0, schedules.linear_schedule(0.0, 5.0, 3)),
    "caution": (True,),
    "clip_update_rms": (1.0,),
    "clip_update_keeps_decay": (True,),
    "maximize": (True,),
    "bias_correction": (True, False, "mu", "nu"),
    "eps_mode": ("outside", "hat"),
}
NEEDS = {
    "ema_debias": "ema_decay",
    "ema_warmup": "ema_decay",
    "ema_overwrite_every": "ema_decay",
    "ema_dtype": "ema_decay",
    "clip_eps": "clip_global_norm",
    "reproducible_norms": "clip_global_norm",
    "clip_update_keeps_decay": "clip_update_rms",
    "slow_alpha": "b3",
    "accumulator_dtype": "accumulate_steps",
    "on_bad_micro_step": "accumulate_steps",
    "max_consecutive": "skip_nonfinite",
    "seed": "commit",
    "residual_bits": "commit",
}
"""Options without effect unless another one is given, which is then drawn too."""
ROUNDED = ("mu_dtype", "nu_dtype", "ema_dtype", "accumulator_dtype", "precision")
KERNEL, BIAS = np.linspace(-1.0, 1.0, 6).reshape(3, 2), np.ones(2)
TREES = (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))
TREES += (("complex64", "float16"),)


def cases(full: bool) -> Iterator[Case]:
    """Try so many sets; a few in the short form."""
    for number in range(SETS if full else 4):
        yield Case(f"set {number}", partial(tried, number))


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """Draw options, and those without which they would have no effect."""
    names = rng.choice(list(CHOICES), rng.integers(2, 10), replace=False).tolist()
    names += [NEEDS[name] for name in names if name in NEEDS]
    return {name: CHOICES[name][rng.integers(len(CHOICES[name]))] for name in names}


def tried(number: int) -> None:
    """Draw a set, and check that it is refused in words or holds."""
    rng = np.random.default_rng(number)
    options = {"learning_rate": 1e-2} | drawn(rng)
    dtypes = TREES[rng.integers(len(TREES))]
    params, grads = (
        {"w": jnp.asarray(w, dtypes[0]), "b": jnp.asarray(b, dtypes[1])}
        for w, b in ((KERNEL, BIAS), (rng.normal(size=(3, 2)), rng.normal(size=2)))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 16-bit parameters are rounded to nearest
        try:
            tx = optadamw.adamw(**options)
            state = tx.init(params)
        except (ValueError, TypeError) as error:
            assert len(str(error)) > 40 and "." in str(error), error
            return
        try:
            check(tx, options, params, state, grads)
        except Exception as error:
            raise AssertionError(f"{tx} with {dtypes}") from error


def check(tx: Any, options: Any, params: Any, state: Any, grads: Any) -> None:
    """Check everything that holds for all transformations."""
    names = vars(optadamw) | vars(schedules)
    assert eval(repr(tx), dict(names)) == tx  # the names are those of this library
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert hash(copy.deepcopy(tx)) == hash(tx)
    assert "scale_by_adam" in str(optadamw.describe(tx, params))
    planned = optadamw.memory_plan(tx, params, temporaries=False)
    shares = sum(share.total for share in planned.shares.values())
    held = sum(x.nbytes for x in jax.tree.leaves((params, state)))
    assert shares - planned.shares["gradients"].total == held, (planned, held)
    start = params, state
    eager, compiled = start, jax.tree.map(jnp.copy, start)
    for _ in range(4):
        eager = tuple(tx.step(grads, eager[1], eager[0]))
        compiled = tuple(tx.jit_step(grads, compiled[1], compiled[0]))
        assert _types(eager) == _types(compiled) == _types(start)
    is_rounded = params["w"].dtype == jnp.bfloat16 or any(k in options for k in ROUNDED)
    for x, y in zip(*map(jax.tree.leaves, (eager[0], compiled[0])), strict=True):
        x, y = (np.asarray(v).astype(complex) for v in (x, y))
        limit = 0.1 if is_rounded or y.dtype == np.float16 else 3e-5
        assert np.all(np.abs(x - y) <= limit * (1 + np.abs(y))), (x, y)
    params, state = compiled
    optadamw.stats_of(state, tx)
    assert _types(tx.flush(state, params)) == _types(start)
    saved = checkpoint.opened(checkpoint.to_portable(tx, state, params))
    restored, _ = checkpoint.restore(tx, params, saved)
    assert _types(restored) == _types(state) and _bits(restored) == _bits(state)
    if state.ema is not None:
        optadamw.swap_ema(state, params)
    if options.get("skip_nonfinite") or options.get("skip_spikes"):
        bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), grads)
        kept, after = tx.step(bad, state, params)
        if state.micro_step is None:
            assert _bits(kept) == _bits(params), "a NaN moved a parameter"
        for _ in range(4):
            kept, after = tx.step(grads, after, kept)
        found = jax.tree.leaves((kept, after.mu, after.nu))
        assert all(np.isfinite(np.asarray(x).astype(complex)).all() for x in found)


def _types(tree: Any) -> list[str]:
    return [f"{x.shape} {x.dtype} {x.weak_type}" for x in jax.tree.leaves(tuple(tree))]


def _bits(tree: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]
