"""States of `tests.interchange.cases`, as a peer saves them."""

from typing import Any

import pytest

from tests.interchange import cases

each_peer = pytest.mark.parametrize("name", cases.PEERS)
STATE_DICTS = ("torch", "optimi", "torchao", "bitsandbytes")


def torch_state(params: Any, **options: Any) -> tuple[Any, Any, Any]:
    tx = cases.adamw(**options)
    params, state = cases.trained(tx, params, 2)
    return params, tx, state


PAIR = {"a": (2, 2), "b": (2, 2)}


def refused(kind: Any, text: str, call: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(kind, match=text):
        call(*args, **options)


def saved_by(name: str, **options: Any) -> tuple[Any, Any, Any]:
    params, tx, state = torch_state(cases.tree(), **options)
    return cases.PEERS[name].to(state, params, tx=tx), params, tx
