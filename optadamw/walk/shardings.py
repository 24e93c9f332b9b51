"""The shardings of parameters over Auto axes, which a trace does not show."""

from dataclasses import dataclass

from jax.sharding import NamedSharding

from optadamw.base.errors import at_leaf
from optadamw.base.tree import Leaves


@dataclass(frozen=True)
class Shardings:
    """The sharding of each parameter, by its path."""

    paths: tuple[str, ...]
    shardings: tuple[NamedSharding | None, ...]
    """None: that of a parameter is not stated."""

    def __repr__(self) -> str:
        return f"<shardings of {len(self.paths)} parameters>"

    def resolved(self, leaves: Leaves) -> list[NamedSharding | None]:
        """Return the sharding of each leaf.

        Raises:
          ValueError: a leaf has none, or one of more axes than it has.
        """
        known = dict(zip(self.paths, self.shardings, strict=True))
        found = []
        for path, array in zip(leaves.paths, leaves.arrays, strict=True):
            if path not in known:
                raise at_leaf(
                    path,
                    "it has no sharding in `shardings`.",
                    "Pass a tree like the parameters, such as "
                    "jax.tree.map(lambda x: x.sharding, params).",
                )
            sharding = known[path]
            spec = () if sharding is None else sharding.spec
            if array is not None and len(spec) > len(array.shape):
                raise at_leaf(
                    path,
                    f"its sharding {spec} has more axes than its shape "
                    f"{list(array.shape)}.",
                    "Pass the sharding that the parameter has.",
                )
            found.append(sharding)
        return found
