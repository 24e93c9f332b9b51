"""A sweep over eight devices; tests/tuning/test_sweep.py runs this file."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import optadamw
from tests.tuning.training import X, Y, initial, train_step

POINTS = optadamw.grid_points(
    learning_rate=[1e-3, 3e-3, 1e-2, 0.1], weight_decay=[0.0, 0.01, 0.1, 1.0]
)


def adamw(learning_rate, weight_decay):
    return optadamw.adamw(
        learning_rate,
        weight_decay=weight_decay,
        clip_global_norm=1.0,
        skip_nonfinite=True,
        stats=True,
    )


def test_members_lie_apart_exchange_no_number_and_have_those_of_one_device():
    assert len(jax.devices()) == 8
    divided = optadamw.sweep(train_step, adamw, POINTS, devices=jax.devices())
    whole = optadamw.sweep(train_step, adamw, POINTS)
    first = jax.device_put(initial(), jax.devices()[3])
    ours, theirs = divided.init(first), whole.init(initial())
    text = (
        divided._programs.step.lower(divided._numbers, ours, (X, Y)).compile().as_text()
    )
    for word in ("all-gather", "all-to-all", "collective-permute"):
        assert word not in text
    # The guard asks whether any member steps: one bool, and nothing else.
    reduced = re.findall(r"= (\S+) all-reduce(?:-start)?\(", text)
    assert set(reduced) <= {"pred[]"}
    # Batches that lie on one device are copied to the others.
    x, y = jax.device_put((X, Y), jax.devices()[0])
    for step in range(6):
        ours, theirs = divided.step(ours, x, y), whole.step(theirs, X, Y)
        if step == 2:
            stop = np.arange(16) > 12
            ours, theirs = divided.stop(ours, stop), whole.stop(theirs, stop)
    for x in jax.tree.leaves(ours):
        assert x.sharding.spec == PartitionSpec("members")
        assert {s.data.shape[0] for s in x.addressable_shards} == {2}
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert divided._programs.step._cache_size() == 1
    assert divided.best(ours) == whole.best(theirs)
    records = divided.records(ours)
    assert [row["live"] for row in records] == [1.0] * 13 + [0.0] * 3
    assert [row["stats/step"] for row in records] == [6.0] * 13 + [3.0] * 3
    tx, params, state = divided.member(ours, 5)
    assert jnp.isfinite(train_step(tx, params, state)[2])
