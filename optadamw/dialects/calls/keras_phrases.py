"""The words with which Keras 3 and Keras 2 refuse arguments."""

from optadamw.dialects.calls.phrases import Phrase

_RATE = (
    "Argument `learning_rate` should be float, or an instance of LearningRateSchedule, "
    "or a callable (that takes in the current iteration value and returns the "
    "corresponding learning rate value). Received instead: learning_rate={value}"
)
_KINDS = (TypeError, ValueError)

KERAS_2 = {
    "weight_decay": Phrase(
        "Missing value of `weight_decay` which is required and must be a float value",
        of=(TypeError,),
    ),
    "ema_momentum": Phrase(
        "`ema_momentum` must be in the range [0, 1]. Received: ema_momentum={value}",
        of=_KINDS,
    ),
    "ema_overwrite_frequency": Phrase(
        "`ema_overwrite_frequency` must be an integer > 1 or None. Received: "
        "ema_overwrite_frequency={value}",
        of=_KINDS,
    ),
}
"""The words of Keras 2.14."""

NAME = {
    "name": Phrase(
        "Argument `name` must be a string and cannot contain character `/`. Received: "
        "name={value}",
        of=_KINDS,
    )
}
"""The words of Keras 3.15 for all of its optimizers."""

KERAS_3 = {
    **NAME,
    "learning_rate": Phrase(_RATE, of=(TypeError,)),
    "weight_decay": Phrase(
        "Argument `weight_decay` must be a float. Received: weight_decay={value}",
        of=(TypeError,),
    ),
    "ema_momentum": KERAS_2["ema_momentum"],
    "ema_overwrite_frequency": Phrase(
        "`ema_overwrite_frequency` must be an integer >= 1 or None. Received: "
        "ema_overwrite_frequency={value}",
        of=_KINDS,
    ),
    "gradient_accumulation_steps": Phrase(
        "`gradient_accumulation_steps` must be an integer >= 2. Received: "
        "gradient_accumulation_steps={value}",
        of=_KINDS,
    ),
}
"""The words of Keras 3.15."""
