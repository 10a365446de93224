"""Quantities with units: what they come to, and what is refused, by name."""

from __future__ import annotations

import pytest

from flexlora.errors import ConfigError
from flexlora.formats.quantities import MEMORY, RATE, SHARE, SPEED, TIME, Kind, quantity

READ = [
    ("16GB", MEMORY, 16e9),
    ("16 GiB", MEMORY, 16 * 2**30),
    ("1.5 TB", MEMORY, 1.5e12),
    ("8Gb", MEMORY, 1e9),
    ("64 KiB", MEMORY, 65536),
    ("2e3 MB", MEMORY, 2e9),
    ("20 Mbit/s", RATE, 2.5e6),
    ("20Mbps", RATE, 2.5e6),
    ("100 MB/s", RATE, 1e8),
    ("3.35 TB / s", RATE, 3.35e12),
    ("6 GB/min", RATE, 1e8),
    ("65 TFLOPS", SPEED, 65e12),
    ("65 TFLOP/s", SPEED, 65e12),
    (".5 PFLOPS", SPEED, 5e14),
    ("10m", TIME, 600),
    ("90 s", TIME, 90),
    ("2 hours", TIME, 7200),
    ("1d", TIME, 86400),
    ("30%", SHARE, 0.3),
    ("6 h/day", SHARE, 0.25),
]


@pytest.mark.parametrize(("text", "kind", "value"), READ)
def test_a_text_comes_to_its_number(text: str, kind: Kind, value: float) -> None:
    assert quantity(text, kind, "x") == pytest.approx(value, rel=1e-12)


REFUSED: list[tuple[object, Kind, str]] = [
    (16, MEMORY, "memory of phone is 16 without a unit; write it like"),
    ("16", MEMORY, "is '16' without a unit"),
    (1.5, RATE, "is 1.5 without a unit"),
    (True, MEMORY, "is True, expected an amount of memory as text"),
    (["1GB"], MEMORY, "expected an amount of memory as text"),
    (None, TIME, "expected a time as text"),
    ("", TIME, "begins with no number"),
    ("much GB", MEMORY, "begins with no number"),
    ("nan GB", MEMORY, "begins with no number"),
    ("16 gb", MEMORY, "whose unit 'gb' is unknown"),
    ("16 bananas", MEMORY, "whose unit 'bananas' is unknown"),
    ("9**9**9 GB", MEMORY, "is unknown"),
    ("1 GB*s", MEMORY, "is unknown"),
    ("1 __class__", MEMORY, "is unknown"),
    ("1,5 GB", MEMORY, "is unknown"),
    ("16GB", RATE, "is '16GB', which is not a rate of data; write it like"),
    ("20 Mbit/s", MEMORY, "is not an amount of memory"),
    ("20 Mbit/s", SPEED, "is not a speed of computing"),
    ("10m", MEMORY, "is not an amount of memory"),
    ("10 TFLOP", SPEED, "is not a speed of computing"),
    ("0 GB", MEMORY, "expected more than none"),
    ("-3 GB", MEMORY, "is '-3 GB', expected more than none"),
    ("1e999 GB", MEMORY, "a finite amount"),
]


@pytest.mark.parametrize(("given", "kind", "words"), REFUSED)
def test_what_is_no_such_quantity_is_refused(given: object, kind: Kind, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        quantity(given, kind, "memory of phone")
    assert words in str(raised.value)
    assert str(raised.value).startswith("memory of phone is ")
