"""Host offload: buffers that lie in the memory of the host between steps."""

from collections.abc import Sequence
from dataclasses import replace

from optadamw.base.errors import invalid, misplaced, mistyped
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation


@prints_as_call
def with_offload(
    inner: Transformation, buffers: str | Sequence[str] = ("mu", "nu")
) -> Transformation:
    """Keep buffers in the memory of the host, and move them to the device by parts.

    A step moves the buffers of some leaves to the device, applies the rules, and moves
    the new buffers back, before it goes on to the next leaves: about a sixteenth of all
    buffers at a time, or one leaf if that is larger. The device needs memory for twice
    this part, old and new. A step that a guard skips moves nothing; on GPUs, where XLA
    has no loops over such buffers, it moves them and keeps the old values. The numbers
    are those of the step without `with_offload`, bit for bit. Each step moves every
    buffer twice over the bus of the host, and takes at least as long as that takes.
    `update`, which can be differentiated, moves all buffers at once: use `step`. So
    does a norm that is taken after the moments, as by a clip that follows
    `scale_by_adam` in a chain of your own; `adamw` has no such norm.

    The buffers are in JAX's memory "pinned_host", in the sharding of their parameter,
    also under FSDP and `with_zero1`. `jax.device_get`, checkpoints and `swap_ema` work
    on them as on others, and `ema_of(state, like=params)` returns the average on the
    device. To compute with another one, first move it there with
    `jax.device_put(x, jax.memory.Space.Device)`. Commit the parameters to their devices
    first (`jax.device_put(params, device_or_sharding)`): buffers on the host are always
    committed, so that a step of uncommitted parameters is compiled twice.

    Args:
      inner: a transformation of this library.
      buffers: the name of a buffer, or a tuple of names, such as ("mu", "nu", "ema").
        `describe` prints the names. Default: ("mu", "nu").

    Returns:
      A transformation whose state has the structure of that of `inner`.

    Raises:
      TypeError: `inner` is not from this library, or `buffers` has another form.
      ValueError: `inner` has no buffer of this name, or has `with_offload` already; the
        buffer is the accumulator, which every call reads and writes. At `init`: the
        devices have no memory of their host.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.with_offload(optadamw.adamw(1e-3))
      >>> params = {"w": jnp.ones((4, 64))}
      >>> state = tx.init(params)
      >>> state.mu["w"].sharding.memory_kind
      'pinned_host'
      >>> grads = {"w": jnp.ones((4, 64))}
      >>> params, state = tx.jit_step(grads, state, params)
      >>> state.nu["w"].sharding.memory_kind
      'pinned_host'
    """
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    composition = inner.recipe.composition
    if composition.offload:
        raise misplaced(f"{inner!r} has with_offload already.", "Use it once.")
    names = (buffers,) if isinstance(buffers, str) else buffers
    is_tuple = isinstance(names, tuple | list) and len(names) > 0
    if not is_tuple or not all(isinstance(name, str) for name in names):
        rule = "the name of a buffer, such as 'mu', or a tuple of names"
        raise mistyped("buffers", rule, buffers)
    held = [slot.name for slot in composition.slots]
    for name in names:
        if name == "accumulator":
            raise invalid(
                "buffers",
                "buffers that only a step reads",
                name,
                "Every call adds its gradients to the accumulator, on the device.",
            )
        if name not in held:
            shown = ", ".join(held) or "none"
            raise invalid("buffers", f"buffers of the transformation ({shown})", name)
    return transformation(replace(composition, offload=tuple(dict.fromkeys(names))))
