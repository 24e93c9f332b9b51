"""List the differences between the records of one row in two checkouts."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.compare import hlo

Answer = Mapping[str, Any]
Digests = Sequence[Mapping[str, str]]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_RUNS = {
    "step": "bits of `jit_step`",
    "update": "bits of `update`",
    "flush": "bits of `flush`",
}


class Difference(NamedTuple):
    """Something that is not in the new checkout as it was in the old one."""

    row: str
    of: str
    """Which fact: bits, HLO, traces ..."""
    what: str


def differences(row: str, old: Answer, new: Answer) -> list[Difference]:
    """Compare two answers about one row, each a record or an error."""
    if "error" in old or "error" in new:
        said = [answer.get("error", "no error") for answer in (old, new)]
        # A row that fails in both is no less unknown.
        return [Difference(row, "error", f"{said[0]} | {said[1]}")]
    found = _found(old["result"], new["result"])
    return [Difference(row, of, what) for of, what in found]


def _found(old: Answer, new: Answer) -> Iterator[tuple[str, str]]:
    shown = [_ADDRESS.sub("", record["repr"]) for record in (old, new)]
    if shown[0] != shown[1]:
        yield "repr", f"{shown[0]} is now {shown[1]}"
    if old["state"] != new["state"]:
        yield "names of the state", _only(old["state"], new["state"])
    for run, of in _RUNS.items():
        if what := _bits(old[run], new[run]):
            yield of, what
    if what := _bits(old["again"]["bits"], new["again"]["bits"]):
        yield "bits of `jax.jit(step)`", what
    # In both, so that a fault that is old is seen as well.
    if (old["traces"], new["traces"]) != (1, 1):
        yield "traces", f"{old['traces']} of 20 calls, now {new['traces']}; 1 expected"
    if any(record["again"]["traced"] != [True, False] for record in (old, new)):
        traced = [record["again"]["traced"][1] for record in (old, new)]
        yield (
            "traces",
            f"an equal one made anew is traced: {traced[0]}, now {traced[1]}",
        )
    if changed := hlo.counts(Counter(old["jaxpr"]), Counter(new["jaxpr"])):
        total = [sum(record["jaxpr"].values()) for record in (old, new)]
        yield "jaxpr", f"{total[0]} equations, now {total[1]}: {changed}"
    if what := hlo.difference(old["hlo"], new["hlo"]):
        yield "HLO", what
    for name, size in old["memory"].items():
        if size != new["memory"][name]:
            yield f"bytes, {name}", f"{size:,} are now {new['memory'][name]:,}"


def _only(old: Sequence[str], new: Sequence[str]) -> str:
    gone, added = (
        sorted(set(one) - set(other)) for one, other in ((old, new), (new, old))
    )
    return f"gone: {', '.join(gone) or 'none'}; new: {', '.join(added) or 'none'}"


def _bits(old: Digests, new: Digests) -> str:
    """Say where two runs part first; what is only renamed does not part."""
    if len(old) != len(new):
        return f"{len(old)} steps, now {len(new)}"
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        if before.keys() != after.keys():
            if sorted(before.values()) != sorted(after.values()):
                return f"other arrays under other names, from step {index + 1}"
            continue
        parted = [path for path in before if before[path] != after[path]]
        if parted:
            return f"from step {index + 1}, {len(parted)} leaves: {', '.join(parted)}"
    return ""
