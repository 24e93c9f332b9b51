"""Convert a state to a flat mapping of names to NumPy arrays, and check a mapping."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import optax

from optadamw.base.errors import at_leaf, no_transformation
from optadamw.base.types import PyTree
from optadamw.base.version import __version__
from optadamw.checkpoint.arrays import (
    digests,
    dtype_named,
    on_host,
    plain,
)
from optadamw.checkpoint.damage import damaged
from optadamw.checkpoint.entries import checked_entry, entry_of, renamed_in
from optadamw.checkpoint.inside import transformations_in
from optadamw.checkpoint.kinds import with_kinds
from optadamw.checkpoint.layouts import layouts_of
from optadamw.checkpoint.meaning import meaning_of
from optadamw.checkpoint.names import PARAMS, Name, is_in, named_params, named_state
from optadamw.checkpoint.own_state import refuse_another
from optadamw.checkpoint.record import (
    ENTRY,
    Entry,
    Meaning,
    Record,
    unpacked,
)
from optadamw.checkpoint.zipped import NAMES
from optadamw.store.state import is_scales


@dataclass(frozen=True)
class Saved:
    """A checked saved state, which `load` and `opened` return; pass it to `restore`.

    The scope of a State is "" if the checkpoint has one State, and "states/0",
    "states/1", ... if it has several.

    Attributes:
      arrays: every leaf by its name (see `to_portable`), in its own dtype.
      fields: the names of the fields that each State has, by its scope.
      meaning: the settings that give each State's numbers their meaning, by its scope;
        a State whose settings are unknown is left out.
      library: the version of optadamw that wrote the checkpoint; None for a state in
        memory.
      others: the names of entries of the mapping that are no part of the checkpoint.
      layouts: the layout that each leaf had on its devices, as text, as far as it is
        known.
    """

    arrays: Mapping[str, np.ndarray]
    fields: Mapping[str, tuple[str, ...]]
    meaning: Mapping[str, Meaning]
    library: str | None = None
    others: tuple[str, ...] = ()
    layouts: Mapping[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> dict[str, int]:
        """The number of optimizer steps that each State had taken, by its scope."""
        named = {scope: str(Name(scope, "step", "")) for scope in self.fields}
        return {scope: _step(self.arrays[name]) for scope, name in named.items()}

    @property
    def scales(self) -> frozenset[str]:
        """The names of the arrays that hold the scales of 8-bit codes."""
        stems = [
            str(Name(scope, field, ""))
            for scope, fields in self.fields.items()
            for field in fields
            if is_scales(field)
        ]
        return frozenset(
            name for name in self.arrays if any(is_in(name, stem) for stem in stems)
        )

    @property
    def has_params(self) -> bool:
        """Whether parameters were saved with the state."""
        return any(is_in(name, PARAMS) for name in self.arrays)

    def __repr__(self) -> str:
        steps = ", ".join(str(step) for step in dict.fromkeys(self.steps.values()))
        parts = [f"step {steps}", f"{len(self.arrays)} arrays"]
        parts += ["with parameters"] if self.has_params else []
        parts += [f"by optadamw {self.library}"] if self.library else []
        return f"<Saved: {', '.join(parts)}>"


def to_portable(
    tx: optax.GradientTransformation, state: PyTree, params: PyTree = None
) -> dict[str, np.ndarray]:
    """Convert a state to a flat dict of NumPy arrays, which any library can save.

        {"step": ..., "mu/dense/kernel": ..., ..., "optadamw.json": ...}

    The names are the fields of State and the paths of the parameters; the state of an
    Optax wrapper is under "around/...". The last entry, bytes of JSON, records the
    format, each array's dtype, shape and SHA-256, and the settings of `tx` that give
    the numbers their meaning. A bfloat16 array becomes uint16 with the same bits.
    `np.savez`, `flax.serialization.msgpack_serialize`, pickle and Orbax can save the
    dict (arrays without elements, which Orbax refuses, are in the record only).

    Args:
      tx: the transformation that made `state`: one of this library, an Optax wrapper
        around one, or the one inside `optax.inject_hyperparams`.
      state: the state between any two calls, also in the middle of a window of
        accumulation.
      params: the parameters, which are added under "params/...". None (default): the
        mapping has no parameters.

    Returns:
      The mapping. On CPU its arrays share memory with the state. JAX does not write
      into shared memory, so the next step may donate the state; that one step then
      allocates new memory.

    Raises:
      TypeError: a leaf is no array of numbers.
      ValueError: `state` holds no State or one of another transformation than `tx`, or
        an array is sharded over processes.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw import checkpoint
      >>> params = {"w": jnp.ones(2)}
      >>> tx = optadamw.adamw(1e-3)
      >>> sorted(checkpoint.to_portable(tx, tx.init(params)))
      ['mu/w', 'nu/w', 'optadamw.json', 'step']
    """
    gathered = gather(tx, state, params)
    return gathered.plain | {ENTRY: record_of(gathered)}


class Gathered(NamedTuple):
    """The contents of a checkpoint, except its record."""

    saved: Saved
    plain: dict[str, np.ndarray]
    """The arrays that hold numbers, in NumPy's own dtypes."""


def gather(tx: optax.GradientTransformation, state: PyTree, params: PyTree) -> Gathered:
    """Gather the arrays of a state, and of parameters if there are any, on the host."""
    saved = described(state, tx, "state")
    refuse_another(tx, state, params)
    if params is not None:
        named = named_params(params)
        names = [str(name) for name in named.names]
        pairs = zip(names, named.leaves, strict=True)
        arrays = {name: on_host(name, leaf) for name, leaf in pairs}
        meaning = with_kinds(saved.meaning, tx, params, saved.arrays)
        saved = replace(saved, arrays={**saved.arrays, **arrays}, meaning=meaning)
    kept = {name: plain(array) for name, array in saved.arrays.items() if array.size}
    return Gathered(saved, kept)


def record_of(gathered: Gathered) -> np.ndarray:
    """Make the record of gathered arrays; this reads every byte of them."""
    saved = gathered.saved
    sums = digests([plain(array) for array in saved.arrays.values()])
    record = Record(
        entries={
            name: Entry(array.dtype.name, array.shape, digest)
            for (name, array), digest in zip(saved.arrays.items(), sums, strict=True)
        },
        fields=saved.fields,
        meaning=saved.meaning,
        library=__version__,
        layouts=saved.layouts,
    )
    return record.packed()


def opened(portable: Mapping[str, Any]) -> Saved:
    """Check a mapping that `to_portable` made against its record, and decode it.

    `load` does this for a file, and `restore` for a mapping that is passed to it.

    Args:
      portable: the mapping, for example after it was saved and loaded.

    Returns:
      The saved state, an argument for `restore` and `params_of`.

    Raises:
      DamagedCheckpoint: an array is missing, or one of its bits is altered.
      ValueError: the mapping has another format.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw import checkpoint
      >>> tx = optadamw.adamw(1e-3)
      >>> portable = checkpoint.to_portable(tx, tx.init(jnp.ones(2)))
      >>> checkpoint.opened(portable).arrays["mu"].tolist()
      [0.0, 0.0]
    """
    if ENTRY not in portable:
        raise damaged(
            f"The checkpoint has no entry '{ENTRY}', which to_portable makes."
        )
    record = unpacked(entry_of(portable, ENTRY))
    renamed = renamed_in(portable)
    places = {name: renamed.get(name, name) for name in record.entries}
    arrays = {
        name: checked_entry(portable, name, entry, places[name])
        for name, entry in record.entries.items()
    }
    own = {ENTRY, NAMES, *places.values()}
    expected = [entry.sha256 for entry in record.entries.values()]
    for name, found, wanted in zip(
        arrays, digests(list(arrays.values())), expected, strict=True
    ):
        if found != wanted:
            raise damaged(f"Leaf '{name}' of the checkpoint was altered.")
    return Saved(
        arrays={
            name: array.view(dtype_named(record.entries[name].dtype))
            for name, array in arrays.items()
        },
        fields=record.fields,
        meaning=record.meaning,
        library=record.library,
        others=tuple(name for name in portable if name not in own),
        layouts=record.layouts,
    )


def described(
    state: PyTree, made_by: optax.GradientTransformation | None, what: str
) -> Saved:
    """Describe a state in memory as a saved one; `made_by` gives the meaning."""
    named = named_state(state, what)
    names = [str(name) for name in named.names]
    pairs = list(zip(names, named.leaves, strict=True))
    arrays = {name: on_host(name, leaf) for name, leaf in pairs}
    saved = Saved(arrays, named.fields, {}, layouts=layouts_of(pairs))
    return replace(saved, meaning=meanings(made_by, saved.steps))


def meanings(
    tx: optax.GradientTransformation | None, steps: Mapping[str, int]
) -> dict[str, Meaning]:
    """Return the meaning of the States of `tx`, by scope; empty if it is unknown."""
    if tx is None:
        return {}
    if not isinstance(tx, optax.GradientTransformation):
        raise no_transformation(tx)
    found = transformations_in(tx)
    if len(found) != len(steps):
        return {}
    return {
        scope: meaning_of(part, step)
        for part, (scope, step) in zip(found, steps.items(), strict=True)
    }


def _step(array: np.ndarray) -> int:
    if array.shape != () or not np.issubdtype(array.dtype, np.integer):
        raise at_leaf(
            "step",
            f"it must be an integer; got {array.dtype}{list(array.shape)}.",
            "Of a state under vmap take the members one by one: jax.tree.map(lambda x: "
            "x[i], state).",
        )
    return int(array)
