"""Trees that do not fit are refused when traced, by path (E2; rows N11, N12, C17).

After each refusal parameters, gradients and state are the same bits, and the right call
gives what it gave before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import sparse

import optadamw

PyTree = Any


TX = optadamw.adamw(0.1, clip_global_norm=1.0)


def tree(value: float, dtype: Any = jnp.float32) -> PyTree:
    """Return four leaves of different shapes, two of them in a list."""
    # From NumPy: `jnp.full` compiles a program for each shape and dtype.
    whole, row, scalar, table = (
        jnp.asarray(np.full(shape, value, dtype))
        for shape in ((2, 3), (3,), (), (3, 2))
    )
    return {"encoder": {"w": whole, "b": row}, "heads": [scalar, table]}


def with_bias(value: Any, whole: PyTree) -> PyTree:
    """Return `whole` with another leaf at encoder/b."""
    return whole | {"encoder": whole["encoder"] | {"b": value}}


PARAMS, GRADS = tree(2.0), tree(0.5)
STATE = TX.init(PARAMS)
CALLS: dict[str, Callable[..., Any]] = {
    "step": TX.step,
    "update": TX.update,
    "jit(step)": jax.jit(TX.step),
    "jit(update)": jax.jit(TX.update),
}


def bits(whole: PyTree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(whole)]


BEFORE = bits((PARAMS, GRADS, STATE))
AFTER = bits(CALLS["jit(step)"](GRADS, STATE, PARAMS))


def refuses(words: str, error: Any, grads: PyTree, state: PyTree, params: PyTree):
    """Assert that all ways to call refuse, that nothing changed and work goes on."""
    for name, call in CALLS.items():
        with pytest.raises(error, match=words):
            call(grads, state, params)
            pytest.fail(f"{name} accepted it")
    assert bits((PARAMS, GRADS, STATE)) == BEFORE
    assert bits(CALLS["jit(step)"](GRADS, STATE, PARAMS)) == AFTER


# --- Gradients -----------------------------------------------------------------------

COUNTERPARTS = r"structure of the gradients.*[Ww]ithout a counterpart.*"
GRADIENTS = {
    "missing leaf": (
        GRADS | {"encoder": {"w": GRADS["encoder"]["w"]}},
        COUNTERPARTS + "'encoder/b'",
    ),
    "missing subtree": ({"heads": GRADS["heads"]}, COUNTERPARTS + "'encoder/b'"),
    "missing element": (
        GRADS | {"heads": GRADS["heads"][:1]},
        COUNTERPARTS + "'heads/1'",
    ),
    "extra leaf": (
        GRADS | {"encoder": GRADS["encoder"] | {"scale": jnp.ones(3)}},
        r"[Oo]nly in the gradients.*'encoder/scale'",
    ),
    "extra subtree": (
        GRADS | {"decoder": {"w": jnp.ones(3)}},
        r"[Oo]nly in the gradients.*'decoder/w'",
    ),
    "another name": (
        GRADS | {"encoder": {"w": GRADS["encoder"]["w"], "bias": jnp.ones(3)}},
        COUNTERPARTS + r"'encoder/b'.*[Oo]nly in.*'encoder/bias'",
    ),
    "array for a subtree": (
        GRADS | {"encoder": jnp.ones(3)},
        COUNTERPARTS + r"'encoder/b'.*[Oo]nly in.*'encoder'",
    ),
    "None for a subtree": (GRADS | {"encoder": None}, COUNTERPARTS + "'encoder/b'"),
    "subtree for an array": (
        with_bias({"x": jnp.ones(3)}, GRADS),
        r"'encoder/b'.*dict",
    ),
    "list for an array": (with_bias([0.5, 0.5, 0.5], GRADS), r"'encoder/b'.*list"),
    "nothing at all": (None, COUNTERPARTS + "'encoder/b'"),
    "(2, 3) for (3,)": (
        with_bias(jnp.ones((2, 3)), GRADS),
        r"'encoder/b'.*\(2, 3\).*\(3,\)",
    ),
    "(3,) for (2, 3)": (
        GRADS | {"encoder": {"w": jnp.ones(3), "b": jnp.ones(3)}},
        r"'encoder/w'.*\(3,\).*\(2, 3\)",
    ),
    "() for (3,)": (with_bias(jnp.ones(()), GRADS), r"'encoder/b'.*\(\).*\(3,\)"),
    "a float for (3,)": (with_bias(0.5, GRADS), r"'encoder/b'.*\(\).*\(3,\)"),
    "(1,) for ()": (
        GRADS | {"heads": [jnp.ones(1), GRADS["heads"][1]]},
        r"'heads/0'.*\(1,\).*\(\)",
    ),
    "(1, 3) for (3,)": (
        with_bias(jnp.ones((1, 3)), GRADS),
        r"'encoder/b'.*\(1, 3\).*\(3,\)",
    ),
    "transposed": (
        GRADS | {"heads": [GRADS["heads"][0], jnp.ones((2, 3))]},
        r"'heads/1'.*\(2, 3\).*\(3, 2\)",
    ),
    "complex for real": (
        with_bias(jnp.ones(3, jnp.complex64), GRADS),
        r"'encoder/b'.*complex64.*float32",
    ),
    "integers": (with_bias(jnp.ones(3, jnp.int32), GRADS), r"'encoder/b'.*int32"),
    "bools": (with_bias(jnp.ones(3, bool), GRADS), r"'encoder/b'.*bool"),
    "keys": (
        with_bias(jax.random.split(jax.random.key(0), 3), GRADS),
        r"'encoder/b'.*key",
    ),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_that_do_not_fit_are_refused_by_path(case):
    grads, words = GRADIENTS[case]
    refuses(words, (ValueError, TypeError), grads, STATE, PARAMS)


def test_other_containers_are_refused_by_path():
    grads = GRADS | {"heads": tuple(GRADS["heads"])}
    refuses(
        r"'heads'.*tuple.*list|'heads'.*list.*tuple", ValueError, grads, STATE, PARAMS
    )


NO_ARRAYS = [
    "relu",
    object(),
    jax.nn.relu,
    jax.ShapeDtypeStruct((3,), jnp.float32),
    sparse.BCOO.fromdense(jnp.ones(3)),
]


@pytest.mark.parametrize("leaf", NO_ARRAYS, ids=type)
def test_gradients_that_are_no_arrays_are_refused_by_path(leaf):
    grads = with_bias(leaf, GRADS)
    for call in (TX.step, TX.update):
        with pytest.raises(TypeError, match=r"'encoder/b'.*gradient must be an array"):
            call(grads, STATE, PARAMS)


def test_a_real_gradient_of_a_complex_parameter_is_refused_by_path():
    params = with_bias(jnp.ones(3, jnp.complex64), PARAMS)
    words = r"'encoder/b'.*float32.*complex64"
    with pytest.raises(ValueError, match=words):
        TX.step(GRADS, TX.init(params), params)


def test_the_shape_of_a_gradient_is_checked_against_the_state_without_params():
    tx = optadamw.scale_by_adam()
    with pytest.raises(
        ValueError, match=r"'encoder/b'.*\[2, 3\].*\[3\]|'encoder/b'.*3"
    ):
        tx.update(with_bias(jnp.ones((2, 3)), GRADS), tx.init(PARAMS))


def test_all_atoms_refuse_a_gradient_that_would_be_broadcast():
    for tx in (
        optadamw.scale_by_adam(),
        optadamw.add_decoupled_weight_decay(0.1),
        optadamw.scale_by_learning_rate(0.1),
        optadamw.clip_by_value(1.0),
        optadamw.clip_by_norm(1.0),
        optadamw.clip_by_global_norm(1.0),
        optadamw.ema_params(0.9),
        optadamw.maximize(),
    ):
        grads = with_bias(jnp.ones((2, 3)), GRADS)
        with pytest.raises(ValueError, match=r"'encoder/b'.*\(2, 3\).*\(3,\)"):
            tx.update(grads, tx.init(PARAMS), PARAMS)


# --- Parameters ----------------------------------------------------------------------

NO_PARAMETERS = {
    "int32": (jnp.arange(3), "int32"),
    "numpy int": (np.arange(3), "int"),
    "uint8": (jnp.ones(3, jnp.uint8), "uint8"),
    "int4": (jnp.ones(3, jnp.int4), "int4"),
    "bool": (jnp.ones(3, bool), "bool"),
    "key": (jax.random.key(0), "key"),
    "old key": (jax.random.PRNGKey(0), "uint32"),
    "Python int": (3, "int"),
    "Python bool": (True, "bool"),
    "string": ("relu", "'relu'"),
    "function": (jax.nn.relu, "type"),
    "object": (object(), "object"),
    "numpy strings": (np.array(["a"]), "U1"),
    "abstract int": (jax.ShapeDtypeStruct((3,), jnp.int32), "int32"),
}


@pytest.mark.parametrize("case", NO_PARAMETERS)
def test_leaves_that_no_optimizer_can_move_are_refused_by_path(case):
    leaf, received = NO_PARAMETERS[case]
    params = with_bias(leaf, PARAMS)
    words = rf"(?s)'encoder/b'.*parameter must be .*got .*{received}"
    for tx in (TX, optadamw.scale_by_learning_rate(0.1), optadamw.ema_params(0.9)):
        with pytest.raises(TypeError, match=words):
            tx.init(params)
    for call in (TX.step, TX.update):
        with pytest.raises(TypeError, match=words):
            call(GRADS, STATE, params)
    assert bits(CALLS["jit(step)"](GRADS, STATE, PARAMS)) == AFTER


def test_a_masked_array_is_refused_by_path():
    masked = np.ma.masked_array(np.ones(3), mask=[1, 0, 0])
    params, grads = with_bias(masked, PARAMS), with_bias(masked, GRADS)
    for call in (
        lambda: TX.init(params),
        lambda: TX.step(GRADS, STATE, params),
        lambda: TX.step(grads, STATE, PARAMS),
        lambda: TX.update(grads, STATE, PARAMS),
    ):
        with pytest.raises(TypeError, match=r"'encoder/b'.*masked.*array.filled\(0\)"):
            call()
    masked = np.ma.masked_array(1.0, mask=True)
    tx = optadamw.adamw(0.1, clip_global_norm=1.0, skip_nonfinite=True)
    for name in ("grad_norm", "weight", "loss"):
        with pytest.raises(TypeError, match=rf"(?s)`{name}` must be .*MaskedArray"):
            tx.step(GRADS, tx.init(PARAMS), PARAMS, **{name: masked})


def test_a_leaf_at_the_root_is_named_so():
    with pytest.raises(TypeError, match=r"root.*int32"):
        TX.init(jnp.arange(3))


def test_an_unfiltered_equinox_module_is_refused_with_the_filter():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"'activation'.*equinox\.filter"):
        TX.init(model)
    TX.init(eqx.filter(model, eqx.is_inexact_array))


def test_integers_are_legal_behind_a_mask():
    params = with_bias(jnp.arange(3), PARAMS)
    floating = jax.tree.map(lambda p: jnp.issubdtype(p.dtype, jnp.floating), params)
    optax.masked(TX, floating).init(params)


@pytest.mark.parametrize("call", [TX.update, TX.step], ids=["update", "step"])
def test_missing_parameters_are_refused(call):
    for arguments in [(GRADS, STATE), (GRADS, STATE, None)]:
        with pytest.raises((ValueError, TypeError), match="params"):
            call(*arguments)


def test_missing_parameters_are_explained():
    words = (
        r"`params` .*add_decoupled_weight_decay needs .*update\(grads, state, params\)"
    )
    with pytest.raises(ValueError, match=words):
        TX.update(GRADS, STATE)
    average = optadamw.ema_params(0.9)
    with pytest.raises(ValueError, match=r"`params` .*ema_params needs"):
        average.update(GRADS, average.init(PARAMS))


@pytest.mark.parametrize(
    "tx",
    [
        optadamw.chain(optadamw.scale_by_adam(), optadamw.scale_by_learning_rate(0.1)),
        optadamw.scale_by_learning_rate(0.1),
    ],
)
def test_a_step_without_parameters_is_refused_in_every_chain(tx):
    with pytest.raises((ValueError, TypeError), match="params"):
        tx.step(GRADS, tx.init(PARAMS), None)


# --- States --------------------------------------------------------------------------


def another(**options: Any) -> optadamw.State:
    return optadamw.adamw(0.1, **options).init(PARAMS)


OTHER_PARAMS = with_bias(jnp.ones(4), PARAMS)
STATES = {
    "optax.adamw": (
        optax.adamw(0.1).init(PARAMS),
        r"`state` must be .*init.*got tuple",
    ),
    "optax.scale_by_adam": (
        optax.scale_by_adam().init(PARAMS),
        r"`state` must be .*init.*got ScaleByAdamState",
    ),
    "optax.EmptyState": (optax.EmptyState(), r"`state` must be .*got EmptyState"),
    "a plain tuple": (tuple(STATE), r"`state` must be .*got tuple"),
    "inside a tuple": ((STATE,), r"`state` must be .*got tuple"),
    "a dict": (STATE._asdict(), r"`state` must be .*got dict"),
    "None": (None, r"`state` must be .*got NoneType"),
    "the parameters": (PARAMS, r"`state` must be .*got dict"),
    "with amsgrad": (another(amsgrad=True), r"`state` holds .*`nu_max`.*tx\.init"),
    "with an average": (another(ema_decay=0.9), r"`state` holds .*`ema`.*tx\.init"),
    "without moments": (
        optadamw.scale_by_learning_rate(0.1).init(PARAMS),
        r"`state` lacks .*`mu`.*tx\.init",
    ),
    "nu dropped": (STATE._replace(nu=None), r"`state` lacks .*`nu`"),
    "of another mu_dtype": (
        another(mu_dtype="bfloat16"),
        r"'encoder/b'.*bfloat16.*expected float32",
    ),
    "of other shapes": (
        TX.init(OTHER_PARAMS),
        r"'encoder/b'.*\[4\].*expected float32\[3\].*tx\.init",
    ),
    "of another tree": (
        TX.init({"w": jnp.ones(3)}),
        r"state\.mu.*'encoder/b'.*'w'",
    ),
    "a leaf dropped": (
        STATE._replace(nu=with_bias(None, STATE.nu)),
        r"'encoder/b'",
    ),
    "a leaf narrowed": (
        STATE._replace(nu=with_bias(jnp.ones(3, jnp.float16), STATE.nu)),
        r"'encoder/b'.*float16.*expected float32",
    ),
    "a leaf of integers": (
        STATE._replace(mu=with_bias(jnp.ones(3, jnp.int32), STATE.mu)),
        r"'encoder/b'.*int32.*expected float32",
    ),
    "a leaf that is a subtree": (
        STATE._replace(mu=with_bias({"x": jnp.ones(3)}, STATE.mu)),
        r"'encoder/b'.*dict.*expected float32",
    ),
    "of complex parameters": (
        TX.init(with_bias(jnp.ones(3, jnp.complex64), PARAMS)),
        r"'encoder/b'.*complex64.*expected float32",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_the_state_of_another_optimizer_is_refused(case):
    state, words = STATES[case]
    refuses(words, (ValueError, TypeError), GRADS, state, PARAMS)


def test_a_state_of_shapes_is_refused():
    with pytest.raises(TypeError, match="`state` holds shapes in the place of arrays"):
        TX.step(GRADS, jax.eval_shape(TX.init, PARAMS), PARAMS)


COUNTERS = {
    "None": None,
    "a float": jnp.float32(3.0),
    "a vector": jnp.zeros(2, jnp.int32),
    "a string": "3",
    "unsigned": jnp.uint32(3),
    "16 bits": jnp.int16(3),
    "a Python float": 3.0,
}


@pytest.mark.parametrize("case", COUNTERS)
def test_a_counter_that_is_no_int32_scalar_is_refused(case):
    state = STATE._replace(step=COUNTERS[case])
    for call in (TX.step, TX.update):
        with pytest.raises((ValueError, TypeError), match=r"(state\.)?step.*int32"):
            call(GRADS, state, PARAMS)


def test_a_state_without_an_average_is_refused_by_ema_of():
    with pytest.raises(ValueError, match=r"`state` .*no average.*ema_decay"):
        optadamw.ema_of(STATE)
    two = (another(ema_decay=0.9), another(ema_decay=0.5))
    with pytest.raises(ValueError, match=r"`state` .*2 averages"):
        optadamw.ema_of(two)


def test_a_tree_that_is_not_like_the_average_is_refused_by_path():
    with pytest.raises(ValueError, match=r"`like`.*'encoder/b'"):
        optadamw.ema_of(another(ema_decay=0.9), like={"w": jnp.ones(3)})


# --- What else reaches a traced step -------------------------------------------------


def vector(step: Any) -> jax.Array:
    return jnp.ones(2) * step


def nothing(step: Any) -> None:
    del step


def word(step: Any) -> str:
    del step
    return "fast"


def imaginary(step: Any) -> complex:
    del step
    return 1j


def truth(step: Any) -> bool:
    del step
    return True


@pytest.mark.parametrize(
    "schedule",
    [
        vector,
        nothing,
        word,
        imaginary,
        truth,
    ],
)
def test_a_schedule_that_returns_no_real_scalar_is_refused(schedule):
    tx = optadamw.adamw(schedule, clip_global_norm=1.0)
    with pytest.raises(
        (ValueError, TypeError), match=rf"schedule.*{schedule.__name__}"
    ):
        tx.update(GRADS, STATE, PARAMS)


@pytest.mark.parametrize("name", ["learning_rate", "b2", "weight_decay"])
def test_a_bad_schedule_is_named(name):
    tx = optadamw.adamw(**({"learning_rate": 0.1} | {name: vector}))
    with pytest.raises(ValueError, match=rf"`{name}`.*vector.*\(2,\)"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    "norm",
    [
        jnp.ones(3),
        "1.0",
        1j,
    ],
    ids=["vector", "string", "complex"],
)
def test_a_norm_that_is_no_real_scalar_is_refused(norm):
    with pytest.raises((ValueError, TypeError), match="grad_norm"):
        TX.step(GRADS, STATE, PARAMS, grad_norm=norm)


READERS = {
    "clip": {"clip_global_norm": 1.0},
    "stats": {"stats": True},
    "abort": {"skip_nonfinite": True, "on_bad_micro_step": "abort"},
}


@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
def test_a_norm_of_one_micro_batch_is_refused_where_that_of_the_mean_is_read(options):
    tx = optadamw.adamw(0.1, accumulate_steps=2, **options)
    with pytest.raises(ValueError, match=r"`grad_norm`.*mean of the window"):
        tx.step(GRADS, tx.init(PARAMS), PARAMS, grad_norm=1.0)
    guarded = optadamw.adamw(
        0.1, accumulate_steps=2, clip_global_norm=1.0, skip_nonfinite=True
    )
    _, state = guarded.step(GRADS, guarded.init(PARAMS), PARAMS, grad_norm=jnp.inf)
    assert int(optadamw.stats_of(state).dropped) == 1
    plain = optadamw.adamw(0.1, accumulate_steps=2)
    plain.step(GRADS, plain.init(PARAMS), PARAMS, grad_norm=1.0)


@pytest.mark.parametrize("tx", [None, optadamw.adamw, 1e-3], ids=["None", "adamw", "x"])
def test_step_takes_a_transformation(tx):
    with pytest.raises(TypeError, match=r"`tx` must be"):
        optadamw.step(tx, GRADS, STATE, PARAMS)
