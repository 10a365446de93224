"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.filesize import decimal


def size(count: int) -> str:
    """Bytes in decimal units: "812 bytes", "47.5 kB", "3.2 GB"."""
    return decimal(count)


def count(number: int, thing: str) -> str:
    """ "1 round", "2,000 rounds"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def span(values: Sequence[float], digits: int = 4) -> str:
    """ "8", or "2–8": the least and the most of at least one value; floats to so many digits."""
    low, high = (
        f"{x:,}" if isinstance(x, int) else f"{x:.{digits}g}" for x in (min(values), max(values))
    )
    return low if low == high else f"{low}–{high}"


def megabytes(count: int) -> str:
    """Bytes as decimal megabytes with one decimal."""
    return f"{count / 1e6:,.1f}"
