"""Builders of groups: rates that fall with the layer, and that follow the width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import adjustable, layerwise_decay, mup
from optadamw.base.tree import flatten

BLOCK = {
    "attn": {"qkv": {"bias": 3, "weight": (3, 3)}, "proj": {"bias": 3}},
    "mlp": {"fc1": {"weight": (3, 3)}},
    "norm1": {"weight": 3},
}
VIT = jax.tree.map(
    jnp.ones,
    {
        "blocks": [BLOCK] * 3,
        "cls_token": (1, 1, 3),
        "head": {"bias": 2, "weight": (3, 2)},
        "norm": {"bias": 3, "weight": 3},
        "patch_embed": {"proj": {"weight": (3, 3)}},
        "pos_embed": (1, 4, 3),
    },
    is_leaf=lambda node: isinstance(node, tuple),
)
STEM = ("cls_token", "pos_embed", "patch_embed/*")
TIMM = [STEM, "blocks/0/*", "blocks/1/*", ("blocks/2/*", "norm/*"), "head/*"]
BEIT = [STEM, "blocks/0/*", "blocks/1/*", "blocks/2/*", ("norm/*", "head/*")]

# `param_groups_layer_decay(vit_tiny_patch16_224(depth=3), layer_decay=0.75)`, timm
# 1.0.31, and with min_scale=0.5.
SCALES = [0.31640625, 0.421875, 0.5625, 0.75, 1.0]
AT_LEAST_HALF = [0.5, 0.5, 0.5625, 0.75, 1.0]


def rates(groups):
    return [own["learning_rate"] for _, own in groups]


def factors(tx, params):
    """The size of the first step of each leaf, which is its learning rate."""
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    leaves = flatten(updates)
    return {
        path: -float(update.ravel()[0])
        for path, update in zip(leaves.paths, leaves.arrays, strict=True)
    }


def test_the_numbers_of_timm():
    assert rates(layerwise_decay(VIT, 1.0, TIMM)) == SCALES
    assert rates(layerwise_decay(VIT, 1.0, TIMM, min_scale=0.5)) == AT_LEAST_HALF
    groups = layerwise_decay(VIT, 1e-3, TIMM)
    tx = optadamw.adamw(1e-3, weight_decay=0.0, groups=groups)
    found = factors(tx, VIT)
    expected = {
        "cls_token": SCALES[0],
        "patch_embed/proj/weight": SCALES[0],
        "blocks/0/attn/qkv/bias": SCALES[1],
        "blocks/1/mlp/fc1/weight": SCALES[2],
        "blocks/2/norm1/weight": SCALES[3],
        "norm/weight": SCALES[3],
        "head/weight": SCALES[4],
    }
    for path, scale in expected.items():
        np.testing.assert_allclose(found[path], 1e-3 * scale, rtol=1e-6)


def test_the_numbers_of_beit():
    """`list(layer_decay ** (num_layers + 1 - i) for i in range(num_layers + 2))`."""
    depth, decay = 3, 0.65
    values = [decay ** (depth + 1 - i) for i in range(depth + 2)]
    assert rates(layerwise_decay(VIT, 1.0, BEIT, decay)) == values


def test_the_rate_may_be_a_schedule_or_adjustable():
    schedule = optadamw.schedules.linear_schedule(1e-3, 0.0, 10)
    first, *_, last = rates(layerwise_decay(VIT, schedule, TIMM))
    assert last is schedule
    np.testing.assert_allclose(first(4), SCALES[0] * schedule(4), rtol=1e-6)
    again = layerwise_decay(VIT, schedule, TIMM)
    assert optadamw.adamw(schedule, groups=again) == optadamw.adamw(
        schedule, groups=layerwise_decay(VIT, schedule, TIMM)
    )
    rate = adjustable(1e-3)
    tx = optadamw.adamw(rate, weight_decay=0.0, groups=layerwise_decay(VIT, rate, TIMM))
    state = tx.with_hyperparameters(tx.init(VIT), learning_rate=0.5)
    after, _ = tx.step(jax.tree.map(jnp.ones_like, VIT), state, VIT)
    moved = [1 - float(after[name].ravel()[0]) for name in ("cls_token", "pos_embed")]
    np.testing.assert_allclose(moved, 0.5 * SCALES[0], rtol=1e-5)


def test_layers_that_leave_parameters_out_are_refused():
    for layers, words in (
        (TIMM[:-1], r"leaves parameters out: 'head/bias', 'head/weight'.*Add a layer"),
        ([*TIMM, "hed/*"], "'hed/.' matches no parameter"),
        (["*", "head/*"], r"every parameter of 'head/\*' is in an earlier layer"),
    ):
        with pytest.raises(ValueError, match=words):
            layerwise_decay(VIT, 1e-3, layers)
    for given, error in (
        ({"decay": 0.0}, ValueError),
        ({"decay": 1.5}, ValueError),
        ({"decay": "0.5"}, TypeError),
        ({"min_scale": -1.0}, ValueError),
        ({"layers": "head/*"}, TypeError),
        ({"layers": []}, TypeError),
        ({"learning_rate": -1.0}, ValueError),
        ({"learning_rate": "1e-3"}, TypeError),
    ):
        with pytest.raises(error, match=f"`{next(iter(given))}` must be"):
            layerwise_decay(VIT, **{"learning_rate": 1e-3, "layers": TIMM} | given)


def network(width, heads=2):
    return {
        "embed": jnp.ones((7, width)),
        "attn": jnp.ones((width, heads * width // 8, 8)),
        "mlp": [{"kernel": jnp.ones((width, 4 * width)), "bias": jnp.ones(4 * width)}],
        "scale": jnp.ones(width),
        "head": jnp.ones((width, 3)),
        "temperature": jnp.ones(()),
    }


def test_table_8_of_tensor_programs_v():
    wide, base = network(64), network(16)
    groups = mup(wide, base, 0.1, weight_decay=0.01)
    found = factors(
        optadamw.adamw(0.1, weight_decay=0.0, groups=mup(wide, base, 0.1)), wide
    )
    hidden = ("attn", "mlp/0/kernel")
    for path, rate in found.items():
        wanted = 0.1 / 4 if path in hidden else 0.1
        np.testing.assert_allclose(rate, wanted, rtol=1e-6, err_msg=path)
    ((_, own),) = groups
    assert own == {"learning_rate": 0.025, "weight_decay": 0.04}
    # In the mode "lr", the decay per step is that of the base.
    assert own["learning_rate"] * own["weight_decay"] == pytest.approx(0.1 * 0.01)


def test_the_base_itself_trains_as_without():
    assert mup(network(16), network(16), 0.1) is None
    tx = optadamw.adamw(0.1, groups=mup(network(16), network(16), 0.1))
    assert tx == optadamw.adamw(0.1)


def test_shapes_are_enough_and_rates_of_all_forms():
    wide, base = (
        jax.eval_shape(lambda: network(64)),
        jax.eval_shape(lambda: network(16)),
    )
    rate = adjustable(0.1)
    ((_, own),) = mup(wide, base, rate)
    assert own["learning_rate"] == rate * 0.25
    schedule = optadamw.schedules.cosine_decay_schedule(0.1, 8)
    ((_, own),) = mup(wide, base, schedule)
    np.testing.assert_allclose(own["learning_rate"](3), schedule(3) / 4, rtol=1e-6)


def test_widths_that_do_not_fit_are_refused():
    wide, base = network(64), network(16)
    for changed, words in (
        ({"head": jnp.ones(16)}, "Leaf 'head': .*another number of axes"),
        ({"mlp": base["mlp"] * 2}, "structure of `base`"),
        ({"attn": jnp.ones((16, 2, 8))}, "Leaf 'attn': .*different factors"),
    ):
        with pytest.raises(ValueError, match=words):
            mup(wide, base | changed, 0.1)
    with pytest.raises(ValueError, match="no hidden weights"):
        mup({"b": jnp.ones(8)}, {"b": jnp.ones(4)}, 0.1)
    with pytest.raises(ValueError, match="`weight_decay` must be"):
        mup(wide, base, 0.1, weight_decay=-1.0)
