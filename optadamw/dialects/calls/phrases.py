"""A peer's own words and exception classes in the errors of its call.

Code and tests that were written for the peer catch its exceptions and match its
messages. An error of a peer's call therefore begins with the peer's phrase, ends with
the rule and the remedy of this library, and is an instance of both libraries' classes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

_RECEIVED = re.compile(
    r"`(\w+)` must be .*?; got (.*?)(?: of type \w+)?\.(?: |$)", re.S
)


class TypeAndValueError(TypeError, ValueError):
    """A wrong type, which the peer refuses with a ValueError."""


class ValueAndRuntimeError(ValueError, RuntimeError):
    """A wrong value, which the peer refuses with a RuntimeError."""


class ValueAndAssertionError(ValueError, AssertionError):
    """A wrong value, which the peer refuses with an AssertionError."""


_BOTH: Mapping[tuple[type[Exception], type[Exception]], type[Exception]] = {
    (TypeError, ValueError): TypeAndValueError,
    (ValueError, RuntimeError): ValueAndRuntimeError,
    (ValueError, AssertionError): ValueAndAssertionError,
}


@dataclass(frozen=True)
class Phrase:
    """The words with which a peer refuses one argument."""

    words: str
    """The message of the peer, with {value} for the value that it received."""
    kind: type[Exception] = ValueError
    """The class of the peer's exception."""
    of: tuple[type[Exception], ...] = (ValueError,)
    """The classes of our exception to which the phrase belongs."""


Phrases = Mapping[str, Phrase]
"""By the option of `adamw` that our message names, or the argument of the peer."""


@contextmanager
def speaking(phrases: Phrases, reword: Callable[[str], str]) -> Iterator[None]:
    """Put the peer's phrase before an error's message, which `reword` changes.

    An error about an argument without a phrase keeps its class.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        # JAX has subclasses of TypeError that hold more than their message.
        kind, message = type(error), str(error)
        if kind not in (TypeError, ValueError):
            raise
        found = _RECEIVED.match(message)
        phrase = phrases.get(found[1]) if found else None
        if found is None or phrase is None or kind not in phrase.of:
            error.args = (reword(message),)
            raise
        # A text is quoted in our messages, and is not in those of the peers.
        words = phrase.words.format(value=found[2].strip("'"))
        raise as_the_peer(f"{words}. {reword(message)}", kind, phrase.kind) from None


def as_the_peer(
    message: str, kind: type[Exception], peer: type[Exception]
) -> Exception:
    """Build an error that is a `kind` of ours and a `peer` of the peer's."""
    return (kind if issubclass(kind, peer) else _BOTH[kind, peer])(message)
