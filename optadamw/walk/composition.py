"""The composition: the rules of a transformation, and the parts around them."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from optadamw.base.held import Held, first_values
from optadamw.base.hyperparameters import Constant, Dynamic
from optadamw.base.masks import Selector
from optadamw.commit.commit import Commit, Nearest
from optadamw.control.control import Control
from optadamw.leaf.program import Kernel
from optadamw.native.kernel import why_not_default
from optadamw.rules.groups import Group, Variant
from optadamw.rules.rule import Rule, Stage
from optadamw.store.slot import Slot
from optadamw.walk.shardings import Shardings
from optadamw.walk.zero1 import Zero1

CpuPass = Literal["auto", "native", "xla"]
"""What runs the leaves on the CPU: kernels where there are some, kernels only, XLA."""


@dataclass(frozen=True)
class Composition:
    """The rules of a transformation in order, and the settings of a step."""

    rules: tuple[Rule, ...]
    commit: Commit = field(default_factory=Nearest)
    """The rounding of parameters when they are written; default: to nearest."""
    has_chosen_commit: bool = field(default=False, compare=False, repr=False)
    """Whether the user chose `commit`; otherwise `init` warns about 16-bit parameters.
    It changes no number, so it has no part in equality and is not printed."""
    update_dtype: np.dtype | None = None
    """Dtype of the updates; None (default): the parameter's."""
    control: Control = field(default_factory=Control)
    """Loss scale, guard, accumulation and statistics; default: none of them."""
    groups: tuple[Group, ...] = ()
    """Groups of parameters with rules of their own; the last group holds the rest."""
    seed: Constant | Dynamic = field(default_factory=lambda: Constant(0.0))
    """The seed of random rounding; default: 0."""
    axes: tuple[tuple[Selector, tuple[str, ...]], ...] = ()
    """The axes of a shard_map that cut parameters; default: none, see `with_axes`."""
    zero1: Zero1 | None = None
    """How buffers are divided beyond their parameters; default: they are not."""
    offload: tuple[str, ...] = ()
    """The buffers that lie in the memory of the host between steps; default: none."""
    has_reproducible_norms: bool = False
    """Whether norms and means have the same bits on every mesh; default: False."""
    kernel: Kernel | None = None
    """Which leaves run in kernels; None (default): those of which kernels move fewer
    bytes than XLA's own fusions do."""
    shardings: Shardings | None = None
    """The shardings of the parameters over Auto axes, if the user stated them."""
    cpu_pass: CpuPass | None = None
    """What runs the leaves on the CPU; None (default): "auto" on one CPU with a C
    compiler."""

    @property
    def kernel_choice(self) -> CpuPass:
        """The choice of the pass on the CPU, with the default of this process."""
        if self.cpu_pass is not None:
            return self.cpu_pass
        return "auto" if self.why_xla is None else "xla"

    @property
    def why_xla(self) -> str | None:
        """Why XLA runs all leaves by default on the CPU; None: kernels run them."""
        if self.kernel is not None:
            return "with_pallas chooses"
        if self.zero1 is not None or self.offload:
            return "its buffers lie elsewhere than its parameters"
        return why_not_default()

    def __post_init__(self) -> None:
        first_values(self.held)  # refuses two of one name

    @property
    def held(self) -> tuple[Held, ...]:
        """The adjustable hyperparameters of all rules; one may occur several times."""
        return tuple(number for rule in self.all_rules for number in rule.held)

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rules of all groups; a rule of several groups occurs several times."""
        rules = (rule for rules in self.variants for rule in rules)
        return tuple(rule for rule in rules if rule is not None)

    def initial_scalars(self) -> dict[str, Any]:
        """Return the fields of the first `State`, except buffers of parameters."""
        fields = self.control.initial_scalars()
        if held := first_values(self.held):
            fields["hyperparameters"] = held
        return fields

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The rules of each group; without groups, one entry for all parameters."""
        return tuple(group.rules for group in self.groups) or (self.rules,)

    def is_frozen(self, group: int) -> bool:
        """Return whether the parameters of the group of this number never change."""
        return bool(self.groups) and self.groups[group].is_frozen

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The buffers of rules and commit."""
        own = tuple(slot for rule in self.rules for slot in rule.slots)
        return own + self.commit.slots

    @property
    def buffers(self) -> tuple[Slot, ...]:
        """All buffers in the state: `slots`, and the accumulator if there is one."""
        accumulation = self.control.accumulation
        if accumulation is None:
            return self.slots
        return (*self.slots, Slot("accumulator", accumulation.store))

    @property
    def read_arguments(self) -> tuple[str, ...]:
        """The extra arguments of a step on which all devices must agree."""
        if any(names == () for _, names in self.axes):
            return ()  # each device has a model of its own
        has_guard = self.control.effective_guard is not None
        reads_norm = has_guard or any(rule.reads_norm for rule in self.rules)
        names = ["grad_norm"] if reads_norm else []
        names += ["loss"] if has_guard else []
        names += ["weight"] if self.control.accumulation is not None else []
        return tuple(names)

    @property
    def draws(self) -> bool:
        """Whether anything is rounded at random."""
        return self.commit.draws or any(slot.store.draws for slot in self.slots)

    @property
    def needs_guard(self) -> bool:
        """Whether a buffer has blocks, in which one NaN would spoil other numbers."""
        return any(slot.store.has_scales for slot in self.slots)

    @property
    def is_traced(self) -> bool:
        """Whether a hyperparameter is a tracer, which must not outlive its trace."""
        is_seeded = isinstance(self.seed, Dynamic) and self.seed.is_traced
        around = self.control.is_traced or is_seeded
        return around or any(rule.is_traced for rule in self.all_rules)

    @property
    def is_bare(self) -> bool:
        """Whether everything but the rules and `update_dtype` has its default."""
        return replace(self, rules=(), update_dtype=None) == Composition(())

    @property
    def is_whole(self) -> bool:
        """Whether the chain has a learning rate, so that its updates are final."""
        return any(rule.stage == Stage.RATE for rule in self.rules)

    @property
    def is_bounded(self) -> bool:
        """Whether a guard ensures that gradients at the moments have finite squares."""
        early = [rule for rule in self.rules if rule.stage == Stage.GRADIENT]
        has_guard = self.control.effective_guard is not None
        return has_guard and all(rule.shrinks for rule in early)

    def check_guard(self) -> None:
        """Refuse buffers in blocks of 8 bits without a guard.

        Raises:
          ValueError: there is no guard, and a gradient that is not finite would spoil a
            whole block.
        """
        if self.needs_guard and self.control.effective_guard is None:
            names = [s.name for s in self.slots if s.store.has_scales]
            raise ValueError(
                f"`{names[0]}` is kept in blocks of 8 bits, where one number that is "
                "not finite spoils its whole block, and no guard refuses such "
                "gradients. Put skip_nonfinite(...) around the chain, as adamw does."
            )
