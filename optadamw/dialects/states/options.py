"""The arguments that all `from_` and all `to_` functions share, each with its text.

A type here is `Annotated` with the text of the argument; `signature.py` puts the names
into the signatures and the texts into the docstrings. `{name}` and `{title}` stand for
the name and the title of the peer, `{gaps}` for what `names` says of parameters that
only the peer has.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, TypedDict

import numpy as np

from optadamw.base.types import PyTree
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.peer import Maximum
from optadamw.transforms.transformation import Transformation

Layout = Callable[[str, np.ndarray], Any]
"""`(path, array) -> array`: from the shape there to the shape here, or the reverse."""

Params = Annotated[
    PyTree, "The parameters here, or their shapes (`jax.ShapeDtypeStruct`)."
]
Kept = Annotated[PyTree, "A `State`, or the state of a chain or wrapper with one."]
Groups = Annotated[
    Sequence[Mapping[str, Any]] | None,
    "The options of each parameter group, with the paths of its parameters under "
    '"params"; one group without "params" takes all parameters. None (default) takes '
    "the options from `tx`.",
]
MaximumKind = Annotated[
    Maximum | None,
    'Which second moments `nu_max` is the maximum of, "raw" or "corrected". None '
    "(default) asks `tx`.",
]


class FromOptions(TypedDict, total=False):
    """The keyword arguments of every `from_` function."""

    tx: Annotated[
        Transformation | None,
        "The transformation that will continue the run. None (default) returns a "
        "`State` with the buffers that were saved, in float32 (float64 for float64 "
        "parameters).",
    ]
    names: Annotated[
        Names,
        "Paths of `params` in the saved order (None for a parameter that `params` does "
        "not have), or a mapping from paths to the names or indices in {title}. None "
        "(default) matches by the saved names, or if there are none by the order of "
        "`jax.tree.leaves(params)`, which sorts the keys of a dict.",
    ]
    layout: Annotated[
        Layout | None,
        "`(path, array) -> array`, applied to each array that is read, such as "
        '`lambda path, x: x.T if path.endswith("kernel") else x`. None (default) reads '
        "the arrays as they are.",
    ]
    missing: Annotated[
        Missing,
        'What a parameter without a saved state does: "error" (default) refuses the '
        'conversion, "zeros" starts the parameter from zeros.',
    ]
    drop: Annotated[
        Collection[str],
        'Saved buffers to leave behind, such as ("nu_max",). The default leaves none.',
    ]
    afresh: Annotated[
        Collection[str],
        'Buffers of `tx` that start anew, such as ("ema",). The default starts none.',
    ]


class ToOptions(TypedDict, total=False):
    """The keyword arguments of every `to_` function."""

    tx: Annotated[
        Transformation | None,
        "The transformation that made the state. None (default) if {title} needs no "
        "number of it that is not given by another argument.",
    ]
    names: Annotated[
        Names,
        "Paths of `params` in the order of {title}{gaps}, or a mapping from paths to "
        "its names or indices. None (default) keeps the order of "
        "`jax.tree.leaves(params)`.",
    ]
    layout: Annotated[
        Layout | None,
        "`(path, array) -> array`, applied to each array that is written: the inverse "
        "of the `layout` of `from_{name}`. None (default) writes the arrays as they "
        "are.",
    ]
    drop: Annotated[
        Collection[str], 'Buffers to lose, such as ("ema",). The default loses none.'
    ]


FROM_DEFAULTS: FromOptions = {
    "tx": None,
    "names": None,
    "layout": None,
    "missing": "error",
    "drop": (),
    "afresh": (),
}
TO_DEFAULTS: ToOptions = {"tx": None, "names": None, "layout": None, "drop": ()}


def check_known(
    function: str, given: Mapping[str, Any], known: Collection[str]
) -> None:
    """Refuse a keyword argument that the function does not have.

    Raises:
      TypeError: as Python's own.
    """
    for name in given:
        if name not in known:
            raise TypeError(
                f"{function}() got an unexpected keyword argument '{name}'. It shares "
                f"with its siblings: {', '.join(known)}."
            )
