"""Cases of TensorFlow Addons' own tests: `weight_decay_optimizers_test.py`."""

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import tensorflow_addons
from tests.dialects.peer_cases.steps import steps


def addons(param, grad, count, rate=0.001, b1=0.9, b2=0.999, eps=1e-8, decay=0.01):
    """The formula by which Addons tests, in doubles."""
    m = v = np.zeros_like(param)
    for t in range(1, count + 1):
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
        step = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        param = param * (1 - decay) - step * m / (np.sqrt(v) + eps)
    return param


ADDONS = {
    "basic": {},
    "callable": {
        "learning_rate": lambda: 0.001, "beta_1": lambda: 0.9, "beta_2": lambda: 0.999,
        "weight_decay": lambda: 0.01,
    },
    "decay_var_list": {"decay_var_list": ["var0", "var1"]},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("case", ADDONS)
def test_addons_golden(case, dtype):
    options = {"weight_decay": 0.01, "epsilon": 1e-8} | ADDONS[case]
    tx = tensorflow_addons.AdamW(**options)
    starts = {"var0": [1.0, 2.0], "var1": [3.0, 4.0]}
    slopes = {"var0": 0.1, "var1": 0.01}
    # Its tolerances by dtype; float64 is that of a JAX without it.
    dtype, rtol = {
        "float16": ("float16", 1e-3), "float32": ("float32", 1e-6),
        "float64": ("float32", 1e-6),
    }[dtype]  # fmt: skip
    params = {name: jnp.array(start, dtype) for name, start in starts.items()}
    grads = {name: jnp.full(2, slope, dtype) for name, slope in slopes.items()}
    for t, (after, _) in enumerate(steps(tx, params, grads, 3), start=1):
        for name, start in starts.items():
            expected = addons(np.array(start), np.full(2, slopes[name]), t)
            np.testing.assert_allclose(
                np.asarray(after[name], np.float64), expected, rtol=rtol
            )
