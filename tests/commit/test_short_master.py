"""A master copy of 24 bits: 1 byte beside each bfloat16 parameter."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.base.random_bits import Site, step_key
from optadamw.commit.short_master import ShortMaster
from tests.support import trees

SHORT = ShortMaster()
NONE = {"residual": None}


def site(step=0):
    key = step_key(jnp.asarray(0, jnp.uint32), jnp.asarray(step, jnp.int32))
    return Site(key, jnp.asarray(0, jnp.int32))


def written(numbers, step=0):
    """The parameter, its residual, and the copy that rules see."""
    numbers = jnp.asarray(numbers, jnp.float32)
    param = jnp.zeros(numbers.shape, jnp.bfloat16)
    made, kept = SHORT.write(numbers, param, NONE, site(step))
    return np.asarray(made), kept["residual"], np.asarray(SHORT.read(made, kept))


def bits_of(numbers):
    return np.asarray(numbers, np.float32).view(np.uint32)


def every_kind():
    """All exponents, halves of bfloat16, signs, subnormals and the largest numbers."""
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    halves = (bits & 0xFFFF0000) | 0x8000
    edges = [0, 0x80000000, 1, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F8000, 0x00007FFF, 0x80]
    return np.concatenate([bits, halves, np.array(edges, np.uint32)]).view(np.float32)


def test_a_copy_is_a_neighbor_of_24_bits_and_the_parameter_is_nearest_to_it():
    numbers = every_kind()
    finite = np.isfinite(numbers)
    param, residual, copy = written(numbers)
    assert residual.dtype == jnp.int8
    bits, kept = bits_of(numbers)[finite], bits_of(copy)[finite]
    assert np.all(kept & 0xFF == 0)
    below = bits & np.uint32(0xFFFFFF00)
    assert np.all((kept == below) | (kept == below + np.uint32(0x100)))
    assert np.isfinite(copy[finite]).all()
    # A number of 24 bits is kept as it is.
    exact = (bits & 0xFF) == 0
    assert exact.sum() > 10_000 and np.all(kept[exact] == bits[exact])
    # In float64, where the halves of a bfloat16 are exact.
    wide = param.astype(np.float64)[finite]
    master = copy.astype(np.float64)[finite]
    nearest = np.asarray(jnp.asarray(copy).astype(jnp.bfloat16)).astype(np.float64)
    normal = np.isfinite(wide) & np.isfinite(nearest[finite])
    error, least = np.abs(wide - master), np.abs(nearest[finite] - master)
    assert np.all(error[normal] <= least[normal])


def test_numbers_that_are_not_finite_stay_so():
    param, residual, copy = written([np.inf, -np.inf, np.nan])
    for found in (param.astype(np.float32), copy):
        np.testing.assert_equal(found, np.float32([np.inf, -np.inf, np.nan]))
    assert not np.any(residual)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_parameter_that_apply_updates_rounded_to_zero_is_no_nan(zero):
    param = jnp.full(3, zero, jnp.bfloat16)
    residual = jnp.asarray([-128, -1, 5], jnp.int8)
    copy = np.asarray(SHORT.read(param, {"residual": residual}))
    assert list(bits_of(copy) & 0x7FFFFFFF) == [0, 0, 5 << 8]


def test_rounding_is_right_on_average():
    number = np.float32(1 + 2**-15 * 0.3)  # three tenths of a unit above 1
    copies = np.concatenate([written(np.full(4096, number), i)[2] for i in range(10)])
    share = np.mean(copies > 1)
    assert set(np.unique(copies)) == {np.float32(1), np.float32(1 + 2**-15)}
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / copies.size)


def trained(learning_rate, steps, dtype=jnp.bfloat16, **options):
    tx = optadamw.adamw(learning_rate, b2=0.99, weight_decay=0.0, **options)
    params = {"w": jnp.ones(4096, dtype)}
    grads = {"w": jnp.ones(4096, jnp.float32)}
    # A loop, because another program of each step may contract its products otherwise.
    body = lambda i, both: tx.step(grads, both[1], both[0])  # noqa: E731
    params, state = jax.jit(lambda p, s: jax.lax.fori_loop(0, steps, body, (p, s)))(
        params, tx.init(params)
    )
    return tx, params, state


def test_updates_below_the_last_bit_are_applied_on_average():
    """Steps of 1e-6 near 1, where the copy has units of 1.5e-5 and bfloat16 of 4e-3."""
    tx, params, state = trained(1e-6, 1000, commit="master", residual_bits=8)
    commit = tx.recipe.composition.commit
    copy = commit.read(params["w"], {"residual": state.residual["w"]})
    _, exact, _ = trained(1e-6, 1000, dtype=jnp.float32)
    # A draw deviates by 3.8e-6: 1,000 of them by 1.2e-4, and a mean of 4,096 by 1.9e-6.
    assert abs(np.mean(np.float64(copy)) - float(exact["w"][0])) < 4 * 1.9e-6
    _, still, _ = trained(1e-6, 1000)
    assert np.all(np.asarray(still["w"]) == 1)


def test_it_trains_as_float32_does():
    _, exact, _ = trained(1e-3, 200, dtype=jnp.float32)
    tx, params, state = trained(1e-3, 200, commit="master", residual_bits=8)
    commit = tx.recipe.composition.commit
    copy = commit.read(params["w"], {"residual": state.residual["w"]})
    # 200 roundings of half a unit of 2**-16 each, in random directions.
    np.testing.assert_allclose(copy, exact["w"], atol=5 * 2**-16 * np.sqrt(200))


def test_memory_is_5_06_bytes_with_compact_and_one_byte_by_itself():
    params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)}
    options = {"commit": "master", "residual_bits": 8}
    tx = optadamw.adamw(1e-3, precision="compact", **options)
    plan = optadamw.memory_plan(tx, params, temporaries=False)
    assert plan.per_parameter("residual") == 1
    assert f"{plan.persistent.total / plan.count:.2f}" == "5.06"
    wide = {"w": jnp.ones(3), "b": jnp.ones(3, jnp.bfloat16)}
    state = optadamw.adamw(1e-3, **options).init(wide)
    assert state.residual["w"] is None and state.residual["b"].dtype == jnp.int8
    assert "residual int8" in optadamw.describe(optadamw.adamw(1e-3, **options), wide)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"residual_bits": 8}, ValueError, "has no effect without `commit`"),
        ({"commit": "kahan", "residual_bits": 8}, ValueError, 'with commit="kahan"'),
        (
            {"precision": "compact", "residual_bits": 8},
            ValueError,
            'Give commit="master"',
        ),
        ({"commit": "master", "residual_bits": 4}, ValueError, "8 or 16; got 4"),
        ({"commit": "master", "residual_bits": True}, TypeError, "got True"),
        ({"commit": "master", "residual_bits": 8.0}, TypeError, "got 8.0"),
    ],
)
def test_what_is_refused(options, error, says):
    with pytest.raises(error, match=re.escape(says)):
        optadamw.adamw(1e-3, **options)


def test_float16_has_a_whole_copy_and_is_refused_by_itself():
    tx = optadamw.adamw(1e-3, commit="master", residual_bits=8)
    params = {"a": jnp.ones(3, jnp.bfloat16), "half": jnp.ones(3, jnp.float16)}
    residual = tx.init(params).residual
    assert residual["a"].dtype == jnp.int8 and residual["half"].dtype == jnp.float32
    with pytest.raises(ValueError, match="there are none: 'half' is float16"):
        tx.init({"half": jnp.ones(3, jnp.float16)})
    with pytest.raises(ValueError, match="commit='master' is for 16-bit parameters"):
        tx.init({"a": jnp.ones(3)})


def test_sixteen_is_the_default():
    one = optadamw.adamw(1e-3, commit="master", residual_bits=16)
    other = optadamw.adamw(1e-3, commit="master")
    assert one.recipe.composition == other.recipe.composition


def test_checkpoints_come_back_by_name_and_are_not_taken_for_16_bits():
    tx, params, state = trained(1e-3, 5, commit="master", residual_bits=8)
    saved = checkpoint.to_portable(tx, state, params)
    back = checkpoint.restore(tx, params, saved)[0]
    trees.assert_same_bits(back.residual["w"], state.residual["w"])
    assert np.any(np.asarray(state.residual["w"]))
    long = optadamw.adamw(1e-3, b2=0.99, weight_decay=0.0, commit="master")
    other, report = checkpoint.restore(long, params, saved)
    assert "it held what commit='master' with residual_bits=8 keeps" in str(report)
    assert other.residual["w"].dtype == jnp.int16
    assert not np.any(np.asarray(other.residual["w"]))
