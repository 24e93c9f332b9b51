"""Every way to say which parameters are decayed chooses what it says, or is refused."""

import copy
import pickle
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw

PyTree = Any

LEARNING_RATE, DECAY, VALUE, GRADIENT, EPS = 0.125, 0.5, 2.0, 0.25, 1e-8


def filled(value: float, like: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.full(jnp.shape(x), value, jnp.float32), like)


def names(tree: PyTree) -> list[str]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(k, simple=True, separator="/") for k, _ in flat]


def decayed(mask: Any, like: PyTree) -> set[str]:
    """Take the first step of AdamW, and return the paths that were decayed.

    By hand, its direction is g / (|g| + eps); each leaf has to follow one of both
    formulas to an ULP.
    """
    params = filled(VALUE, like)
    tx = optadamw.adamw(LEARNING_RATE, eps=EPS, weight_decay=DECAY, mask=mask)
    moved, _ = tx.step(filled(GRADIENT, like), tx.init(params), params)
    plain = VALUE - LEARNING_RATE * GRADIENT / (GRADIENT + EPS)
    shrunk = plain - LEARNING_RATE * DECAY * VALUE
    chosen = set()
    for name, leaf in zip(names(params), jax.tree.leaves(moved), strict=True):
        is_decayed = abs(float(leaf.ravel()[0]) - shrunk) < abs(shrunk - plain) / 2
        expected = np.full(leaf.shape, shrunk if is_decayed else plain, np.float32)
        np.testing.assert_array_max_ulp(np.asarray(leaf), expected, 1)
        if is_decayed:
            chosen.add(name)
    return chosen


def layer() -> dict[str, Any]:
    return {"kernel": np.ones((2, 2)), "bias": np.ones(2)}


MODEL = {
    "bias": np.ones(2),
    "embedding": {"table": np.ones((3, 2))},
    "layers": [layer(), layer()],
    "norm": {"scale": np.ones(2), "bias": np.ones(())},
}
ALL = set(names(MODEL))
KERNELS = {"layers/0/kernel", "layers/1/kernel"}
BIASES = {"bias", "layers/0/bias", "layers/1/bias", "norm/bias"}
FIRST = {"layers/0/kernel", "layers/0/bias"}


# --- Patterns ------------------------------------------------------------------------

PATTERNS = [
    ("*", ALL),
    ("*/kernel", KERNELS),
    ("*/bias", BIASES),
    ("bias", {"bias"}),
    ("norm/*", {"norm/scale", "norm/bias"}),
    ("layers/0/*", FIRST),
    ("layers/?/bias", {"layers/0/bias", "layers/1/bias"}),
    ("layers/[1-9]/*", {"layers/1/kernel", "layers/1/bias"}),
    ("layers/*", FIRST | {"layers/1/kernel", "layers/1/bias"}),
    ("embedding/table", {"embedding/table"}),
    (["*/kernel", "*/table"], KERNELS | {"embedding/table"}),
    (("*/kernel", "*/table"), KERNELS | {"embedding/table"}),
    (["!*/bias"], ALL - BIASES),
    ("!*/bias", ALL - BIASES),
    (["!*/bias", "!*/scale"], ALL - BIASES - {"norm/scale"}),
    (["layers/*", "!*/bias"], KERNELS),
    (["!*/bias", "layers/*"], KERNELS),
    (["!layers/0/*", "*/kernel", "*/scale"], {"layers/1/kernel", "norm/scale"}),
    (re.compile("kernel$"), KERNELS),
    (re.compile("^(embedding|norm)/"), {"embedding/table", "norm/scale", "norm/bias"}),
    (re.compile("SCALE", re.IGNORECASE), {"norm/scale"}),
    ([re.compile("kernel"), "*/scale"], KERNELS | {"norm/scale"}),
    ([re.compile("kernel"), "!layers/0/*"], {"layers/1/kernel"}),
    (optadamw.only("*/kernel", re.compile("table")), KERNELS | {"embedding/table"}),
    (optadamw.exclude("*/bias", "*/scale"), KERNELS | {"embedding/table"}),
    (optadamw.exclude(re.compile("bias|scale")), KERNELS | {"embedding/table"}),
]


@pytest.mark.parametrize(
    ("mask", "expected"), PATTERNS, ids=[repr(mask) for mask, _ in PATTERNS]
)
def test_patterns_choose_by_path(mask, expected):
    assert decayed(mask, MODEL) == expected


@pytest.mark.parametrize(
    ("mask", "missed", "near"),
    [
        ("*/kernal", "*/kernal", "layers/0/kernel"),
        ("layer/0/kernel", "layer/0/kernel", "layers/0/kernel"),
        ("*/BIAS", "*/BIAS", "bias"),
        ("norm", "norm", "norm/scale"),
        ("embedding/tables", "embedding/tables", "embedding/table"),
        (["*/kernel", "*/scales"], "*/scales", "norm/scale"),
        (["*/kernel", "!*/biases"], "!*/biases", "bias"),
        (re.compile("^kernel"), "^kernel", "layers/0/kernel"),
        ([re.compile("tables"), "*/bias"], "tables", "embedding/table"),
        (optadamw.only("*/scala"), "*/scala", "norm/scale"),
        (optadamw.exclude("*/scala"), "!*/scala", "norm/scale"),
        (optadamw.exclude(re.compile("scala$")), "scala$", "norm/scale"),
    ],
)
def test_a_pattern_without_a_match_is_refused_with_near_paths(mask, missed, near):
    tx = optadamw.adamw(0.1, mask=mask)
    params = filled(1.0, MODEL)
    pattern = rf"`mask`.*'{re.escape(missed)}' matches no.*'{near}'"
    with pytest.raises(ValueError, match=pattern):
        tx.init(params)
    state = optadamw.adamw(0.1).init(params)
    for call in (tx.step, tx.update, jax.jit(tx.step)):
        with pytest.raises(ValueError, match=pattern):
            call(params, state, params)


def test_near_paths_come_before_other_paths():
    many = {f"block{i}": layer() for i in range(20)} | {"zzz": {"gamma": np.ones(2)}}
    with pytest.raises(ValueError, match=r"near it: 'zzz/gamma'"):
        optadamw.adamw(0.1, mask="*/gama").init(filled(1.0, many))


def test_a_tree_without_leaves_matches_every_pattern():
    optadamw.adamw(0.1, mask="*/kernel").init({})


# --- Predicates and functions --------------------------------------------------------


def is_matrix(path: str, array: Any) -> bool:
    del path
    return array.ndim > 1


def is_of_the_norm(path: str, array: Any) -> bool:
    del array
    return path.startswith("norm/")


def matrices(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def kernels_by_name(params: PyTree) -> PyTree:
    def is_kernel(path: Any, leaf: Any) -> bool:
        del leaf
        return path[-1].key == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


class IsIn:
    """A predicate with arguments, as a value."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def __call__(self, path: str, array: Any) -> bool:
        del array
        return path in self.paths


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (is_matrix, KERNELS | {"embedding/table"}),
        (is_of_the_norm, {"norm/scale", "norm/bias"}),
        (IsIn("bias", "norm/scale"), {"bias", "norm/scale"}),
        (matrices, KERNELS | {"embedding/table"}),
        (kernels_by_name, KERNELS),
        (lambda path, array: array.size == 1, {"norm/bias"}),
        (lambda path, array: np.bool_(path == "bias"), {"bias"}),
        (lambda path, array: False, set()),
        (lambda params: True, ALL),
        (lambda params: filled(1.0, params) is None, set()),
        (
            lambda params: {
                "bias": True,
                "embedding": False,
                "layers": [True, False],
                "norm": False,
            },
            FIRST | {"bias"},
        ),
    ],
)
def test_functions_choose(mask, expected):
    assert decayed(mask, MODEL) == expected


def test_a_predicate_sees_the_path_and_an_array_or_its_shape():
    seen: dict[str, Any] = {}

    def looks(path: str, array: Any) -> bool:
        seen[path] = (array.shape, array.dtype, array.ndim, array.size)
        return True

    init = optadamw.adamw(0.1, mask=looks).init
    params = filled(1.0, MODEL)
    expected = {
        name: (x.shape, x.dtype, x.ndim, x.size)
        for name, x in zip(names(params), jax.tree.leaves(params), strict=True)
    }
    init(params)
    assert seen == expected
    seen.clear()
    jax.eval_shape(init, params)
    assert seen == expected


def test_stacked_layers_are_chosen_by_their_rank():
    """Scanned layers have one axis more, which a predicate can take off."""

    def is_matrix_of_a_layer(path: str, array: Any) -> bool:
        return array.ndim - path.startswith("layers/") > 1

    stacked = {
        "layers": {"kernel": np.ones((4, 2, 2)), "bias": np.ones((4, 2))},
        "head": {"kernel": np.ones((2, 3)), "bias": np.ones(3)},
    }
    kernels = {"layers/kernel", "head/kernel"}
    assert decayed(is_matrix_of_a_layer, stacked) == kernels
    assert decayed(is_matrix, stacked) == kernels | {"layers/bias"}


def test_under_vmap_a_predicate_sees_one_model():
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=is_matrix)
    params = {"kernel": jnp.ones((5, 2, 2)), "bias": jnp.ones((5, 2))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = jax.vmap(tx.init)(params)
    moved, _ = jax.vmap(tx.step)(zeros, state, params)
    assert bool(jnp.all(moved["bias"] == 1.0))
    assert bool(jnp.all(moved["kernel"] == 1.0 - LEARNING_RATE * DECAY))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda path, array: 1, r"`mask`.*bool.*'bias'.*got 1 of type int"),
        (lambda path, array: None, r"`mask`.*bool.*'bias'.*got None"),
        (lambda path, array: "yes", r"`mask`.*bool.*'bias'.*got 'yes'"),
        (lambda path, array: jnp.ones(2, bool), r"`mask`.*bool.*'bias'.*got Array"),
        (lambda params: 1.0, r"`mask`.*bool.*got 1\.0"),
        (lambda params: {"bias": "*"}, r"`mask`.*bool.*'bias'.*got '\*'"),
    ],
)
def test_functions_that_return_no_bools_are_refused(mask, words):
    with pytest.raises(TypeError, match=words):
        optadamw.adamw(0.1, mask=mask).init(filled(1.0, MODEL))


def test_a_predicate_on_traced_values_is_refused():
    tx = optadamw.adamw(0.1, mask=lambda path, array: (array > 0).all())
    with pytest.raises(TypeError, match=r"`mask`.*traced.*Python bools"):
        jax.jit(tx.init)(filled(1.0, MODEL))


# --- Trees of bools ------------------------------------------------------------------


class Pair(NamedTuple):
    """A container with fields."""

    left: Any
    right: Any


TREES = [
    (None, ALL),
    (True, ALL),
    (False, set()),
    (np.True_, ALL),
    (np.bool_(False), set()),
    (matrices(filled(1.0, MODEL)), KERNELS | {"embedding/table"}),
    (
        jax.tree.map(np.array, matrices(filled(1.0, MODEL))),
        KERNELS | {"embedding/table"},
    ),
    (
        {"bias": True, "embedding": False, "layers": False, "norm": False},
        {"bias"},
    ),
    (
        {"bias": False, "embedding": True, "layers": [True, False], "norm": False},
        FIRST | {"embedding/table"},
    ),
    (
        {
            "bias": False,
            "embedding": {"table": False},
            "layers": [{"kernel": True, "bias": False}, True],
            "norm": {"scale": jnp.array(False), "bias": np.True_},
        },
        {"layers/0/kernel", "layers/1/kernel", "layers/1/bias", "norm/bias"},
    ),
]


@pytest.mark.parametrize(("mask", "expected"), TREES)
def test_trees_and_prefixes_choose(mask, expected):
    assert decayed(mask, MODEL) == expected


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"bias": True}, "says nothing of 'embedding/table'"),
        (
            {"bias": True, "embedding": True, "layers": [True], "norm": True},
            "says nothing of 'layers/1/bias'",
        ),
        (
            {"bias": None, "embedding": True, "layers": True, "norm": True},
            "says nothing of 'bias'",
        ),
        (
            {"bias": True, "embedding": True, "layers": True, "norms": True},
            "(says nothing of 'norm/bias'|'norms' is no parameter)",
        ),
        (
            {"bias": 1 > 0, "embedding": True, "layers": True, "norm": True, "x": True},
            "'x' is no parameter",
        ),
        (
            {"bias": True, "embedding": True, "layers": [True] * 3, "norm": True},
            "'layers/2' is no parameter",
        ),
        (
            {
                "bias": {"deep": True},
                "embedding": True,
                "layers": True,
                "norm": True,
            },
            "(says nothing of 'bias'|'bias/deep' is no parameter)",
        ),
        ([True, False], "says nothing of 'bias'"),
        ({}, "says nothing of 'bias'"),
        ([], "says nothing of 'bias'"),
    ],
    ids=repr,
)
def test_trees_of_another_structure_are_refused(mask, words):
    for form in (mask, lambda params: mask):
        tx = optadamw.adamw(0.1, mask=form)
        with pytest.raises(ValueError, match=f"`mask` has another structure.*{words}"):
            tx.init(filled(1.0, MODEL))


def test_the_root_may_be_a_leaf():
    assert decayed(True, np.ones(3)) == {""}
    assert decayed(False, np.ones(3)) == set()
    assert decayed(lambda path, array: path == "", np.ones(3)) == {""}
    assert decayed(lambda params: True, np.ones(3)) == {""}


@pytest.mark.parametrize("container", ["list", "tuple", "NamedTuple", "mixed", "None"])
def test_containers_have_paths(container):
    match container:
        case "list":
            tree, left, right = [np.ones(2), [np.ones(2)]], "0", "1/0"
        case "tuple":
            tree, left, right = (np.ones(2), (np.ones(2),)), "0", "1/0"
        case "NamedTuple":
            tree, left, right = (
                Pair(np.ones(2), Pair(np.ones(2), ())),
                "left",
                "right/left",
            )
        case "mixed":
            tree, left, right = {"a": [Pair(np.ones(2), (np.ones(2),))]}, "a/0/left", ""
            right = "a/0/right/0"
        case _:
            tree, left, right = (
                {"a": np.ones(2), "b": None, "c": [None, np.ones(2)]},
                "",
                "",
            )
            left, right = "a", "c/1"
    assert set(names(tree)) == {left, right}
    assert decayed(left, tree) == {left}
    assert decayed(f"!{left}", tree) == {right}
    assert decayed(jax.tree.map(lambda x: True, tree), tree) == {left, right}
    choice = dict.fromkeys(names(tree), False) | {right: True}
    bools = jax.tree.unflatten(jax.tree.structure(tree), list(choice.values()))
    assert decayed(bools, tree) == {right}


def test_a_slash_in_a_name_does_not_confuse_leaves():
    tree = {"a": {"b": np.ones(2)}, "a/b": np.ones(3)}
    params = filled(1.0, tree)
    zeros = filled(0.0, tree)
    mask = {"a": {"b": True}, "a/b": False}
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=mask)
    moved, _ = tx.step(zeros, tx.init(params), params)
    assert bool(jnp.all(moved["a"]["b"] < 1.0))
    assert bool(jnp.all(moved["a/b"] == 1.0))


# --- Frameworks ----------------------------------------------------------------------


def test_frozen_dicts():
    flax_core = pytest.importorskip("flax.core")
    frozen = flax_core.freeze({k: v for k, v in MODEL.items() if k != "layers"})
    assert decayed("*/bias", frozen) == {"bias", "norm/bias"}
    prefix = {"bias": False, "embedding": True, "norm": False}
    assert decayed(flax_core.freeze(prefix), frozen) == {"embedding/table"}
    assert decayed(prefix, frozen) == {"embedding/table"}
    assert decayed(matrices, frozen) == {"embedding/table"}


def test_linen_parameters():
    linen = pytest.importorskip("flax.linen")
    params = linen.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))
    assert decayed("*/kernel", params) == {"params/kernel"}
    assert decayed(["!*/bias"], params["params"]) == {"kernel"}


def equinox_model() -> Any:
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    return eqx.filter(model, eqx.is_inexact_array)


def test_equinox_modules():
    model = equinox_model()
    weights = {"layers/0/weight", "layers/1/weight"}
    assert decayed("*/weight", model) == weights
    assert decayed(is_matrix, model) == weights
    assert decayed(matrices, model) == weights


def test_a_callable_module_of_bools_is_a_tree():
    model = equinox_model()
    mask = matrices(model)
    assert callable(mask)
    assert decayed(mask, model) == {"layers/0/weight", "layers/1/weight"}
    one, two = (optadamw.adamw(0.1, mask=matrices(model)) for _ in range(2))
    assert one == two and hash(one) == hash(two)


def nnx_model(nnx: Any) -> Any:
    class Network(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.first = nnx.Linear(2, 3, rngs=rngs)
            self.norm = nnx.LayerNorm(3, rngs=rngs)

    return Network(nnx.Rngs(0))


def test_nnx_optimizer_sees_the_same_paths_in_init_and_update():
    nnx = pytest.importorskip("flax.nnx")
    calls: list[list[str]] = []

    def looks(path: str, array: Any) -> bool:
        if path == "first/bias":
            calls.append([])
        calls[-1].append(path)
        return array.ndim > 1

    model = nnx_model(nnx)
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=looks)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = jax.tree.map(jnp.array, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert len(calls) >= 2 and all(paths == calls[0] for paths in calls)
    assert calls[0] == ["first/bias", "first/kernel", "norm/bias", "norm/scale"]
    shrunk = before["first"]["kernel"] * (1 - LEARNING_RATE * DECAY)
    np.testing.assert_allclose(after["first"]["kernel"], shrunk, rtol=2e-7)
    for name in [("first", "bias"), ("norm", "scale"), ("norm", "bias")]:
        np.testing.assert_array_equal(after[name[0]][name[1]], before[name[0]][name[1]])


@pytest.mark.parametrize(
    "form",
    ["pattern", "exclusion", "regex", "state", "pure dict", "prefix", "function"],
)
def test_nnx_optimizer_takes_every_form(form):
    nnx = pytest.importorskip("flax.nnx")
    model = nnx_model(nnx)
    state = nnx.state(model, nnx.Param)
    mask = {
        "pattern": "*/kernel",
        "exclusion": ["!*/bias", "!*/scale"],
        "regex": re.compile("kernel$"),
        "state": jax.tree.map(lambda x: x.ndim > 1, state),
        "pure dict": jax.tree.map(lambda x: x.ndim > 1, nnx.to_pure_dict(state)),
        "prefix": {"first": {"kernel": True, "bias": False}, "norm": False},
        "function": matrices,
    }[form]
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=mask)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = np.array(model.first.kernel[...]), np.array(model.norm.scale[...])

    @nnx.jit
    def train(model: Any, optimizer: Any) -> None:
        grads = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
        optimizer.update(model, grads)

    train(model, optimizer)
    shrunk = before[0] * (1 - LEARNING_RATE * DECAY)
    np.testing.assert_allclose(model.first.kernel[...], shrunk, rtol=2e-7)
    np.testing.assert_array_equal(model.norm.scale[...], before[1])


# --- Values --------------------------------------------------------------------------


def forms() -> dict[str, Any]:
    """Make every form of mask anew."""
    return {
        "none": None,
        "all": True,
        "no one": False,
        "glob": "*/kernel",
        "globs": ["*/kernel", "!layers/0/*"],
        "regex": re.compile("kernel$"),
        "only": optadamw.only("*/kernel"),
        "exclude": optadamw.exclude("*/bias"),
        "exclude-regex": optadamw.exclude(re.compile("bias$")),
        "predicate": is_matrix,
        "function": matrices,
        "tree": {"bias": False, "layers": [True, False], "norm": True},
        "named tuple": Pair(True, Pair(False, True)),
    }


@pytest.mark.parametrize("form", forms())
def test_transformations_with_a_mask_are_values(form):
    one, two = (optadamw.adamw(0.1, mask=forms()[form]) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert repr(one) == repr(two)
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
        assert other == one
        assert hash(other) == hash(one)
        assert repr(other) == repr(one)
    if form != "none":
        assert repr(one).startswith("adamw(0.1, mask=")


def test_transformations_with_other_masks_differ():
    masks = list(forms().items())
    for name, mask in masks:
        for other_name, other in masks:
            both = optadamw.adamw(0.1, mask=mask), optadamw.adamw(0.1, mask=other)
            same_choice = {name, other_name} in ({"none", "all"}, {"glob", "only"})
            if name != other_name and not same_choice:
                assert both[0] != both[1], (name, other_name)
    assert optadamw.adamw(0.1, mask={"a": True}) != optadamw.adamw(
        0.1, mask={"b": True}
    )
    assert optadamw.adamw(0.1, mask=is_matrix) != optadamw.adamw(
        0.1, mask=is_of_the_norm
    )


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        ("*/kernel", "'*/kernel'"),
        (["!*/bias", "!*/scale"], "['!*/bias', '!*/scale']"),
        (False, "False"),
        (re.compile("kernel$"), "re.compile('kernel$')"),
        ({"w": True, "b": False}, "{'w': True, 'b': False}"),
    ],
)
def test_a_mask_prints_as_it_was_written(mask, shown):
    assert repr(optadamw.adamw(0.1, mask=mask)) == f"adamw(0.1, mask={shown})"


def test_a_changed_container_does_not_change_the_transformation():
    patterns, tree = ["*/kernel"], {"bias": True, "embedding": False}
    tree |= {"layers": False, "norm": False}
    by_pattern, by_tree = (optadamw.adamw(0.1, mask=m) for m in (patterns, tree))
    code = hash(by_pattern), hash(by_tree)
    patterns.append("*/bias")
    assert hash(by_pattern) == code[0]
    assert by_pattern == optadamw.adamw(0.1, mask=["*/kernel"])


def test_a_changed_tree_does_not_change_the_transformation():
    tree = {"bias": True, "norm": False}
    tx = optadamw.adamw(0.1, mask=tree)
    code = hash(tx)
    tree["norm"] = True
    assert hash(tx) == code
    assert tx == optadamw.adamw(0.1, mask={"bias": True, "norm": False})


@pytest.mark.parametrize("form", ["glob", "regex", "predicate", "tree"])
def test_equal_masks_share_one_compilation(form):
    traces = []

    def rate(step: Any) -> Any:
        traces.append(step)
        return 0.1

    model = {"bias": np.ones(2), "layers": [layer(), layer()], "norm": np.ones(2)}
    params = filled(1.0, model)
    steps = [jax.jit(optadamw.adamw(rate, mask=forms()[form]).step) for _ in range(3)]
    state = optadamw.adamw(rate).init(params)
    for step in steps:
        step(params, state, params)
    assert len(traces) == 1


@pytest.mark.parametrize("form", forms())
def test_masks_survive_inject_hyperparams(form):
    mask = forms()[form]
    if form in ("tree", "named tuple"):
        mask = {"kernel": True, "layers": [True, False]}
    model = {"kernel": np.ones((2, 2)), "layers": [layer(), layer()]}
    params = filled(1.0, model)
    # Optax takes any callable for a schedule unless it is told otherwise.
    static = ("mask",) if callable(mask) else ()
    make = optax.inject_hyperparams(optadamw.adamw, static_args=static)
    tx = make(learning_rate=0.1, mask=mask)
    plain = optadamw.adamw(0.1, mask=mask)
    ours, _ = tx.update(params, tx.init(params), params)
    expected, _ = plain.update(params, plain.init(params), params)
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
