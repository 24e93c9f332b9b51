"""Counting what XLA compiles."""

from typing import Any, Self

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """A context that counts the programs compiled inside it."""

    def __init__(self) -> None:
        self.count = 0
        self._is_open = False

    def __enter__(self) -> Self:
        # JAX has no public way to remove one listener; a closed one ignores events.
        jax.monitoring.register_event_duration_secs_listener(self._notice)
        self._is_open = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_open = False

    def _notice(self, event: str, duration: float, **details: Any) -> None:
        del duration, details
        self.count += self._is_open and event == _EVENT
