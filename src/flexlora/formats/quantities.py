"""Quantities as people write them, with their units: "16GB", "20 Mbit/s", "10m", "65 TFLOPS"."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

from flexlora.errors import ConfigError, shown

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)
# What a unit may be written with: a library's parser would compute whatever else it is given.
_UNIT = re.compile(r"[A-Za-z%]{1,20}(?:\s?/\s?[A-Za-z]{1,20})?")
# Bits and bytes apart from plain numbers, "m" for minutes: what a metre or a radian is, no device
# has. "K" is no prefix of the metric system, and everybody writes it.
_DEFINITIONS = """
kilo- = 1e3 = k- = K-
mega- = 1e6 = M-
giga- = 1e9 = G-
tera- = 1e12 = T-
peta- = 1e15 = P-
exa- = 1e18 = E-
kibi- = 1024 = Ki-
mebi- = 1048576 = Mi-
gibi- = 1073741824 = Gi-
tebi- = 1099511627776 = Ti-
byte = [data] = B
bit = byte / 8 = b
second = [time] = s = sec
minute = 60 * second = min = m
hour = 60 * minute = h
day = 24 * hour = d
flop = [operation] = FLOP
flops = flop / second = FLOPS
bps = bit / second
Bps = byte / second
percent = 0.01
""".strip()


@dataclass(frozen=True)
class Kind:
    """What is measured, in which unit it is told, and how one writes it."""

    words: str
    unit: str
    like: str


MEMORY = Kind("an amount of memory", "byte", "16GB")
RATE = Kind("a rate of data", "byte / second", "20 Mbit/s")
SPEED = Kind("a speed of computing", "flop / second", "65 TFLOPS")
TIME = Kind("a time", "second", "10m")
SHARE = Kind("a share of time", "", "30%")


def quantity(given: object, kind: Kind, key: str) -> float:
    """The number that a text with a unit comes to: in bytes, bytes a second, operations a second,
    seconds, or as a share; above 0 and finite.

    Units are decimal (GB) or binary (GiB), bits (b, bit) or bytes (B, byte). key: what errors call
    it. Raises ConfigError for a bare number, an unknown unit, a unit of another kind, and a number
    that is not above 0.
    """
    like = f'write it like "{kind.like}"'
    if isinstance(given, int | float) and not isinstance(given, bool):
        raise ConfigError(f"{key} is {shown(given)} without a unit; {like}")
    if not isinstance(given, str):
        raise ConfigError(f"{key} is {shown(given)}, expected {kind.words} as text; {like}")
    parts = _NUMBER.fullmatch(given)
    if parts is None:
        raise ConfigError(f"{key} is {shown(given)}, which begins with no number; {like}")
    number, unit = parts.groups()
    if not unit:
        raise ConfigError(f"{key} is {shown(given)} without a unit; {like}")
    factor = _factor(unit, kind)
    if factor is None:
        raise ConfigError(f"{key} is {shown(given)}, whose unit {shown(unit)} is unknown; {like}")
    if math.isnan(factor):
        raise ConfigError(f"{key} is {shown(given)}, which is not {kind.words}; {like}")
    value = float(number) * factor
    if not 0.0 < value < math.inf:
        raise ConfigError(f"{key} is {shown(given)}, expected more than none and a finite amount")
    return value


@functools.cache
def _factor(unit: str, kind: Kind) -> float | None:
    """What one such unit is of the kind's; None: no unit at all; NaN: of another kind."""
    import pint

    if _UNIT.fullmatch(unit) is None:
        return None
    try:
        found = _units().parse_units(unit.replace("%", "percent"))
    except (pint.errors.PintError, ValueError, TypeError, AttributeError):
        return None
    if not found.is_compatible_with(_units().Unit(kind.unit)):
        return math.nan
    return float(_units().Quantity(1.0, found).to(kind.unit).magnitude)


@functools.cache
def _units() -> Any:
    import pint

    units = pint.UnitRegistry(None)
    units.load_definitions(_DEFINITIONS.splitlines())
    return units
