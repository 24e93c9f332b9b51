"""A step by kernels is the step by XLA, wherever it is called."""

import re
import subprocess
import threading
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import optadamw
from optadamw.native import compiler, kernel, library
from optadamw.walk import native_calls
from tests.native import running
from tests.support import trees
from tests.support.compilations import Compilations
from tests.support.lookahead import lookahead
from tests.support.momentum import scale_by_momentum

pytestmark = running.needs_compiler

SPECIAL = np.array(
    [0, -0.0, 1e-40, -1e-40, 1e-30, 3e38, np.inf, -np.inf, np.nan, 1.9e19, 1e-23],
    np.float32,
)
SHAPES = {"s": (), "empty": (0, 3), "few": (3,), "odd": (33, 7), "long": (130_001,)}


def tree(dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {n: jnp.asarray(rng.normal(size=s), dtype) for n, s in SHAPES.items()}


def pair(**options):
    """Return a transformation twice: run by XLA, and by kernels."""
    return [
        optadamw.adamw(1e-2, weight_decay=0.1, kernel=kernel, **options)
        for kernel in ("xla", "native")
    ]


def calls(function, *arguments):
    """How many calls of kernels a compiled function has."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return text.count('custom_call_target="optadamw_step_')


def steps(tx, params, count=4, **extra):
    state, step = tx.init(params), jax.jit(tx.step)
    for i in range(count):
        grads = jax.tree.map(lambda x, i=i: jnp.sin(x * (i + 2)), params)
        params, state = step(grads, state, params, **extra)
    return params, state


def step_of(tx):
    return lambda g, s, p: tx.step(g, s, p)


CASES = {
    "plain": {},
    "everything": {
        **{"amsgrad": True, "ema_decay": 0.9, "clip_value": 0.3, "maximize": True},
        **{"ema_overwrite_every": 2, "skip_nonfinite": True, "clip_global_norm": 1.0},
    },
    "accumulate": {"accumulate_steps": 2, "loss_scale": 8.0},
}
NARROW = {
    "nearest": {"commit": "nearest"},
    "stochastic": {"commit": "stochastic", "seed": 3},
    "kahan": {"commit": "kahan"},
    "master": {"commit": "master", "ema_decay": 0.9},
}
LONG = ("long", "odd") if jax.__version_info__ < (0, 12) else ("long",)
"""Leaves that are compared. XLA of jax 0.12 computes small leaves in one loop for
several results, in which it contracts other products: an ulp of a moment."""


def assert_same(actual, expected):
    """Parameters and state are equal to the bit, but for the leaves outside `LONG`."""
    trees.assert_same_bits(compared(actual), compared(expected))


def compared(tree):
    return [
        x
        for path, x in jax.tree.leaves_with_path(tree)
        if getattr(path[-1], "key", "long") in LONG
    ]


@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_same(name):
    xla, native = pair(**CASES[name])
    # Kernels and XLA round the norm in two ways (tests/native/test_norm.py).
    given = {"grad_norm": 3.0} if "clip_global_norm" in CASES[name] else {}
    assert_same(steps(native, tree(), **given), steps(xla, tree(), **given))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NARROW)
def test_steps_of_narrow_parameters_are_the_same(name, dtype):
    xla, native = pair(**NARROW[name])
    params = {name: tree(dtype)[name] for name in ("s", "long")}
    assert_same(steps(native, params), steps(xla, params))


def test_a_changed_parameter_is_begun_from():
    """A copy in float32 of a float16 parameter is left where they differ."""
    xla, native = pair(commit="master")
    found = []
    for tx in (xla, native):
        params, state = steps(tx, {"w": tree("float16")["long"]}, count=2)
        changed = {"w": params["w"].at[::3].set(-2.0)}
        found.append(jax.jit(tx.step)(changed, state, changed))
    trees.assert_same_bits(found[1], found[0])
    moved = np.asarray(found[0][0]["w"], np.float32)[::3] + 2
    assert (np.abs(moved) < 0.03).all()


@pytest.mark.parametrize(
    ("dtype", "options"),
    [("float32", {"amsgrad": True}), ("bfloat16", {"commit": "kahan"})],
)
def test_loops_over_many_arrays_are_vectorized(dtype, options, monkeypatch, tmp_path):
    """gcc leaves a loop that needs more than 10 comparisons of arrays as it is."""
    sources, made = [], library.source_of
    monkeypatch.setattr(
        kernel, "source_of", lambda *x: sources.append(made(*x)) or sources[-1]
    )
    kernel.forget()
    tx = optadamw.adamw(1e-2, ema_decay=0.9, kernel="native", **options)
    params = {"w": jax.ShapeDtypeStruct((7001,), dtype)}
    jax.eval_shape(tx.step, params, jax.eval_shape(tx.init, params), params)
    (source,) = sources
    assert "#pragma GCC ivdep\n  for (int64_t i" in source
    found = compiler.find_compiler()
    about = subprocess.check_output([found.path, "--version"], text=True)
    if "Free Software" not in about or found.target != ("-march=native",):
        return  # another compiler reports otherwise, another machine has no FMA
    report, file = tmp_path / "report", tmp_path / "step.c"
    file.write_text(f'#define HANDLER step\n#define SOURCE ""\n{source}')
    flags = (*compiler.FLAGS, f"-fopt-info-vec-optimized={report}")
    monkeypatch.setattr(compiler, "FLAGS", flags)
    found.compile(file, tmp_path / "step.so")
    vectorized = {int(x) for x in re.findall(r"step.c:(\d+):", report.read_text())}
    lines = enumerate(file.read_text().splitlines(), start=1)
    loops = [number for number, line in lines if "#pragma GCC ivdep" in line]
    assert loops and all({n, n + 1} & vectorized for n in loops)


def test_numbers_in_float64():
    with jax.enable_x64():
        xla, native = pair(amsgrad=True)
        params = {name: tree("float64")[name] for name in ("s", "long")}
        assert_same(steps(native, params), steps(xla, params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_special_values(dtype):
    """Denormals, both zeros, infinities, NaN, numbers whose square overflows."""
    xla, native = pair()
    long = np.tile(SPECIAL, 3000)
    params = {"w": jnp.asarray(long, dtype)}
    grads = {"w": jnp.asarray(np.roll(long, 4), dtype)}
    states = []
    for tx in (xla, native):
        p, s = params, tx.init(params)
        for factor in (-2, 1, -2):
            p, s = jax.jit(tx.step)({"w": grads["w"] * factor}, s, p)
        states.append((p, s.mu, s.nu))
    trees.assert_same_bits(states[1], states[0])


def test_a_skipped_step_changes_no_bit():
    _, native = pair(skip_nonfinite=True)
    params = tree()
    state = native.init(params)
    bad = params | {"few": params["few"].at[1].set(jnp.nan)}
    after, next_state = jax.jit(native.step)(bad, state, params)
    trees.assert_same_bits(after, params)
    trees.assert_same_bits(next_state.mu, state.mu)


# --- where it is called --------------------------------------------------------------


def test_it_is_one_call_in_place_without_temporaries():
    _, native = pair(ema_decay=0.9, skip_nonfinite=True)
    three = {str(i): jax.ShapeDtypeStruct((140, 140), jnp.float32) for i in range(3)}
    running.assert_calls_in_place(native, three, 1)


@pytest.mark.parametrize("gated", [False, True])
def test_loops_and_conditions_need_no_temporaries(gated):
    _, native = pair(skip_nonfinite=gated or None)
    params = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    state = jax.eval_shape(native.init, params)

    def scan(params, state, grads):
        def body(carry, _):
            return native.step(grads, carry[1], carry[0]), None

        return lax.scan(body, (params, state), None, length=3)[0]

    def condition(params, state, grads, due):
        return lax.cond(
            due, lambda: native.step(grads, state, params), lambda: (params, state)
        )

    for function, more in ((scan, ()), (condition, (jax.ShapeDtypeStruct((), bool),))):
        jitted = jax.jit(function, donate_argnums=(0, 1))
        memory = jitted.lower(params, state, params, *more).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 0.01 * 4 * 512 * 512


@pytest.mark.parametrize("layers", [6, 40])
def test_a_train_step_copies_no_parameter(layers):
    """XLA's path copies those that the backward pass reads.

    A call has a 32nd of the gradients and waits for one that lies a 32nd before.
    """
    names = [f"layer_{i:02d}" for i in range(layers)]
    params = {name: jax.ShapeDtypeStruct((256, 256), jnp.float32) for name in names}

    def train(tx, params, state, x):
        def loss(params, x):
            for name in names:
                x = jnp.tanh(x @ params[name])
            return jnp.sum(x)

        return tx.step(jax.grad(loss)(params, x), state, params)

    x, taken = jax.ShapeDtypeStruct((8, 256), jnp.float32), []
    for tx in pair():
        step = jax.jit(partial(train, tx), donate_argnums=(0, 1))
        made = step.lower(params, jax.eval_shape(tx.init, params), x).compile()
        taken.append(made.memory_analysis().temp_size_in_bytes)
    assert not re.search(r"f32\[256,256\]\S* copy\(", made.as_text())
    assert taken[1] <= taken[0] + layers * 256 * 256 * 4 / 16


@pytest.mark.parametrize("options", [{}, {"clip_global_norm": 1.0}])
def test_a_step_of_many_elements_is_computed_while_its_caller_goes_on(options):
    """XLA starts no thread for a program in which it counts less than 1,000."""
    tx = optadamw.adamw(1e-2, kernel="native", **options)

    def counted(size):
        params = {"w": jax.ShapeDtypeStruct((size,), jnp.float32)}
        state = jax.eval_shape(tx.init, params)
        return tx.jit_step.lower(params, state, params).compile().cost_analysis()

    size = native_calls.ASYNCHRONOUS
    assert counted(size - 1)["flops"] < 1000 <= counted(size)["flops"]


def test_leaves_are_split_into_calls():
    _, native = pair()
    small = {str(i): jnp.ones(8) for i in range(native_calls.LEAVES + 1)}
    large = {str(i): jnp.ones(native_calls.BYTES // 4) for i in range(3)}
    least = {str(i): jnp.ones(native_calls.LEAST_BYTES // 8) for i in range(6)}
    for params, count in (
        (small, 2),
        (large, 3),
        (least, 3),
        (small | {"big": large["0"]}, 3),
    ):
        assert calls(step_of(native), params, native.init(params), params) == count


def test_derivatives_and_maps_are_those_of_xla():
    xla, native = pair(ema_decay=0.9)
    params = {"w": jnp.linspace(-1.0, 1.0, 12)}
    grads = {"w": jnp.sin(params["w"] * 3)}
    state = xla.init(params)
    stack = partial(jax.tree.map, lambda x: jnp.stack([x, x * 2]))

    def loss(tx, g, p):
        return jnp.sum(tx.step(g, state, p)[0]["w"] ** 2)

    def several(tx, grads, params):
        return jax.vmap(partial(loss, tx))(grads, params).sum()

    for make in (
        lambda tx: jax.vmap(lambda g, p: tx.step(g, state, p)),
        lambda tx: jax.vmap(jax.grad(partial(loss, tx))),
        lambda tx: jax.grad(partial(several, tx)),
    ):
        arguments = stack(grads), stack(params)
        expected = jax.jit(make(xla))(*arguments)
        chex.assert_trees_all_close(jax.jit(make(native))(*arguments), expected)
        assert calls(make(native), *arguments) == 0
    tangents = [
        jax.jvp(jax.grad(partial(loss, tx)), (grads, params), (grads, params))
        for tx in (xla, native)
    ]
    chex.assert_trees_all_close(*tangents)


def test_eager_steps_and_steps_without_jit():
    xla, native = pair(skip_nonfinite=True)
    params = {"w": jnp.linspace(-1.0, 1.0, 12)}
    for mode in (jax.disable_jit(False), jax.disable_jit()):
        with mode:
            ends = [tx.step(params, tx.init(params), params) for tx in (xla, native)]
        chex.assert_trees_all_close(*ends)


def test_an_exported_step_is_that_of_xla():
    _, native = pair()
    params = {"w": jnp.ones(4)}
    state = native.init(params)
    exported = export.export(jax.jit(step_of(native)))(params, state, params)
    assert "optadamw_" not in exported.mlir_module()
    loaded = export.deserialize(exported.serialize())
    chex.assert_trees_all_close(
        loaded.call(params, state, params), native.step(params, state, params)
    )
    with pytest.raises(ValueError, match=r"kernel.* it is compiled for tpu"):
        jax.jit(step_of(native)).trace(params, state, params).lower(
            lowering_platforms=("tpu",)
        )


def test_equal_transformations_share_one_compiled_step():
    params = tree()
    step = jax.jit(lambda tx, g, s, p: tx.step(g, s, p), static_argnums=0)
    counts = []
    for _ in range(2):
        tx = optadamw.adamw(1e-2, kernel="native")
        state = tx.init(params)
        with Compilations() as compilations:
            params, state = step(tx, params, state, params)
        counts.append(compilations.count)
    assert counts == [1, 0]


def test_two_threads_step_at_once():
    _, native = pair()
    params = {"w": jnp.linspace(-1.0, 1.0, 500_001)}
    step = jax.jit(step_of(native))
    expected, _ = step(params, native.init(params), params)
    ends = [None] * 4

    def work(i):
        for _ in range(5):
            ends[i], _ = step(params, native.init(params), params)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for end in ends:
        trees.assert_same_bits(end, expected)


# --- which leaves have kernels -------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"clip_norm": 1.0}, "clip_by_norm reads all elements of a parameter"),
        ({"caution": True}, "cautious reads all elements of a parameter"),
        ({"clip_update_rms": 1.0}, "clip_update_by_rms reads all elements"),
        ({"stats": "norms"}, 'stats="norms" reads all elements'),
    ],
)
def test_a_leaf_without_a_kernel_is_refused_or_left_to_xla(options, reason):
    params = {"w": jnp.ones((4, 64))}
    native = optadamw.adamw(1e-2, kernel="native", **options)
    state = native.init(params)
    with pytest.raises(ValueError, match=f"Leaf 'w': .* in a kernel: {reason}"):
        native.step(params, state, params)
    ends = [
        jax.jit(optadamw.adamw(1e-2, kernel=kernel, **options).step)(
            params, state, params
        )
        for kernel in ("auto", "xla")
    ]
    trees.assert_same_bits(*ends)


def test_each_leaf_is_run_by_what_can_run_it():
    params = {"c": jnp.ones(3, jnp.complex64), "r": jnp.ones(3), "weak": 1.0}
    auto, xla = (optadamw.adamw(1e-2, kernel=kernel) for kernel in ("auto", "xla"))
    state = xla.init(params)
    assert calls(step_of(auto), params, state, params) == 1
    chex.assert_trees_all_close(
        jax.jit(auto.step)(params, state, params),
        jax.jit(xla.step)(params, state, params),
    )
    with pytest.raises(ValueError, match=r"Leaf 'c': .* complex"):
        optadamw.adamw(1e-2, kernel="native").step(params, state, params)


@pytest.mark.parametrize("rule", [lookahead(2, 0.4), scale_by_momentum(0.8)])
def test_a_rule_of_a_user_is_one_call(rule):
    """Rules of docs/guides/extending.md and of the suite, with buffers of their own."""
    rate = optadamw.scale_by_learning_rate(1e-2)
    is_last = "lookahead" in repr(rule)
    chain = optadamw.chain(*((rate, rule) if is_last else (rule, rate)))
    native = optadamw.with_kernels(chain, "native")
    params = {"w": jnp.linspace(-1.0, 1.0, 700), "b": jnp.ones(3)}
    state = native.init(params)
    assert calls(step_of(native), params, state, params) == 1
    chex.assert_trees_all_close(
        jax.jit(native.step)(params, state, params),
        jax.jit(chain.step)(params, state, params),
        rtol=1e-6,
    )


def test_update_and_flush():
    params = {"w": jnp.ones(8)}
    auto, native = (optadamw.adamw(1e-2, kernel=k) for k in ("auto", "native"))
    state = auto.init(params)
    assert calls(auto.update, params, state, params) == 0
    with pytest.raises(ValueError, match="`update` returns no new parameters"):
        native.update(params, state, params)
    tx = optadamw.adamw(1e-2, kernel="native", accumulate_steps=2)
    _, state = tx.step(params, tx.init(params), params)
    flushed, _ = tx.flush(state, params)
    assert (flushed["w"] < 1).all()


def test_the_environment(monkeypatch):
    params = {"w": jnp.ones(8)}
    plain = optadamw.adamw(1e-2)
    xla, native = (optadamw.adamw(1e-2, kernel=k) for k in ("xla", "native"))
    state = plain.init(params)
    found = []
    for value in ("", "1", "0"):
        monkeypatch.setenv(kernel.SWITCH, value)
        found.append([calls(step_of(tx), params, state, params) for tx in (plain, xla)])
    assert found == [[1, 0], [1, 0], [0, 0]]
    with pytest.raises(ValueError, match="in a kernel: OPTADAMW_NATIVE=0"):
        native.step(params, state, params)


@pytest.mark.parametrize("word", ["off", "false", "2", " 0"])
def test_the_environment_with_another_word(monkeypatch, word):
    """Before, "off" left kernels on."""
    monkeypatch.setenv(kernel.SWITCH, word)
    params, tx = {"w": jnp.ones(8)}, optadamw.adamw(1e-2)
    wanted = f"`OPTADAMW_NATIVE` must be 0, 1 or not set; got '{word}'. 0 switches"
    with pytest.raises(ValueError, match=wanted):
        tx.step(params, tx.init(params), params)
    with pytest.raises(ValueError, match=wanted):
        optadamw.describe(tx, params)
    xla = optadamw.adamw(1e-2, kernel="xla")
    assert calls(step_of(xla), params, xla.init(params), params) == 0


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    params = {"w": jnp.ones(8)}
    auto, native = (optadamw.adamw(1e-2, kernel=k) for k in ("auto", "native"))
    state = auto.init(params)
    assert calls(step_of(auto), params, state, params) == 0
    with pytest.raises(ValueError, match="no compiler: cc is not on the PATH"):
        native.step(params, state, params)


def test_bad_words():
    with pytest.raises(ValueError, match='`kernel` must be "auto", "native" or "xla"'):
        optadamw.adamw(1e-2, kernel="cuda")
    with pytest.raises(TypeError, match="`inner` must be a transformation"):
        optadamw.with_kernels(3)
    with pytest.raises(ValueError, match="has kernels already"):
        optadamw.with_kernels(optadamw.with_kernels(optadamw.adamw(1e-2)))


def test_describe_says_what_runs_a_step(monkeypatch):
    params = {"c": jnp.ones(3, jnp.complex64), "r": jnp.ones(3), "s": jnp.ones(())}

    def line(params, **options):
        tx = optadamw.adamw(1e-2, **{"kernel": "auto"} | options)
        return optadamw.describe(tx, params).splitlines()[-1]

    assert line(params, kernel="xla") == 'pass: XLA (kernel="xla")'
    real = {"r": params["r"]}
    version = kernel.usable_compiler().version
    assert line(real) == f"pass: native ({version})"
    assert line(params) == (
        f"pass: native ({version}), XLA for 1 parameter "
        "(a complex parameter or gradient: 1)"
    )
    reason = "clip_by_norm reads all elements of a parameter"
    assert line(real, clip_norm=1.0) == f"pass: XLA ({reason})"
    for default in ({"kernel": None}, {}):
        assert line(real, **default) == f"pass: native ({version})"
    monkeypatch.setenv(kernel.SWITCH, "0")
    for default in ({"kernel": None}, {}):
        assert line(real, **default) == "pass: XLA (OPTADAMW_NATIVE=0)"
