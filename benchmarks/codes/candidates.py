"""The codes that are compared, and the pairs of them that train a model."""

from benchmarks.codes.float8 import float8
from benchmarks.codes.mapped import (
    dynamic,
    logarithmic,
    mapped,
    power,
    powers_without_zero,
    raised,
)
from benchmarks.codes.minifloat import minifloat
from benchmarks.codes.rank_one import AnyCode, RankOne
from benchmarks.codes.relative import relative
from benchmarks.codes.training import Pair

BLOCKS = (32, 64, 128, 256)
_PEERS_BLOCK = 256


def _both(code: AnyCode) -> list[AnyCode]:
    return [code, code.at_random()]


def _named(codes: list[AnyCode]) -> dict[str, AnyCode]:
    return {code.label: code for code in codes}


MU = _named(
    [
        *(c for b in BLOCKS for c in _both(minifloat(4, 3, True, b))),
        *(c for b in (32, 128) for c in _both(minifloat(3, 4, True, b))),
        *_both(relative(3, True, 32)),
        float8(_PEERS_BLOCK),
        float8(32),
        *(c for b in (_PEERS_BLOCK, 32) for c in _both(mapped(dynamic(True), b))),
        *(c for r in (3, 4, 5, 6) for c in _both(mapped(logarithmic(r, True), 32))),
        *(c for b in (32, 128) for c in _both(mapped(power(1, True), b))),
        *_both(mapped(dynamic(True, 4), 128, 4)),
        *_both(mapped(dynamic(True, 4), 32, 4)),
        *_both(minifloat(2, 1, True, 32)),
        *_both(minifloat(3, 0, True, 32)),
    ]
)

NU = _named(
    [
        *(c for b in BLOCKS for c in _both(minifloat(5, 3, False, b))),
        *(c for b in BLOCKS for c in _both(minifloat(4, 4, False, b))),
        *_both(minifloat(3, 5, False, 32)),
        *_both(relative(3, False, 32)),
        float8(_PEERS_BLOCK),
        float8(32),
        *(c for b in (_PEERS_BLOCK, 32) for c in _both(mapped(dynamic(False), b))),
        *(c for b in (32, 128) for c in _both(mapped(raised(dynamic(False)), b))),
        *(c for r in (4, 6, 8, 10) for c in _both(mapped(logarithmic(r, False), 32))),
        *(c for b in (32, 128) for c in _both(mapped(power(2, False), b))),
        *_both(mapped(raised(power(2, False)), 32)),
        *_both(mapped(powers_without_zero(1, 4), 128, 4)),
        *_both(mapped(powers_without_zero(1, 4), 32, 4)),
        *_both(mapped(powers_without_zero(2, 4), 128, 4)),
        *_both(RankOne(powers_without_zero(1, 4), 4)),
        *_both(mapped(raised(dynamic(False, 4)), 128, 4)),
        *_both(minifloat(4, 0, False, 32)),
        *_both(minifloat(3, 1, False, 32)),
        *_both(relative(0, False, 32, 4)),
    ]
)


def _pair(mu: str | None, nu: str | None) -> Pair:
    return Pair(mu and MU[mu], nu and NU[nu])


PAIRS = {
    "MX, both stochastic": _pair("E4M3/32 stochastic", "E5M3/32 stochastic"),
    "MX, mu nearest": _pair("E4M3/32 nearest", "E5M3/32 stochastic"),
    "MX, both nearest": _pair("E4M3/32 nearest", "E5M3/32 nearest"),
    "MX, mu nearest, E4M4": _pair("E4M3/32 nearest", "E4M4/32 stochastic"),
    "MX, block 128": _pair("E4M3/128 nearest", "E5M3/128 stochastic"),
    "of max": _pair("M3 of max/32 stochastic", "M3 of max/32 stochastic"),
    "float8": _pair("float8/256 nearest", "float8/256 nearest"),
    "dynamic": _pair("dynamic/256 nearest", "dynamic/256 nearest"),
    "dynamic, both stochastic": _pair(
        "dynamic/256 stochastic", "dynamic/256 stochastic"
    ),
    "dynamic, raised": _pair("dynamic/32 nearest", "dynamic+/32 stochastic"),
    "linear and sqrt": _pair("linear/32 nearest", "sqrt/32 nearest"),
    "linear and sqrt, raised": _pair("linear/32 nearest", "sqrt+/32 stochastic"),
    "mu 4 bits, dynamic": _pair("dynamic4/128 nearest", None),
    "mu 4 bits, dynamic, stochastic": _pair("dynamic4/128 stochastic", None),
    "mu 4 bits, E3M0, stochastic": _pair("E3M0/32 stochastic", None),
    "nu 4 bits, linear": _pair(None, "linear4 without 0/128 nearest"),
    "nu 4 bits, linear, stochastic": _pair(None, "linear4 without 0/128 stochastic"),
    "nu 4 bits, rows and columns": _pair(
        None, "linear4 without 0/rows and columns nearest"
    ),
    "nu 4 bits, E4M0, stochastic": _pair(None, "E4M0/32 stochastic"),
    "nu 4 bits, of max, stochastic": _pair(None, "M0 of max/32 stochastic"),
    "mu 8 bits, nu 4 bits": _pair("E4M3/32 stochastic", "E4M0/32 stochastic"),
    "4 bits, torchao": _pair("dynamic4/128 nearest", "linear4 without 0/128 nearest"),
    "4 bits, paper": _pair(
        "dynamic4/128 nearest", "linear4 without 0/rows and columns nearest"
    ),
    "4 bits, powers of two": _pair("E3M0/32 stochastic", "E4M0/32 stochastic"),
}


def of_bits(element_bits: int | None) -> tuple[dict[str, AnyCode], ...]:
    """Return the codes of both moments of so many bits; None: all of them."""
    return tuple(
        {
            label: code
            for label, code in codes.items()
            if element_bits in (None, code.element_bits)
        }
        for codes in (MU, NU)
    )


def pairs_of_bits(element_bits: int | None) -> dict[str, Pair]:
    """Return the pairs with a code of so many bits; None: all of them."""
    return {
        label: pair
        for label, pair in PAIRS.items()
        if element_bits in (None, *(code.element_bits for code in pair if code))
    }


# The transformer takes a quarter of a minute for a run: it decides between these.
LONG_PAIRS = (
    "MX, both stochastic",
    "MX, mu nearest",
    "MX, both nearest",
    "dynamic",
    "mu 4 bits, dynamic",
    "mu 4 bits, E3M0, stochastic",
    "nu 4 bits, linear",
    "nu 4 bits, rows and columns",
    "nu 4 bits, E4M0, stochastic",
    "nu 4 bits, of max, stochastic",
    "mu 8 bits, nu 4 bits",
    "4 bits, torchao",
    "4 bits, paper",
    "4 bits, powers of two",
)

# Rounding and block, on which a step's time depends.
TIMED_PAIRS = (
    PAIRS
    | {
        "log": _pair("log4/32 stochastic", "log8/32 stochastic"),
        "float8, block 32": _pair("float8/32 nearest", "float8/32 nearest"),
    }
    | {
        f"MX, block {block}, {'both nearest' if nearest else 'nu stochastic'}": _pair(
            f"E4M3/{block} nearest",
            f"E5M3/{block} {'nearest' if nearest else 'stochastic'}",
        )
        for block in BLOCKS
        for nearest in (True, False)
    }
)
