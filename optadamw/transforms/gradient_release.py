"""Gradient release: the step of each layer inside the backward pass."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optadamw.base.errors import at_leaf, kind_at_leaf, mistyped
from optadamw.base.tree import Leaves, flatten
from optadamw.base.types import Array, PyTree
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation
from optadamw.walk.layers import Layer, count_layers
from optadamw.walk.release import OpenStep, open_step, positions_of

Where = Callable[[PyTree], PyTree]
"""Returns a part of the parameters, such as `lambda params: params["head"]`."""

Pull = Callable[[PyTree], tuple[Any, ...]]
"""Takes the gradient of a result; returns a `Part` and the gradients of arguments."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("held", "good"),
    meta_fields=("positions",),
)
@dataclass(frozen=True, eq=False)
class Part:
    """Parameters that have taken their step; pass it to `finish`."""

    positions: tuple[int, ...]
    held: tuple[tuple[Any, Any], ...]
    good: Array | None


@dataclass(frozen=True, eq=False, repr=False)
class GradientRelease:
    """One step that is taken in parts; `gradient_release` makes it."""

    opened: OpenStep

    def vjp(
        self, function: Callable[..., PyTree], where: Where, *args: Any
    ) -> tuple[PyTree, Pull]:
        """Call `function(where(params), *args)`, and step these parameters later.

        It is `jax.vjp`, except that the gradient of the parameters becomes their step.

        Args:
          function: a part of the model.
          where: returns the parameters of this part from the tree of all parameters.
          *args: the other arguments of `function`, any trees of arrays.

        Returns:
          The result of `function`, and `pull`. `pull(gradient)` takes the gradient of
          the loss with respect to this result, takes the step of the parameters, and
          returns `(part, *gradients)`: the part for `finish`, and the gradient of each
          of `args` (of dtype float0 for integers).
        """
        params = where(self._params)
        result, backward = jax.vjp(function, params, *args)

        def pull(gradient: PyTree) -> tuple[Any, ...]:
            grads, *others = backward(gradient)
            made = self.step(where, grads)
            # The layers below wait for this step, so that its gradients are gone.
            return made, *_after(made, others)

        return result, pull

    def scan(
        self,
        layer: Callable[..., PyTree],
        where: Where,
        x: PyTree,
        each: PyTree = None,
    ) -> tuple[PyTree, Pull]:
        """Run a stack of layers in a loop, and step each layer in the loop back.

        The loop forth is `x = layer(params_of_the_layer, x)`, and keeps the input of
        each layer. The loop back computes a layer again from its input, as under
        `jax.checkpoint`, and steps it in place: the gradients of one layer exist at a
        time.

        Args:
          layer: `layer(params, x)`, or `layer(params, x, own)` with `each`, returns the
            next `x`, of the same structure, shapes and dtypes.
          where: returns the stacked parameters from the tree of all parameters. Their
            first axis counts the layers.
          x: the input of the first layer, a tree of floating or complex arrays.
          each: arrays whose first axis counts the layers, such as keys of dropout; a
            layer gets its own. They have no gradient. None (default): there are none.

        Returns:
          The result of the last layer, and `pull`. `pull(gradient)` takes the gradient
          of the loss with respect to this result, takes the step of all layers, and
          returns `(part, gradient of x)`.

        Raises:
          ValueError: parameters are not stacked, the blocks of an 8-bit buffer lie
            along the axis of the layers, or a rule computes on whole parameters. The
            message has the path of the leaf.
          TypeError: `x` has an array without a gradient.
        """
        _check_floating(x)
        leaves = self._leaves
        positions, treedef = positions_of(leaves, where)
        shapes = tuple(tuple(leaves.arrays[i].shape) for i in positions)
        count = count_layers([leaves.paths[i] for i in positions], shapes)
        indices = jnp.arange(count, dtype=jnp.int32)

        def run(params: PyTree, x: PyTree, own: PyTree) -> PyTree:
            return layer(params, x) if each is None else layer(params, x, own)

        def forth(x: PyTree, given: Any) -> tuple[PyTree, PyTree]:
            return run(given[0], x, given[1]), x

        result, inputs = lax.scan(forth, x, (where(self._params), each))

        def back(carry: Any, given: Any) -> tuple[Any, Array | None]:
            gradient, stacks = carry
            index, x, own = given
            held = jax.tree.map(partial(_layer_of, index), stacks)
            params = treedef.unflatten([param for param, _ in held])
            _, backward = jax.vjp(lambda params, x: run(params, x, own), params, x)
            grads, gradient = backward(gradient)
            flat = treedef.flatten_up_to(grads)
            moved = self.opened.move(positions, held, flat, Layer(index, shapes))
            stacks = jax.tree.map(partial(_with_layer, index), stacks, moved.held)
            return (gradient, stacks), moved.good

        def pull(gradient: PyTree) -> tuple[Any, ...]:
            start = gradient, self.opened.held(positions)
            per_layer = indices, inputs, each
            (gradient, held), good = lax.scan(back, start, per_layer, reverse=True)
            return Part(positions, tuple(held), good), gradient

        return result, pull

    def step(self, where: Where, grads: PyTree) -> Part:
        """Take the step of some parameters with gradients that were computed elsewhere.

        Use it for parameters that several parts of the model share: their gradients are
        added first.

        Args:
          where: returns these parameters from the tree of all parameters.
          grads: their gradients, a tree like `where(params)`; None: no change.
        """
        positions, treedef = positions_of(self._leaves, where)
        flat = self.opened.checked(positions, treedef, grads)
        moved = self.opened.move(positions, self.opened.held(positions), flat)
        return Part(positions, tuple(moved.held), moved.good)

    def finish(self, parts: Iterable[Part]) -> tuple[PyTree, State]:
        """Return `(params, state)` after the step of all parts.

        Args:
          parts: what the `pull`s and `step` returned, in any order.

        Raises:
          ValueError: a parameter that trains is in no part, or in two.
        """
        moved: dict[int, tuple[Any, Any]] = {}
        good: list[Array] = []
        given: Iterable[Any] = parts
        for part in given:
            if not isinstance(part, Part):
                rule = "parts that vjp, scan or step of this object made"
                raise mistyped("parts", rule, part)
            for position, pair in zip(part.positions, part.held, strict=True):
                if position in moved:
                    raise at_leaf(
                        self._leaves.paths[position],
                        "two parts of the step have moved it.",
                        "Add its gradients, and pass their sum to step.",
                    )
                moved[position] = pair
            if part.good is not None:
                good.extend(jnp.ravel(part.good))
        return self.opened.close(moved, good)

    @property
    def _leaves(self) -> Leaves:
        return self.opened.inputs.plan.leaves

    @property
    def _params(self) -> PyTree:
        return self.opened.inputs.tree(self._leaves.arrays)


def gradient_release(
    tx: Transformation, state: State, params: PyTree
) -> GradientRelease:
    """Open a step that is taken in parts, inside the backward pass.

    `tx.step` needs the gradients of all parameters at once. Here the gradient of a
    layer is used and dropped before the layer below has one, so that a training step
    needs memory for the gradients of one layer in place of all (Pudipeddi et al., arXiv
    2002.05645; Lv et al., LOMO, arXiv 2306.09782, section 3.1). Parameters and state
    are those of `tx.step` with the same gradients, bit for bit (with 16-bit moments,
    and where `tx.step` runs in kernels on jax 0.12, a parameter may differ in its last
    place). Checkpoints, groups, masks, schedules and random bits are the same, and
    single steps may be taken either way.

    What needs all gradients is refused: `clip_by_global_norm`, `multi_steps`,
    `with_loss_scale`, `skip_spikes`, `with_stats`, also `with_zero1` and
    `with_offload`, and for a stack of layers rules that compute on a whole parameter
    (`clip_by_norm`, `clip_update_by_rms`, `cautious`).

    The guard (`skip_nonfinite`, which moments in 8 bits need) checks each part and each
    layer of a stack by itself: one whose gradient is not finite keeps its bits, and the
    others take their step. `state.step` counts the call if some part has moved, and
    `stats_of(state).nonfinite` counts it if some part has not.

    Args:
      tx: a transformation of this library.
      state: its state, which `tx.init(params)` or the last step returned.
      params: the parameters.

    Returns:
      An object whose `vjp` and `scan` run parts of the model and return a function
      `pull` for the way back, and whose `finish` returns `(params, state)`. Use it
      inside one function that is compiled with `jax.jit` and donates both. Arrays over
      which a function closes get no gradient, as under `jax.vjp`.

    Raises:
      TypeError: `tx` is not from this library, or state and parameters do not fit.
      ValueError: state and parameters do not fit, or `tx` has a part that needs all
        gradients; the message names it.

    Example:
      >>> import functools, jax, jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-2)
      >>> params = {"layers": jnp.ones((8, 4, 4)) / 4, "head": jnp.ones(4)}
      >>> state = tx.init(params)
      >>> @functools.partial(jax.jit, donate_argnums=(0, 1))
      ... def train_step(params, state, x):
      ...     release = optadamw.gradient_release(tx, state, params)
      ...     layer = lambda kernel, x: jnp.tanh(x @ kernel)
      ...     x, pull_layers = release.scan(layer, lambda p: p["layers"], x)
      ...     head = lambda weights, x: jnp.mean((x @ weights - 1.0) ** 2)
      ...     loss, pull_head = release.vjp(head, lambda p: p["head"], x)
      ...     new_head, gradient = pull_head(jnp.ones_like(loss))
      ...     new_layers, _ = pull_layers(gradient)
      ...     params, state = release.finish([new_layers, new_head])
      ...     return params, state, loss
      >>> params, state, loss = train_step(params, state, jnp.ones((2, 4)))
      >>> int(state.step)
      1
    """
    if not isinstance(tx, Transformation):
        raise mistyped("tx", "a transformation of optadamw", tx)
    return GradientRelease(open_step(tx.recipe.composition, state, params))


def _check_floating(x: PyTree) -> None:
    """Refuse arrays without a gradient, which a loop cannot carry back."""
    leaves = flatten(x)
    for path, array in zip(leaves.paths, leaves.arrays, strict=True):
        dtype = jnp.result_type(array)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise kind_at_leaf(
                path,
                f"it is {dtype}, and `x` travels through the layers with a gradient.",
                "Close over it, or pass what each layer needs as `each`.",
            )


def _layer_of(index: Array, stack: Array) -> Array:
    return lax.dynamic_index_in_dim(stack, index, keepdims=False)


def _with_layer(index: Array, stack: Array, layer: Array) -> Array:
    return lax.dynamic_update_index_in_dim(stack, layer, index, 0)


def _after(made: Part, gradients: PyTree) -> PyTree:
    """Return gradients unchanged, so that XLA steps the part before it uses them."""
    treedef: Any
    flat, treedef = jax.tree.flatten(gradients)
    real = [i for i, x in enumerate(flat) if x.dtype != jax.dtypes.float0]
    waiting, _ = lax.optimization_barrier(([flat[i] for i in real], made.held))
    for i, x in zip(real, waiting, strict=True):
        flat[i] = x
    return treedef.unflatten(flat)
