"""Norms whose squares overflow: right on both ways, and no dearer than they must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.base import squares

WAYS = ("cpu", "default")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Compute as the CPU does, and as every other backend does."""

    def chosen(*args, **branches):
        return branches[request.param](*args)

    monkeypatch.setattr(squares.lax, "platform_dependent", chosen)


def together(*arrays):
    arrays = [jnp.asarray(x, jnp.float32) for x in arrays]
    return squares.total_norm(
        [squares.squares_in_one_pass(x) for x in arrays],
        lambda plain: [
            squares.rescaled_squares(x, total)
            for x, total in zip(arrays, plain, strict=True)
        ],
    )


@pytest.mark.parametrize(
    "arrays",
    [
        ([3.0, -4.0], [12.0]),
        ([1e25, 1e3], [1.0]),
        ([1e-3] * 5, [2e19, 1e-30]),
        ([1.3e19], [1.3e19]),  # no array overflows by itself
        ([2e38, 2e38],),
        ([1e-15, 2e-15], [1e-16]),
        ([0.0], [0.0, 0.0]),
    ],
)
def test_a_norm_is_right_whatever_the_size(way, arrays):
    expected = np.linalg.norm(np.concatenate(arrays).astype(np.float64))
    np.testing.assert_allclose(together(*arrays), expected, rtol=1e-6)
    np.testing.assert_allclose(
        squares.norm(jnp.asarray(np.concatenate(arrays), jnp.float32)),
        expected,
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (([3e38, 3e38], [1.0]), np.inf),  # float32 cannot hold the norm
        (([np.inf], [1.0]), np.inf),
        (([np.nan], [1e30]), np.nan),
        (([np.nan, np.inf],), np.nan),
    ],
)
def test_a_norm_that_is_not_finite(way, arrays, expected):
    np.testing.assert_equal(float(together(*arrays)), expected)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e25])
def test_the_derivative_of_a_norm_is_the_direction(way, size):
    x = jnp.asarray([3.0, 4.0]) * size
    slope = jax.grad(lambda x: together(x))(x)
    # Below 1e-19 the squares underflow: the norm is 0, and so is its derivative.
    expected = [0.6, 0.8] if size >= 1.0 else [0.0, 0.0]
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_two_sums_in_one_pass_except_on_the_cpu():
    """A TPU or GPU forms both sums of a leaf at once and has no branch to compile."""
    tx = optadamw.adamw(1e-3, clip_global_norm=1.0, kernel="xla")
    params = {name: jnp.ones((8, 128)) for name in "abc"}
    traced = jax.jit(tx.step).trace(params, tx.init(params), params)

    def measured(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("call @measure_leaf")

    # The second three are those of the branch that only an overflow takes.
    assert measured("cpu") == 6
    assert measured("tpu") == measured("cuda") == 3


def test_the_cpu_reads_a_leaf_once():
    """The compiled module has two reductions of a leaf: one in the rare branch."""
    tx = optadamw.adamw(1e-3, clip_global_norm=1.0, kernel="xla")
    params = {"w": jnp.ones((64, 128))}
    compiled = tx.jit_step.lower(params, tx.init(params), params).compile()
    branches, _, entry = compiled.as_text().partition("\nENTRY ")
    assert entry.count(" conditional(") == 1 and " conditional(" not in branches
    assert entry.count("f32[64,128]{1,0} fusion(") == 3  # mu, nu and the parameter
    assert compiled.memory_analysis().temp_size_in_bytes < 1000


def test_float32_beside_float64(way):
    """Each dtype has a factor of its own, and the sum is that of the wider one."""
    with jax.enable_x64(True):
        tx = optadamw.chain(
            optadamw.clip_by_global_norm(1.0), optadamw.scale_by_learning_rate(1.0)
        )
        for large, small in ((1e25, 1e3), (1e20, 1e22), (3.0, 4.0), (1e30, 1e30)):
            grads = {"a": jnp.full(3, large, jnp.float32), "b": jnp.float64(small)}
            after, _ = tx.step(
                grads, tx.init(grads), jax.tree.map(jnp.zeros_like, grads)
            )
            size = np.sqrt(3 * large**2 + small**2)
            np.testing.assert_allclose(after["a"], -large / size, rtol=1e-6)
            np.testing.assert_allclose(after["b"], -small / size, rtol=1e-6)
