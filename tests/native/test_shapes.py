"""A rule that computes with the shape of a parameter is left to XLA."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

import optadamw
from optadamw import custom
from optadamw.leaf.program import Program
from optadamw.reports.cpu_pass import reasons_for_xla
from tests.native import running
from tests.support import trajectories, trees
from tests.support.over import over
from tests.support.transformations import ROWS

pytestmark = running.needs_compiler


@dataclass(frozen=True)
class OfShape(custom.Rule):
    """A rule that multiplies the update by a number that `choose` makes of a shape."""

    stage: ClassVar[custom.Stage] = custom.Stage.CAUTION
    verb: ClassVar[str] = "scale_by_shape"
    kind: str

    def apply(self, leaf, scalars):
        x = leaf.value()
        made = {
            "rank": lambda: x if x.ndim < 2 else x * 2,
            "length": lambda: x * (1 / x.shape[0]),
            "elements": lambda: x if x.size % 2 else -x,
            "operand": lambda: x * (leaf.param if x.shape[0] == 3 else leaf.gradient),
            "triangle": lambda: jnp.tril(x),
            "places": lambda: x * jnp.arange(x.shape[0])[:, None],
            "rows": lambda: x - jnp.max(x, axis=-1, keepdims=True),
            "sum": lambda: x - jnp.sum(x, axis=0, keepdims=True),
            "error": lambda: x.reshape(3, 4) if x.size == 12 else x.reshape(7),
            "alike": lambda: jnp.where(x > 0, jnp.reshape(x, x.shape), -x),
        }[self.kind]()
        return leaf._replace(numerator=made.reshape(x.shape), denominator=None)


def chain(kind, kernel):
    rate = optadamw.scale_by_learning_rate(1e-2)
    made = optadamw.chain(custom.atom(OfShape(kind)), rate)
    return optadamw.with_kernels(made, kernel)


KINDS = ["rank", "length", "elements", "operand", "error"]
KINDS += ["triangle", "places", "rows", "sum"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_not_run_by_a_kernel_of_another_shape(kind):
    shape = (12,) if kind == "rank" else (3, 4)
    params = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(shape)}
    auto, xla, native = (chain(kind, k) for k in ("auto", "xla", "native"))
    state = xla.init(params)
    ends = [jax.jit(tx.step)(params, state, params) for tx in (auto, xla)]
    trees.assert_same_bits(*ends)
    with pytest.raises(ValueError, match="scale_by_shape computes with the shape of"):
        native.step(params, state, params)


def test_random_keys_are_left_to_xla():
    @dataclass(frozen=True)
    class Noise(custom.Rule):
        stage: ClassVar[custom.Stage] = custom.Stage.CAUTION
        verb: ClassVar[str] = "add_noise"

        def apply(self, leaf, scalars):
            x = leaf.value()
            noise = jax.random.normal(jax.random.key(0), x.shape, x.dtype)
            return leaf._replace(numerator=x + noise, denominator=None)

    rate = optadamw.scale_by_learning_rate(1e-2)
    plain = optadamw.chain(custom.atom(Noise()), rate)
    params = {"w": jnp.ones((3, 4))}
    auto, xla = (optadamw.with_kernels(plain, kernel) for kernel in ("auto", "xla"))
    ends = [jax.jit(tx.step)(params, tx.init(params), params) for tx in (auto, xla)]
    trees.assert_same_bits(*ends)


def test_other_rules_of_a_user_are():
    shapes = {"s": (), "one": (1,), "row": (1, 7), "cube": (3, 2, 2)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    native = chain("alike", "native")
    ends = native.step(params, native.init(params), params)
    assert jax.tree.all(jax.tree.map(lambda x: bool((x < 1).all()), ends[0]))


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_a_leaf_without_elements_is_run_by_a_kernel(shape):
    params = {"w": jnp.ones(4), "empty": jnp.ones(shape)}
    tx = chain("alike", "native")
    made, _ = tx.step(params, tx.init(params), params)
    assert made["empty"].shape == shape
    assert not reasons_for_xla(tx.recipe.composition, params)


def test_a_rule_of_a_class_without_a_module_is_a_user_s(monkeypatch):
    # `exec` of a class leaves its module None if the namespace has no name.
    monkeypatch.setattr(OfShape, "__module__", None)
    tx = chain("alike", "native")
    params = {"w": jnp.ones((5, 3))}
    params, _ = tx.step(params, tx.init(params), params)
    assert (params["w"] < 1).all()


@over(ROWS)
def test_rules_of_the_library_compute_alike_for_every_shape(row, monkeypatch):
    """Each row has the kernels that it would have if its rules were a user's own."""
    composition = row.make().recipe.composition
    params = trees.normal(trajectories.kinds_of(row), seed=0)
    reasons = [reasons_for_xla(composition, params)]
    monkeypatch.setattr(Program, "foreign", property(lambda program: program.rules))
    assert reasons_for_xla(composition, params) == reasons[0]
