"""Keras 3's AdamW (on all its backends), R's keras3, and `LossScaleOptimizer`.

| here | there |
|---|---|
| `step`, `micro_step` | `iteration` = step * k + micro_step, k gradients to a step |
| `mu`, `nu` | `*_momentum`, `*_velocity` |
| `nu_max`, "raw" | `*_velocity_hat` |
| `ema` | `*_average` |
| `accumulator` | `*_gradient_accumulator`, the sum in both |
| `loss_scale`, `growth` | `dynamic_scale`, `step_counter` |
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Held, Scheduled
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import scalar, to_numpy
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.call import Call
from optadamw.dialects.states.contents import Contents
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.rates import rate_of_variables
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.variables import Options, listed, sorted_out
from optadamw.dialects.states.window import window_length, window_sums
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(
    name="keras",
    title="Keras",
    keys={
        "mu": "momentum",
        "nu": "velocity",
        "nu_max": "velocity_hat",
        "ema": "average",
        "accumulator": "gradient_accumulator",
        "loss_scale": "dynamic_scale",
    },
    maximum="raw",
    outputs_first=False,
)


@reads(PEER)
def from_keras(
    saved: Mapping[str, Any] | Sequence[Any],
    params: PyTree,
    *,
    amsgrad: bool | None = None,
    use_ema: bool | None = None,
    gradient_accumulation_steps: int | None = None,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of an optimizer of Keras.

    Keras saves a list of arrays whose positions alone tell them apart: AMSGrad's maxima
    look like averages. The options of the optimizer come from the last three arguments,
    from `tx`, or from the names if `saved` has them. Without names the parameters are
    in the order of `model.trainable_variables`, which must be that of
    `jax.tree.leaves(params)` (it sorts the keys of a dict) or be given by `names`.

    Keras's `iteration` counts gradients, also those that only accumulate, and so does
    its count of good steps since the loss scale changed; for a `DynamicLossScale` of
    `tx` that counts optimizer steps, that count is converted. Keras's average begins at
    the first step; if it was saved before, the average here is a copy of the
    parameters.

    Args:
      saved: `optimizer.variables`, a list of their values, the store that
        `save_own_variables` filled (keys "0", "1", ...), or a mapping from
        `variable.path`. With a `LossScaleOptimizer`, its own.
      amsgrad: Whether the optimizer has AMSGrad. None (default) asks the names of the
        variables, or `tx`; without either it has none.
      use_ema: Whether the optimizer keeps an average. None (default) asks likewise.
      gradient_accumulation_steps: The number of gradients to a step. None (default)
        asks likewise; without either the optimizer does not accumulate.

    Raises:
      ValueError: another number of variables than these options make.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optadamw
      >>> from optadamw.interchange import from_keras
      >>> store = {"0": np.int32(7), "1": np.float32(1e-3)}
      >>> store |= {"2": np.ones(2), "3": np.ones(2)}
      >>> state = from_keras(store, [jnp.zeros(2)], tx=optadamw.adamw(1e-3))
      >>> int(state.step), state.mu[0].tolist()
      (7, [1.0, 1.0])
    """
    request = Request.of(PEER, params, options)
    every = _window(gradient_accumulation_steps)
    made_with = options_of(request.tx, amsgrad, use_ema, every)
    variables = listed(PEER.title, saved)
    found = sorted_out(PEER.title, variables, len(request.leaves.paths), made_with)
    accumulates = any("accumulator" in (row.buffers or ()) for row in found.rows)
    if accumulates and every is None:
        every = _window_of(request)
    if accumulates and every is None:
        raise ValueError(
            "The saved state accumulates, and of how many gradients a step is made is "
            "not known. Pass gradient_accumulation_steps=, or `tx`."
        )
    window = every if accumulates and every else 1
    step, micro_step = divmod(found.iteration, window)
    return assembled(
        request,
        Contents(
            rows=found.rows,
            step=step,
            micro_step=micro_step,
            accumulates=accumulates,
            loss_scale=found.loss_scale,
            growth=_growth(found.growth, request, window),
            averages_later=found.iteration == 0,
            orders_maximum=True,
        ),
    )


def _growth(good: int | None, request: Request, window: int) -> int | None:
    """Return Keras's count of good gradients, in steps for a `tx` that counts steps."""
    return good if good is None or _counts_gradients(request) else good // window


def _counts_gradients(call: Call) -> bool:
    scale = None if call.control is None else call.control.loss_scale
    return getattr(scale, "counts", "gradients") == "gradients"


def options_of(
    tx: Transformation | None,
    amsgrad: bool | None,
    use_ema: bool | None,
    every: int | None,
) -> Options:
    """Return the options of the saved optimizer that the arguments or `tx` say."""
    for name, value in (("amsgrad", amsgrad), ("use_ema", use_ema)):
        if value is not None and not isinstance(value, bool):
            raise mistyped(name, "True, False or None", value)
    accumulates = None if every is None else every > 1
    if tx is not None:
        composition = tx.recipe.composition
        kept = {slot.name for slot in composition.buffers}
        amsgrad = "nu_max" in kept if amsgrad is None else amsgrad
        use_ema = "ema" in kept if use_ema is None else use_ema
        if accumulates is None:
            accumulates = composition.control.accumulation is not None
    return Options(amsgrad, use_ema, accumulates)


def _window(every: Any) -> int | None:
    if every is None:
        return None
    if isinstance(every, bool) or not isinstance(every, int | np.integer):
        raise mistyped("gradient_accumulation_steps", "a whole number >= 1", every)
    if every < 1:
        raise invalid("gradient_accumulation_steps", "a whole number >= 1", every)
    return int(every)


def _window_of(request: Request) -> int | None:
    """Return the number of gradients to a step of `tx`; None if a schedule gives it."""
    accumulation = request.accumulation
    if accumulation is None or isinstance(accumulation.every, Scheduled):
        return None
    return int(to_numpy("accumulate_steps", accumulation.every.value))


@writes(PEER)
def to_keras(
    state: PyTree,
    params: PyTree,
    *,
    learning_rate: float | Literal["schedule"] | None = None,
    amsgrad: Maximum | None = None,
    **options: Unpack[ToOptions],
) -> dict[str, np.ndarray]:
    """Make the store from which an optimizer of Keras continues the run.

        optimizer.build(model.trainable_variables)
        optimizer.load_own_variables(store)
        assert optimizer.iterations == store["0"]

    If Keras has another number of variables it warns and loads nothing: make the
    optimizer with the `amsgrad`, `use_ema` and `gradient_accumulation_steps` of `tx`,
    and in a `LossScaleOptimizer` if the loss scale is dynamic. `names` is about the
    order of `model.trainable_variables`. `tx` is needed if the state accumulates.

    Args:
      learning_rate: The learning rate that Keras keeps among its variables;
        "schedule" if Keras has a schedule and keeps none. None (default) takes that of
        `tx`.

    Returns:
      A mapping from "0", "1", ... to arrays, in the order of `optimizer.variables`.

    Raises:
      ValueError: an open window of weighted gradients; no learning rate.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_keras
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> list(to_keras(tx.init(params), params, tx=tx))
      ['0', '1', '2', '3']
    """
    leaving = Departure.of(PEER, state, params, options, amsgrad)
    return numbered(stored(leaving, np.int32, learning_rate))


def stored(
    leaving: Departure,
    counter: Any,
    learning_rate: float | Literal["schedule"] | None,
) -> list[np.ndarray]:
    """Make the variables of an optimizer, in their order."""
    rate = _rate(leaving, learning_rate)
    accumulators: list[np.ndarray] = []
    every = 1
    if leaving.state.accumulator is not None and "accumulator" in leaving.peer.keys:
        every, accumulators = window_length(leaving), window_sums(leaving)
    iteration = leaving.step * every + leaving.filled
    if iteration > np.iinfo(counter).max:
        raise ValueError(
            f"`state` has taken {iteration:,} gradients, and Keras counts them in "
            f"{np.dtype(counter).name}."
        )
    head = [np.array(iteration, counter), *rate]
    if leaving.scale is not None:
        scale, growth = leaving.scale
        # Its own counter and rate, which nothing reads, stand in front.
        outer = [np.array(0, counter), np.array(0.0, np.float32)]
        good = growth
        if not _counts_gradients(leaving):
            good = growth * every + leaving.filled
        numbers = [np.array(good, counter), np.array(scale, np.float32)]
        head = [*outer, *numbers, *head]
    columns = {
        field: leaving.column(field) if leaving.has(field) else []
        for field in ("ema", "nu_max")
    }
    columns |= {field: leaving.column(field) for field in ("mu", "nu")}
    moments = [
        x for pair in zip(columns["mu"], columns["nu"], strict=True) for x in pair
    ]
    body = [*columns["ema"], *accumulators, *moments, *columns["nu_max"]]
    return [*head, *(array for array in body if array is not None)]


def numbered(variables: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Number variables as `save_own_variables` does."""
    return {str(i): array for i, array in enumerate(variables)}


def _rate(
    leaving: Departure, given: float | Literal["schedule"] | None
) -> list[np.ndarray]:
    if given == "schedule":
        return []
    if given is None:
        known = leaving.learning_rate()
        if known is None:
            raise ValueError(
                "Keras keeps the learning rate among its variables, and it is not "
                "known. Pass `tx`, or learning_rate= (a number, or 'schedule')."
            )
        if isinstance(known, Scheduled):
            return []
        value = known.at(leaving.clock) if isinstance(known, Held) else known.value
        return [np.array(to_numpy("learning_rate", value), np.float32)]
    return [np.array(scalar("learning_rate", given), np.float32)]


FORM = Form(
    PEER,
    from_keras,
    to_keras,
    numbers=rate_of_variables,
    to_read=lambda plan: {
        "amsgrad": plan.amsgrad == "raw",
        "use_ema": plan.use_ema,
        "gradient_accumulation_steps": plan.accumulate or 1,
    },
    read_with=("amsgrad", "use_ema", "accumulate"),
    to_write=lambda plan: (
        {"learning_rate": "schedule"}
        if plan.learning_rate in (None, "schedule")
        else {}
    ),
    written_with=("learning_rate",),
)
