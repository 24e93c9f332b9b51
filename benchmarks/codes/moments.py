"""The error of one store and load, on moments of real trainings."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.codes.rank_one import AnyCode
from benchmarks.codes.training import B1, B2, EPS, Pair, gradient_of, trained
from benchmarks.precision.problem import Problem

Snapshot = tuple[int, list[np.ndarray], list[np.ndarray]]


def snapshots(problem: Problem, steps: Sequence[int]) -> list[Snapshot]:
    """The leaves of both moments after some steps of a training in float32."""
    runs = trained(problem, gradient_of(problem), Pair(None, None), seed=0)
    return [
        (
            run.step,
            *(list(map(np.asarray, jax.tree.leaves(m))) for m in (run.mu, run.nu)),
        )
        for run in runs
        if run.step in steps
    ]


def spans(taken: Sequence[Snapshot], block: int) -> dict[str, float]:
    """Powers of two between the largest and the smallest nonzero nu of a block.

    Returns:
        The median over the blocks, and the largest 1 % and 0.1 %.
    """
    found = []
    for _, _, nu in taken:
        for leaf in nu:
            length = leaf.shape[-1] // block * block
            cut = leaf[..., :length].reshape(-1, block)
            cut = cut[(cut > 0).any(-1)]
            low = np.where(cut > 0, cut, np.inf).min(-1)
            found.append(np.log2(cut.max(-1) / low))
    whole = np.concatenate(found)
    return {
        str(q): float(np.quantile(whole, q)) for q in (0.5, 0.99, 0.999) if len(whole)
    }


def error(pair: Pair, taken: Sequence[Snapshot]) -> dict[str, Any]:
    """Errors of moments that go through a code, and of the update made from them.

    Returns:
        For each coded moment: `relative_rms`, `relative_median` and `relative_max` over
        its nonzero values, `zeroed`, the share of them that become zero, and
        `norm_error`, the norm of the difference against the norm. Of the update
        mu / (sqrt(nu) + eps): `update_error`, in the same sense, and `update_peak`, its
        largest magnitude against the exact one's.
    """
    found: dict[str, Any] = {}
    exact = [
        np.concatenate([leaf.ravel() for s in taken for leaf in s[i]]) for i in (1, 2)
    ]
    coded = [
        exact[i] if code is None else _through(code, [s[i + 1] for s in taken], i)
        for i, code in enumerate(pair)
    ]
    for i, name in enumerate(pair._fields):
        if pair[i] is None:
            continue
        some = exact[i] != 0
        relative = coded[i][some] / exact[i][some] - 1
        found[name] = {
            "relative_rms": float(np.sqrt((relative**2).mean())),
            "relative_median": float(np.median(np.abs(relative))),
            "relative_max": float(np.abs(relative).max()),
            "zeroed": float((coded[i][some] == 0).mean()),
            "norm_error": _apart(coded[i], exact[i]),
        }
    steps = np.concatenate([np.full(leaf.size, s[0]) for s in taken for leaf in s[1]])
    right, made = (
        (mu / (1 - B1**steps)) / (np.sqrt(nu / (1 - B2**steps)) + EPS)
        for mu, nu in (exact, coded)
    )
    found["update_error"] = _apart(made, right)
    found["update_peak"] = float(np.abs(made).max() / np.abs(right).max())
    return found


def _through(code: AnyCode, trees: list[list[np.ndarray]], salt: int) -> np.ndarray:
    through = jax.jit(code.through)
    parts = []
    for index, leaf in enumerate(leaf for tree in trees for leaf in tree):
        key = jax.random.fold_in(jax.random.key(salt), index)
        bits = jax.random.bits(key, leaf.shape, jnp.uint32)
        parts.append(np.asarray(through(leaf, bits), np.float64).ravel())
    return np.concatenate(parts)


def _apart(made: np.ndarray, right: np.ndarray) -> float:
    right = right.astype(np.float64)
    return float(np.linalg.norm(made - right) / np.linalg.norm(right))
