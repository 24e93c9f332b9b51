"""Steps inside the backward pass: the bits of `step`, without its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.base.random_bits import Site, bits_at
from optadamw.walk.layers import Layer, site_of_layer

LAYERS, WIDTH = 3, 64


def layer(params, x):
    return x + jnp.tanh(x @ params["kernel"] + params["bias"])


def head(params, x, y):
    return jnp.mean((x @ params - y).astype(jnp.float32) ** 2)


def embed(table, tokens):
    return table[tokens]


def loss_of(params, tokens, y):
    x = embed(params["embed"], tokens)
    body = jax.checkpoint(lambda x, p: (layer(p, x), None))
    x, _ = jax.lax.scan(body, x, params["layers"])
    return head(params["head"], x, y)


def released(tx, params, state, tokens, y):
    release = optadamw.gradient_release(tx, state, params)
    x, pull_embed = release.vjp(embed, lambda p: p["embed"], tokens)
    x, pull_layers = release.scan(layer, lambda p: p["layers"], x)
    loss, pull_head = release.vjp(head, lambda p: p["head"], x, y)
    new_head, gradient, _ = pull_head(jnp.ones_like(loss))
    new_layers, gradient = pull_layers(gradient)
    new_embed, _ = pull_embed(gradient)
    return *release.finish([new_head, new_layers, new_embed]), loss


def ordinary(tx, params, state, tokens, y):
    loss, grads = jax.value_and_grad(loss_of)(params, tokens, y)
    return *tx.step(grads, state, params), loss


def parameters(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    normal = jax.random.normal
    params = {
        "embed": normal(keys[0], (40, WIDTH)),
        "layers": {
            "kernel": normal(keys[1], (LAYERS, WIDTH, WIDTH)) / 8,
            "bias": jnp.zeros((LAYERS, WIDTH)),
        },
        "head": normal(keys[2], (WIDTH, 8)) / 8,
    }
    return jax.tree.map(lambda p: p.astype(dtype), params)


def batch(dtype=jnp.float32):
    tokens = jnp.arange(24) % 40
    return tokens, jnp.sin(jnp.arange(24 * 8.0)).reshape(24, 8).astype(dtype)


EIGHT = optadamw.blockwise(min_size=256)
RATE = optadamw.schedules.linear_schedule(1e-2, 1e-3, 5)
ROWS = {
    "plain": ({}, jnp.float32),
    "schedule, decay, clip": (
        {"learning_rate": RATE, "weight_decay": 0.1, "clip_value": 1e-3, "eps": 1e-6},
        jnp.float32,
    ),
    "amsgrad, average": (
        {"amsgrad": True, "ema_decay": 0.9, "ema_overwrite_every": 2},
        jnp.float32,
    ),
    "slow moment, no decay of biases": (
        {"b3": 0.99, "mask": "!*bias"},
        jnp.float32,
    ),
    "groups, one frozen": (
        {"groups": {"head": {"freeze": True}, "*bias": {"learning_rate": 1e-3}}},
        jnp.float32,
    ),
    "frozen in the stack": ({"groups": {"*bias": {"freeze": True}}}, jnp.float32),
    "adjustable, guard": (
        {"learning_rate": optadamw.adjustable(1e-2), "skip_nonfinite": True},
        jnp.float32,
    ),
    "8 bits": ({"mu_dtype": EIGHT, "nu_dtype": EIGHT}, jnp.float32),
    "8 bits along the last axis": (
        {"nu_dtype": optadamw.blockwise(min_size=256, axis=-1)},
        jnp.float32,
    ),
    "16-bit moments": (
        {
            "mu_dtype": optadamw.stochastic("bfloat16"),
            "nu_dtype": optadamw.stochastic("bfloat16"),
        },
        jnp.float32,
    ),
    "stochastic": ({"commit": "stochastic"}, jnp.bfloat16),
    "kahan": ({"commit": "kahan"}, jnp.bfloat16),
    "mixed": ({"precision": "mixed"}, jnp.bfloat16),
    "master of 24 bits": (
        {"commit": "master", "residual_bits": 8, "seed": 3},
        jnp.bfloat16,
    ),
    "compact": ({"precision": "compact", "ema_decay": 0.9}, jnp.bfloat16),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_released_step_has_the_bits_of_the_step(row):
    options, dtype = ROWS[row]
    # A released step is always XLA's. On jax 0.12 a kernel has other last places than
    # XLA in leaves of some hundred elements (docs/guides/native.md).
    tx = optadamw.adamw(**({"learning_rate": 1e-2, "kernel": "xla"} | options))
    params = parameters(dtype)
    one = two = params, tx.init(params)
    steps = [jax.jit(released, static_argnums=0), jax.jit(ordinary, static_argnums=0)]
    # XLA contracts the products of moments in 16 bits in one of two ways there, and the
    # first gradients after such a step differ (tests/laws/test_rounded_moments.py).
    nearly = row == "16-bit moments" and jax.__version_info__ >= (0, 12)
    for _ in range(1 if nearly else 3):
        *one, loss = steps[0](tx, *one, *batch(dtype))
        *two, same = steps[1](tx, *two, *batch(dtype))
        assert loss == same
    assert jax.tree.structure(one) == jax.tree.structure(two)
    others = jax.tree.leaves(two)
    for (path, a), b in zip(jax.tree.leaves_with_path(one), others, strict=True):
        assert a.dtype == b.dtype
        most = int(nearly and path[0].idx == 0)
        differ = int((np.asarray(a) != np.asarray(b)).sum())
        assert most or not differ, (jax.tree_util.keystr(path), differ)
        if most:
            np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), most)


def large(count, size, dtype=jnp.float32):
    return {"layers": jax.ShapeDtypeStruct((count, size, size), dtype)}


def square(kernel, x):
    return jnp.tanh(x @ kernel)


def mean(x):
    return jnp.mean(x.astype(jnp.float32) ** 2)


def released_stack(tx, params, state, x):
    release = optadamw.gradient_release(tx, state, params)
    x, pull = release.scan(square, lambda p: p["layers"], x)
    part, _ = pull(jax.grad(mean)(x))
    return release.finish([part])


def ordinary_stack(tx, params, state, x):
    def loss(params):
        body = jax.checkpoint(lambda x, kernel: (square(kernel, x), None))
        return mean(jax.lax.scan(body, x, params["layers"])[0])

    return tuple(tx.step(jax.grad(loss)(params), state, params))


def temporaries(function, tx, params, x):
    state = jax.eval_shape(tx.init, params)
    step = jax.jit(function, static_argnums=0, donate_argnums=(1, 2))
    memory = step.lower(tx, params, state, x).compile().memory_analysis()
    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((params, state)))
    assert memory.alias_size_in_bytes >= kept
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("options", [{}, {"precision": "compact"}], ids=str)
def test_the_gradients_of_all_layers_are_never_there(options):
    """A step by scan takes less than two layers; the ordinary one all gradients."""
    count, size = 16, 256
    dtype = jnp.bfloat16 if options else jnp.float32
    params, x = large(count, size, dtype), jax.ShapeDtypeStruct((4, size), dtype)
    tx = optadamw.adamw(1e-3, **options)
    one = size * size * jnp.dtype(dtype).itemsize
    after = temporaries(ordinary_stack, tx, params, x)
    during = temporaries(released_stack, tx, params, x)
    assert after >= count * one
    if not options or jax.__version_info__ >= (0, 12):
        assert during < 6 * one
    # XLA's CPU backend of jax 0.10 keeps stacks in bfloat16 as float32 in a loop.
    assert after - during > 0.8 * (count - 1) * one


def unrolled(tx, params, state, x):
    release = optadamw.gradient_release(tx, state, params)
    pulls, parts = [], []
    for name in params:
        x, pull = release.vjp(square, lambda p, name=name: p[name], x)
        pulls.append(pull)
    gradient = jax.grad(mean)(x)
    for pull in reversed(pulls):
        part, gradient = pull(gradient)
        parts.append(part)
    return release.finish(parts)


def test_layers_that_are_parameters_of_their_own_need_no_gradients_either():
    count, size = 16, 256
    leaf = jax.ShapeDtypeStruct((size, size), jnp.float32)
    params = {f"layer{i:02}": leaf for i in range(count)}
    x = jax.ShapeDtypeStruct((4, size), jnp.float32)
    assert temporaries(unrolled, optadamw.adamw(1e-3), params, x) < 3 * 4 * size**2


@jax.custom_vjp
def doubled(kernel, x):
    return x @ kernel


doubled.defvjp(
    lambda kernel, x: (x @ kernel, (kernel, x)),
    lambda kept, g: (2 * kept[1].T @ g, 2 * g @ kept[0].T),
)


def test_a_layer_may_have_a_derivative_of_its_own():
    params = {"a": jnp.eye(4), "b": jnp.ones((2, 4, 4)) / 4}
    tx, x = optadamw.adamw(0.1, eps=1.0), jnp.ones((2, 4))

    def loss(params):
        y = doubled(params["a"], x)
        return mean(jax.lax.scan(lambda y, k: (doubled(k, y), None), y, params["b"])[0])

    state = tx.init(params)
    wanted = tx.step(jax.grad(loss)(params), state, params)
    release = optadamw.gradient_release(tx, state, params)
    y, pull_a = release.vjp(doubled, lambda p: p["a"], x)
    y, pull_b = release.scan(doubled, lambda p: p["b"], y)
    b, gradient = pull_b(jax.grad(mean)(y))
    a, _ = pull_a(gradient)
    for one, two in zip(
        jax.tree.leaves(release.finish([a, b])), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_shared_parameters_take_the_sum_of_their_gradients_and_layers_their_keys():
    """A table that embeds and reads out, and layers with an array of their own."""
    tx = optadamw.adamw(1e-2, commit=None)
    params = {k: v for k, v in parameters().items() if k != "head"}
    tokens, _ = batch()
    masks = jax.random.bernoulli(jax.random.key(1), 0.5, (LAYERS, 24, WIDTH))

    def masked(p, x, mask):
        return layer(p, x) * mask

    def read_out(table, x):
        return jnp.mean((x @ table.T) ** 2)

    def loss(params):
        x = embed(params["embed"], tokens)
        body = jax.checkpoint(lambda x, pair: (masked(pair[0], x, pair[1]), None))
        x, _ = jax.lax.scan(body, x, (params["layers"], masks))
        return read_out(params["embed"], x)

    def step(params, state):
        release = optadamw.gradient_release(tx, state, params)
        x, pull_embed = jax.vjp(embed, params["embed"], tokens)
        x, pull = release.scan(masked, lambda p: p["layers"], x, masks)
        above, gradient = jax.grad(read_out, (0, 1))(params["embed"], x)
        layers, gradient = pull(gradient)
        below, _ = pull_embed(gradient)
        table = release.step(lambda p: p["embed"], above + below)
        return release.finish([table, layers])

    state = tx.init(params)
    wanted = jax.jit(lambda p, s: tuple(tx.step(jax.grad(loss)(p), s, p)))
    one, two = jax.jit(step)(params, state), wanted(params, state)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@jax.custom_vjp
def with_gradient_times(kernel, factor):
    return kernel


with_gradient_times.defvjp(
    lambda kernel, factor: (kernel, factor),
    lambda factor, gradient: (gradient * factor, jnp.zeros_like(factor)),
)


def test_the_guard_keeps_the_bits_of_a_layer_whose_gradient_is_bad():
    tx = optadamw.adamw(1e-2, skip_nonfinite=True, mu_dtype=EIGHT)
    params = {"a": jnp.ones((4, 64, 64)), "b": jnp.ones(3)}
    state = tx.init(params)

    def layer_of(kernel, x, factor):
        return x + 1e-3 * x @ with_gradient_times(kernel, factor)

    @jax.jit
    def step(params, state, x, factors):
        release = optadamw.gradient_release(tx, state, params)
        b, pull_b = release.vjp(lambda b, x: x * b.sum(), lambda p: p["b"], x)
        y, pull = release.scan(layer_of, lambda p: p["a"], b, factors)
        a, gradient = pull(jnp.ones_like(y))
        return release.finish([a, pull_b(gradient)[0]])

    def moved(before, after):
        """Whether any bit of each layer, and of `b`, has changed."""
        trees = [(p, s.mu, s.mu_scales, s.nu) for p, s in (before, after)]
        pairs = jax.tree.map(lambda x, y: np.asarray(x != y), *trees)
        layers = [bool(sum(p["a"][i].any() for p in pairs)) for i in range(4)]
        return [*layers, bool(sum(p["b"].any() for p in pairs if p["b"] is not None))]

    x, ones = jnp.ones((2, 64)), jnp.ones(4)
    start = step(params, state, x, ones)
    assert moved(start, step(*start, x, ones)) == [True] * 5

    after = step(*start, x, jnp.array([1.0, jnp.nan, jnp.inf, 1.0]))
    assert moved(start, after) == [True, False, False, True, True]
    stats = optadamw.stats_of(after[1])
    assert (int(stats.nonfinite), int(stats.skipped), int(after[1].step)) == (1, 0, 2)

    after = step(*start, x * jnp.nan, ones)
    assert moved(start, after) == [False] * 5
    stats = optadamw.stats_of(after[1])
    assert (int(stats.nonfinite), int(stats.skipped), int(after[1].step)) == (1, 1, 1)


def opened(tx, params):
    return optadamw.gradient_release(tx, tx.init(params), params)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip_global_norm": 1.0}, "clip_by_global_norm reads the norm of all"),
        ({"accumulate_steps": 2}, "multi_steps sums the gradients"),
        ({"loss_scale": 8.0}, "with_loss_scale is set by all"),
        ({"skip_nonfinite": True, "skip_spikes": True}, "skip_spikes checks"),
        ({"stats": True}, "with_stats records"),
        ({"offload": ("mu",)}, "with_offload moves"),
    ],
    ids=str,
)
def test_what_needs_all_gradients_is_refused(options, says):
    tx, params = optadamw.adamw(1e-3, **options), {"w": jnp.ones((2, 4))}
    with pytest.raises(ValueError, match=says) as error:
        opened(tx, params)
    assert "tx.step" in str(error.value)


PARAMS = {"a": jnp.ones((64, 128)), "b": jnp.ones((3, 4)), "c": jnp.ones(4)}
EIGHT_ROWS = optadamw.blockwise(min_size=1, axis=-2)


@pytest.mark.parametrize(
    ("options", "use", "says"),
    [
        ({"clip_norm": 1.0}, lambda r: scanned(r, "b"), "'b': clip_by_norm computes"),
        (
            {"mu_dtype": EIGHT_ROWS},
            lambda r: scanned(r, "a"),
            "'a': the blocks of `mu`",
        ),
        ({}, lambda r: scanned(r, None), "'b': its shape is .3, 4., and stacked"),
        ({}, lambda r: r.scan(square, lambda p: p["b"], jnp.arange(3)), "it is int32"),
        ({}, lambda r: r.finish([whole(r, "a"), whole(r, "b")]), "'c': no part"),
        ({}, lambda r: r.finish([whole(r, k) for k in "abca"]), "'a': two parts"),
        ({}, lambda r: r.finish([jnp.ones(3)]), "`parts` must be parts that"),
        ({}, lambda r: r.step("a", PARAMS["a"]), "`where` must be a function"),
        ({}, lambda r: r.step(lambda p: 3.0, PARAMS["a"]), "must return a part"),
        ({}, lambda r: r.step(lambda p: p["a"], PARAMS["b"]), "'a': its gradient has"),
    ],
)
def test_a_mistake_is_refused_in_words(options, use, says):
    tx = optadamw.adamw(1e-3, **options)
    with pytest.raises((ValueError, TypeError), match=says):
        use(opened(tx, PARAMS))


def scanned(release, key):
    where = (lambda p: p) if key is None else (lambda p: p[key])
    x, pull = release.scan(lambda p, x: x, where, jnp.ones(4))
    return pull(x)


def whole(release, key):
    return release.step(lambda p: p[key], PARAMS[key])


def test_another_transformation_is_refused():
    with pytest.raises(TypeError, match="`tx` must be a transformation of optadamw"):
        optadamw.gradient_release(None, None, PARAMS)


@pytest.mark.parametrize("count", [4, 2**20])
def test_a_layer_draws_the_bits_of_its_part_of_the_stack(count):
    """Also if the stack has more than 2**32 numbers, of which XLA makes one layer."""
    shape = (count, 128, 64)
    key = jnp.uint32(7)
    whole = jax.jit(lambda i: bits_at(Site(key, jnp.int32(3)), shape)[i])
    own = jax.jit(
        lambda i: bits_at(site_of_layer(key, 3, Layer(i, (shape,)), shape), shape[1:])
    )
    for index in (0, 1, count - 1):
        assert (whole(index) == own(jnp.int32(index))).all()


def test_kernels_step_a_layer_as_they_step_its_stack():
    options, dtype = ROWS["compact"]
    tx = optadamw.with_pallas(optadamw.adamw(1e-2, **options), interpret=True)
    params = parameters(dtype)

    def wave(param):
        return jnp.sin(jnp.arange(param.size * 1.0)).reshape(param.shape).astype(dtype)

    grads = jax.tree.map(wave, params)
    state = tx.init(params)

    @jax.jit
    def by_layers(params, state):
        release = optadamw.gradient_release(tx, state, params)
        _, pull = release.scan(given, lambda p: p["layers"], 0.0, grads["layers"])
        parts = [pull(jnp.ones(()))[0]]
        for key in ("embed", "head"):
            parts.append(release.step(lambda p, key=key: p[key], grads[key]))
        return release.finish(parts)

    one, two = by_layers(params, state), jax.jit(tx.step)(grads, state, params)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(tuple(two)), strict=True):
        assert (a == b).all()


def given(params, x, grads):
    """A layer whose gradients are `grads`."""
    products = jax.tree.map(
        lambda p, g: jnp.sum(p.astype(jnp.float32) * g), params, grads
    )
    return x + sum(jax.tree.leaves(products))
