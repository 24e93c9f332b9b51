"""AdamW in float64 from its definition: what every contender must have computed."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.workloads import Config


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Differences between implementations by design, at equal work.

    Attributes:
        eps_hat: `eps` is added before the bias correction of the second moment is
            divided out (Keras), not after it.
        amsgrad_corrected: AMSGrad keeps the maximum of the corrected second moment
            (Optax), not of the raw one (PyTorch, Keras).
        ema_starts_after_first_step: the average starts as a copy of the parameters
            after the first step (Keras), not before it.
    """

    eps_hat: bool = False
    amsgrad_corrected: bool = False
    ema_starts_after_first_step: bool = False


OURS = Conventions()


def trajectory(
    parameter: np.ndarray,
    gradients: Sequence[np.ndarray],
    norms: Sequence[float],
    config: Config,
    conventions: Conventions,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs some elements of one parameter through as many steps as gradients.

    Args:
        parameter: The elements before the first step.
        gradients: Their gradients at each step.
        norms: The global norm of all gradients at each step.
        config: The hyperparameters.
        conventions: Which of the equivalent forms to follow.

    Returns:
        The elements and their moving average after the last step, in float64.
    """
    p = average = parameter.astype(np.float64)
    mu = nu = nu_max = np.zeros_like(p)
    for t, (gradient, norm) in enumerate(zip(gradients, norms, strict=True), start=1):
        g = gradient.astype(np.float64)
        if config.clip_global_norm is not None:
            g = g * min(1.0, config.clip_global_norm / norm)
        mu = config.b1 * mu + (1 - config.b1) * g
        nu = config.b2 * nu + (1 - config.b2) * g * g
        bc1, bc2 = 1 - config.b1**t, 1 - config.b2**t
        second = nu / bc2
        if config.amsgrad and conventions.amsgrad_corrected:
            second = nu_max = np.maximum(nu_max, second)
        elif config.amsgrad:
            nu_max = np.maximum(nu_max, nu)
            second = nu_max / bc2
        # (mu sqrt(bc2) / bc1) / (sqrt(nu) + eps), with the root of bc2 divided out.
        eps = config.eps / np.sqrt(bc2) if conventions.eps_hat else config.eps
        direction = (mu / bc1) / (np.sqrt(second) + eps)
        p = p - config.learning_rate * (direction + config.weight_decay * p)
        if config.ema_decay is not None:
            restart = conventions.ema_starts_after_first_step and t == 1
            decay = 0.0 if restart else config.ema_decay
            average = decay * average + (1 - decay) * p
    return p, average
