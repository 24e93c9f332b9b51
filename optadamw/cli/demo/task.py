"""The record of a model with its data, on which the demo trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax


class Examples(NamedTuple):
    """Inputs and their labels: class numbers, int32, one or more for each input."""

    inputs: jax.Array
    labels: jax.Array


class Splits(NamedTuple):
    """The three parts of the data, which have no example in common."""

    training: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Task:
    """A model and its data, as functions, so that equal tasks share compiled programs.

    Attributes:
        title: The name in printed texts.
        examples: The word for several examples.
        labels: The word for several labels.
        load: Returns the data.
        initial: Returns the initial parameters of a seed, a dict of layers.
        logits: Maps parameters and inputs to the logits of the labels.
        vary: Changes training inputs at random, given a key.
    """

    title: str
    examples: str
    labels: str
    load: Callable[[], Splits]
    initial: Callable[[int], Any]
    logits: Callable[[Any, jax.Array], jax.Array]
    vary: Callable[[jax.Array, jax.Array], jax.Array]
