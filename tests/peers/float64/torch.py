"""The loop around PyTorch-like rules: groups, schedules, clips, scaler, counters."""

import ast
from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.peers.feed import split_groups
from tests.peers.float64 import torch_rules
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import Tensor

RULES = {
    "torch": torch_rules.torch,
    "timm": torch_rules.timm,
    "optimi": torch_rules.optimi,
    "torchao": torch_rules.torchao,
    "bitsandbytes": torch_rules.bitsandbytes,
    "bitsandbytes_cuda": torch_rules.bitsandbytes_cuda,
}
DEFAULTS = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 1e-2,
    "amsgrad": False,
    "maximize": False,
    "differentiable": False,
    "caution": False,
    "corrected_weight_decay": False,
    "decouple_lr": False,
    "max_lr": None,
}
# Whatever its arguments are, these count from another default.
OPTIMI = {"betas": (0.9, 0.99), "eps": 1e-6}


def follow(
    peer: str, row: Row, params: Tree, grads: Iterable[Tree], scalars: str
) -> tuple[list[Tree], dict[str, Tree]]:
    """Follow one row of any peer built on PyTorch."""
    loop = _Loop(peer, row, params, scalars)
    return loop.run(grads), loop.buffers()


class _Loop:
    def __init__(self, peer: str, row: Row, params: Tree, scalars: str):
        self.peer, self.row, self.params = peer, row, params
        self.rule = RULES[peer]
        if row.dtype == "bfloat16" and row.kwargs.get("fused"):
            self.rule = torch_rules.fused_bfloat16
        self.state: dict[str, dict] = {name: {} for name in params}
        self.steps = dict.fromkeys(params, 0)
        self.group_steps: dict[int, int] = {}
        self.updates = 0
        self.ema: Tree = {}
        self.scaler = dict(row.outside.get("grad_scaler", {}))
        self.scale, self.tracker = self.scaler.get("init_scale", 1.0), 0
        self.hyper: list[tuple[dict, list[str]]] = []
        for overrides, names in split_groups(row, list(params)):
            hyper = _hyper(peer, row, overrides, scalars)
            self.hyper.append((hyper, names))

    def run(self, grads: Iterable[Tree]) -> list[Tree]:
        k = self.row.outside.get("accumulation", 1)
        kept: Tree = {}
        result = []
        for call, tree in enumerate(grads):
            if call % k == 0:
                kept = {}
            for name, g in tree.items():
                kept[name] = kept.get(name, 0.0) + g / k
            if (call + 1) % k == 0 and self._finite(kept):
                self._step(self._clip(kept))
            if (call + 1) % k == 0:
                self._average()
                self.updates += 1
            result.append(dict(self.params))
        return result

    def _average(self) -> None:
        """Move the average of `swa_utils`: the first update copies."""
        decay = self.row.outside.get("average", 0.0) if self.updates else 0.0
        for name, x in self.params.items():
            self.ema[name] = decay * self.ema.get(name, 0.0) + (1 - decay) * x

    def buffers(self) -> dict[str, Tree]:
        """Return the buffers of every leaf that had a gradient."""
        found: dict[str, Tree] = {"ema": self.ema}
        for name, state in self.state.items():
            for buffer, value in _joined(state).items():
                found.setdefault(buffer, {})[name] = value
        return found

    def _finite(self, grads: Tree) -> bool:
        """Say whether the step is made; the scaler's scale itself cancels."""
        finite = all(np.isfinite(g).all() for g in grads.values())
        return finite or not self.scaler

    def _clip(self, grads: Tree) -> Tree:
        outside = self.row.outside
        if "clip_grad_norm" in outside:
            norm = np.sqrt(sum(np.sum(np.abs(g) ** 2) for g in grads.values()))
            factor = min(outside["clip_grad_norm"] / (norm + 1e-6), 1.0)
            grads = {name: g * factor for name, g in grads.items()}
        if "clip_grad_value" in outside:
            c = outside["clip_grad_value"]
            grads = {name: np.clip(g, -c, c) for name, g in grads.items()}
        return grads

    def _step(self, grads: Tree) -> None:
        schedule = self.row.outside.get("lambda_lr")
        multiplier = schedule(self.updates) if schedule else 1.0
        for index, (group, names) in enumerate(self.hyper):
            hyper = {**group, "lr": group["lr"] * multiplier}
            self.group_steps[index] = self.group_steps.get(index, 0) + 1
            for name in names:
                if name not in grads:
                    continue
                self.steps[name] += 1
                t = self.steps[name]
                if self.peer == "optimi":
                    t = self.group_steps[index]
                self.params[name] = self.rule(
                    self.params[name], grads[name], self.state[name], hyper, t
                )


def _joined(state: dict) -> Tree:
    """Return the buffers of one leaf; those of a complex leaf are two reals'."""
    if "real" not in state:
        return state
    real, imaginary = state["real"], state["imaginary"]
    return {buffer: real[buffer] + 1j * imaginary[buffer] for buffer in real}


def _hyper(peer: str, row: Row, overrides: dict, scalars: str) -> dict[str, Any]:
    """Return the numbers of one group, as the run in question holds them."""
    given = {**DEFAULTS, **(OPTIMI if peer == "optimi" else {}), **row.kwargs}
    maximum = given["max_lr"] or given["lr"]  # the constructor's, not the group's
    hyper = {**given, **overrides, "max_lr": maximum}
    hyper["narrow"] = scalars == "float32"
    hyper["float32_powers"] = given["differentiable"] and scalars != "exact"
    hyper["nesterov"] = row.function == "NAdamW"
    if "beta1" in overrides:  # optimi's name for them in a group
        hyper["betas"] = (overrides["beta1"], overrides["beta2"])
    if isinstance(hyper["betas"], str):
        hyper["betas"] = ast.literal_eval(hyper["betas"])
    if peer.startswith("bitsandbytes"):
        hyper["amsgrad"] = False  # accepted and ignored

    def number(value: Any) -> float:
        """A tensor of one element is float32 in the float32 run."""
        if isinstance(value, Tensor):
            return float(np.float32(value.value)) if hyper["narrow"] else value.value
        return value

    hyper["lr"] = number(hyper["lr"])
    hyper["betas"] = tuple(number(beta) for beta in hyper["betas"])
    if peer == "torchao" and scalars != "exact":
        hyper["lr"] = float(np.float32(hyper["lr"]))
    return hyper
