"""Refuse a transformation that needs all gradients, before a step in parts begins."""

from optadamw.base.errors import misplaced
from optadamw.walk.composition import Composition


def refuse_whole(composition: Composition) -> None:
    """Refuse what needs all gradients at once.

    Raises:
      ValueError: there is such a part; the message names it and the remedy.
    """
    control = composition.control
    for rule in composition.rules:
        if rule.reads_norm:
            raise _too_early(
                f"{rule.verb} reads the norm of all gradients",
                "Use clip_value, or take the step with tx.step.",
            )
    parts = {
        "multi_steps": (control.accumulation, "sums the gradients of several calls"),
        "with_loss_scale": (control.loss_scale, "is set by all gradients"),
        "skip_spikes": (control.spikes, "checks the norm of all gradients"),
        "with_stats": (control.statistics, "records norms of all gradients"),
        "with_zero1": (composition.zero1, "gathers whole parameters"),
        "with_offload": (composition.offload or None, "moves whole buffers"),
    }
    for name, (part, does) in parts.items():
        if part is not None:
            raise _too_early(
                f"{name} {does}", f"Leave {name} out, or take the step with tx.step."
            )
    if composition.kernel_choice == "native":
        raise _too_early(
            "with_kernels('native') runs all parameters in one pass",
            "Use with_kernels('auto') or 'xla'.",
        )


def _too_early(does: str, remedy: str) -> ValueError:
    return misplaced(
        f"{does}, and gradient_release takes the step of a parameter before the others "
        "have gradients.",
        remedy,
    )
