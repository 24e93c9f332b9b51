"""The methods of a transformation that read and set adjustable hyperparameters."""

from typing import Any

from optadamw.base.types import Array, Number, PyTree
from optadamw.walk.hyperparameters import hyperparameters, with_hyperparameters


class Adjusting:
    """A part of `Transformation`, which has the recipe."""

    __slots__ = ()

    @property
    def recipe(self) -> Any:
        """The rules and wrappers of the transformation."""
        raise NotImplementedError

    def hyperparameters(self, state: PyTree) -> dict[str, Array]:
        """Return the numbers that `adjustable` asked for, as they stand in `state`.

        Args:
          state: the state of this transformation, or of an `optax.chain` or wrapper
            that holds it.

        Returns:
          The numbers by name, float32 scalars.

        Raises:
          ValueError: `state` holds no adjustable number, or those of another
            transformation.
        """
        return hyperparameters(self.recipe.composition, state)

    def with_hyperparameters(self, state: PyTree, /, **values: Number) -> PyTree:
        """Return `state` with other numbers, such as `learning_rate=1e-4`.

        The next step uses them, in the same compiled program. Inside `jit` and `vmap`
        the values may be traced: `jax.vmap` over them makes the states of a sweep.

        Args:
          state: the state of this transformation, or of an `optax.chain` or wrapper
            that holds it.
          **values: the new numbers by name. For the states of a population under
            `jax.vmap`, an array with a number for each member, or one for all.

        Raises:
          ValueError: no adjustable number has this name, or a number is out of its
            range (that of a traced value is not known). Nothing is changed.
          TypeError: a value is no real number.
        """
        return with_hyperparameters(self.recipe.composition, state, values)
