"""The errors of this library say what is wrong, the value received, and the remedy."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager


def invalid(name: str, rule: str, value: object, remedy: str = "") -> ValueError:
    """Build the ValueError "`name` must be <rule>; got <value>. <remedy>"."""
    return ValueError(
        _sentence(f"`{name}` must be {rule}; got {shown(value)}.", remedy)
    )


def mistyped(name: str, rule: str, value: object, remedy: str = "") -> TypeError:
    """Build the TypeError "`name` must be <rule>; got <value and type>. <remedy>"."""
    received = f"{shown(value)} of type {type(value).__name__}"
    return TypeError(_sentence(f"`{name}` must be {rule}; got {received}.", remedy))


def no_transformation(tx: object) -> TypeError:
    """Build the TypeError for an object that is no transformation of Optax."""
    # optax.MultiSteps is an object with `init` and `update`, and no pair of them.
    wrapped = hasattr(tx, "gradient_transformation")
    remedy = "Pass its gradient_transformation()." if wrapped else ""
    return mistyped("tx", "an Optax gradient transformation", tx, remedy)


def shown(value: object) -> str:
    """Return the repr of a value, without its middle if it is long.

    A tree of parameters prints in thousands of characters, which would hide the rule.
    """
    try:
        return shortened(repr(value))
    except Exception:  # an int of more than 4300 digits, or a class with a bad __repr__
        return "a value that Python cannot print"


def shortened(text: str) -> str:
    """Return a text without its middle if it is long."""
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-50:]}"


def misplaced(what: str, remedy: str) -> ValueError:
    """Build the ValueError "<what> <remedy>" for rules in an order that is refused."""
    return ValueError(_sentence(what, remedy))


def at_leaf(path: str, what: str, remedy: str = "") -> ValueError:
    """Build the error for a leaf of a pytree whose value or shape is not allowed.

    The path is the text that patterns are matched against.
    """
    return ValueError(_sentence(f"Leaf '{path or '(the root)'}': {what}", remedy))


def kind_at_leaf(path: str, what: str, remedy: str = "") -> TypeError:
    """Build the error for a leaf of a pytree whose type or dtype is not allowed."""
    return TypeError(_sentence(f"Leaf '{path or '(the root)'}': {what}", remedy))


def counted(number: int, noun: str) -> str:
    """Return "1 parameter" or "1,000 parameters" for the noun "parameter"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def some(texts: Sequence[str], most: int = 5) -> str:
    """Return the first texts of a list, and the number of those that are left."""
    left = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {left} more" if left > 0 else "")


def some_leaves(paths: Sequence[str], most: int = 5) -> str:
    """Return the first paths of a list, quoted, and the number of those left."""
    return some([f"'{path or '(the root)'}'" for path in paths], most)


def near(wanted: str, candidates: Iterable[str], most: int = 5) -> str:
    """Return the candidates most like `wanted`, quoted, for the end of a message."""
    pool = list(dict.fromkeys(candidates))
    bare = wanted.lstrip("!").replace("*", "").strip("/")
    matches = difflib.get_close_matches(bare, pool, n=most, cutoff=0.3)
    matches += [c for c in pool if c not in matches and bare and bare in c]
    chosen = matches[:most] or pool[:most]
    return ", ".join(f"'{c}'" for c in chosen)


@contextmanager
def reworded(reword: Callable[[str], str]) -> Iterator[None]:
    """Pass the message of a TypeError or ValueError raised inside through `reword`.

    A function that hands its arguments on under other names uses it with `renamed`, so
    that the function below checks them and the message has the caller's names.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        # JAX has subclasses of TypeError that hold more than their message.
        if type(error) in (TypeError, ValueError):
            error.args = (reword(str(error)),)
        raise


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Put the path of a leaf before the message of an error raised inside."""
    with reworded(lambda message: f"Leaf '{path or '(the root)'}': {message}"):
        yield


def renamed(message: str, names: Mapping[str, str]) -> str:
    """Replace every `x` in backticks by `names[x]`."""
    return re.sub(
        r"`(\w+)`", lambda found: f"`{names.get(found[1], found[1])}`", message
    )


def _sentence(what: str, remedy: str) -> str:
    return f"{what} {remedy}".rstrip()
