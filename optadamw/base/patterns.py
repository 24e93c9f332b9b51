"""Patterns on the paths of parameters: globs and regular expressions."""

import fnmatch
import re
from dataclasses import dataclass, field
from typing import Any

from optadamw.base.errors import mistyped, near
from optadamw.base.tree import Leaves, hidden
from optadamw.base.types import PyTree


@dataclass(frozen=True)
class Excluded:
    """A compiled regular expression whose matches are left out."""

    pattern: re.Pattern[str]

    def __repr__(self) -> str:
        return f"exclude({self.pattern!r})"


@dataclass(frozen=True)
class Patterns:
    """Globs or compiled regular expressions; a glob with a leading "!" excludes.

    A leaf is chosen if at least one including pattern matches, or none is given, and
    no excluding pattern matches.
    """

    patterns: tuple[str | re.Pattern[str] | Excluded, ...]
    argument: str | None = field(default=None, compare=False)
    """The name in errors of patterns that were given to another library's call. None
    (default): that of the option."""

    def resolve(self, name: str, leaves: Leaves, tree: PyTree) -> tuple[bool, ...]:
        included = [self._hits(p, leaves.paths) for p in self.patterns if not _out(p)]
        excluded = [self._hits(p, leaves.paths) for p in self.patterns if _out(p)]
        for pattern, hits in zip(
            [p for p in self.patterns if not _out(p)]
            + [p for p in self.patterns if _out(p)],
            included + excluded,
            strict=True,
        ):
            if leaves.paths and not any(hits) and not self._hits_hidden(pattern, tree):
                text = pattern
                while not isinstance(text, str):
                    text = text.pattern
                raise ValueError(
                    f"`{self.argument or name}`: the pattern {text!r} matches no "
                    f"parameter. Paths near it: {near(text, leaves.paths)}."
                    f"{_hint(pattern, leaves.paths)}"
                )
        count = len(leaves.paths)
        return tuple(
            (not included or any(h[i] for h in included))
            and not any(h[i] for h in excluded)
            for i in range(count)
        )

    def _hits_hidden(
        self, pattern: str | re.Pattern[str] | Excluded, tree: PyTree
    ) -> bool:
        """Whether a pattern matches a parameter that a wrapper of Optax hides."""
        paths = tuple("/".join(keys) for keys in hidden(tree))
        return any(self._hits(pattern, paths))

    @staticmethod
    def _hits(
        pattern: str | re.Pattern[str] | Excluded, paths: tuple[str, ...]
    ) -> list[bool]:
        if isinstance(pattern, Excluded):
            pattern = pattern.pattern
        if isinstance(pattern, re.Pattern):
            return [pattern.search(path) is not None for path in paths]
        # "*/bias" also means a bias at the top of the tree, hence the added "/".
        glob = re.compile(fnmatch.translate(pattern.removeprefix("!")))
        return [bool(glob.match(p) or glob.match("/" + p)) for p in paths]

    def __repr__(self) -> str:
        shown = self.patterns[0] if len(self.patterns) == 1 else list(self.patterns)
        return repr(shown)


def _hint(pattern: str | re.Pattern[str] | Excluded, paths: tuple[str, ...]) -> str:
    """Return what a sign of a glob means, if a path has the sign in its name."""
    if not isinstance(pattern, str):
        return ""
    if "[" in pattern and any("[" in path for path in paths):
        written = pattern.replace("[", "[[]")
        return f" '[' opens a class of characters; for itself write {written!r}."
    if pattern[0] == "!" and any("!" in path for path in paths):
        return (
            " A leading '!' excludes; for a path with '!' in it write a regular "
            f"expression: re.compile({re.escape(pattern)!r})."
        )
    return ""


def only(*patterns: str | re.Pattern[str]) -> Patterns:
    """Choose the parameters whose path matches one of `patterns`.

    Args:
      *patterns: globs such as `"*/kernel"`, matched against the whole path, or compiled
        regular expressions, searched for in the path. A leading "!" is refused.

    Returns:
      A choice for `mask`, `groups` and other arguments that choose parameters.

    Raises:
      ValueError, TypeError: there is no pattern, or one is empty, negated, or neither
        text nor a compiled expression.

    Example:
      >>> import optadamw
      >>> tx = optadamw.adamw(1e-3, mask=optadamw.only("*/kernel", "*/embedding"))
    """
    return _plain("only", patterns)


def exclude(*patterns: str | re.Pattern[str]) -> Patterns:
    """Choose all parameters except those whose path matches one of `patterns`.

    Args:
      *patterns: globs such as `"*/bias"`, matched against the whole path, or compiled
        regular expressions, searched for in the path. A leading "!" is refused.

    Returns:
      A choice for `mask`, `groups` and other arguments that choose parameters.

    Raises:
      ValueError, TypeError: there is no pattern, or one is empty, negated, or neither
        text nor a compiled expression.

    Example:
      >>> import optadamw
      >>> tx = optadamw.adamw(1e-3, mask=optadamw.exclude("*/bias", "*/scale"))
    """
    _plain("exclude", patterns)
    return Patterns(
        tuple(f"!{p}" if isinstance(p, str) else Excluded(p) for p in patterns)
    )


def _plain(function: str, patterns: tuple[str | re.Pattern[str], ...]) -> Patterns:
    checked = patterns_of("patterns", patterns)
    for pattern in patterns:
        if _out(pattern):
            raise ValueError(
                f"`{function}` takes patterns without a leading '!'; got {pattern!r}. "
                "`only` chooses the matches, and `exclude` leaves them out."
            )
    return checked


def patterns_of(name: str, patterns: Any) -> Patterns:
    """Check the patterns that a user passed as the argument `name`."""
    if not patterns:
        raise ValueError(
            f"`{name}` needs at least one pattern; got none. True chooses all "
            "parameters, False none."
        )
    for pattern in patterns:
        if not isinstance(pattern, str | re.Pattern):
            raise mistyped(name, "made of strings or compiled patterns", pattern)
        if isinstance(pattern, re.Pattern) and not isinstance(pattern.pattern, str):
            raise mistyped(name, "made of patterns on strings, not bytes", pattern)
        if pattern in ("", "!"):
            raise ValueError(f"`{name}` has an empty pattern; '*' matches all paths.")
    return Patterns(tuple(patterns))


def are_patterns(choice: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether a sequence is not empty and holds nothing but patterns."""
    return bool(choice) and all(isinstance(p, str | re.Pattern) for p in choice)


def _out(pattern: str | re.Pattern[str] | Excluded) -> bool:
    if isinstance(pattern, str):
        return pattern.startswith("!")
    return isinstance(pattern, Excluded)
