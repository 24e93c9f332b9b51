"""The pass over all leaves that have a kernel, and by XLA over those that have none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from optadamw.base.errors import at_leaf
from optadamw.base.types import Array
from optadamw.leaf.program import LeafInput
from optadamw.native.kernel import Refusal, kernels_of, usable_compiler
from optadamw.walk.conditional import Outcome, Pass
from optadamw.walk.native_calls import run_kernels
from optadamw.walk.native_shards import Home, home_of, on_shards


class NoKernelError(ValueError):
    """Leaves have no kernel, and kernel="native" asks for one.

    Attributes:
      reasons: why each of these leaves has none, by its path.
    """

    def __init__(self, reasons: Mapping[str, str]):
        self.reasons = dict(reasons)
        path, reason = next(iter(self.reasons.items()))
        error = at_leaf(
            path,
            f'kernel="native" cannot run this step in a kernel: {reason}.',
            'With kernel="auto" XLA runs the leaves that have no kernel.',
        )
        super().__init__(str(error))


def pass_by_kernels(
    choice: Literal["auto", "native"],
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    go: Array | None,
    paths: Sequence[str],
    by_xla: Callable[[Pass, Sequence[LeafInput]], Outcome],
) -> Outcome:
    """Run each leaf by its kernel, and by XLA those that have none.

    Args:
      choice: "native" raises an error for a leaf that has no kernel.
      key: the programs and the positions of the leaves.
      leaves: the leaves that have a gradient.
      bits: the `step_key` of the random bits.
      go: whether the step is taken; None: always.
      paths: the path of each leaf.
      by_xla: the same pass by XLA, for any of the leaves.

    Raises:
      NoKernelError: a leaf has no kernel under "native".
    """
    compiler = usable_compiler()
    targets: dict[int, str] = {}
    homes: list[Home] = []
    refused: dict[int, str] = {}
    for number, target in enumerate(kernels_of(key.programs, leaves, compiler)):
        if isinstance(target, Refusal):
            refused[number] = target.reason
            continue
        home = home_of(key, number, leaves[number])
        if isinstance(home, Refusal):
            refused[number] = home.reason
            continue
        targets[number] = target.name
        homes.append(home)
    if refused and choice == "native":
        raise NoKernelError({paths[i]: reason for i, reason in refused.items()})
    if not targets:
        return by_xla(key, leaves)
    outcome = Outcome.of(len(leaves))
    taken, names = list(targets), tuple(targets.values())
    is_forced = choice == "native"
    made = run_kernels(
        names,
        key.part(taken),
        [leaves[i] for i in taken],
        bits,
        go,
        is_forced=is_forced,
        on_shards=on_shards(names, homes, is_forced=is_forced),
    )
    outcome.fill(taken, made)
    if refused:
        left = list(refused)
        outcome.fill(left, by_xla(key.part(left), [leaves[i] for i in left]))
    return outcome
