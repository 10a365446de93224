"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def size(count: int) -> str:
    """Bytes in decimal units: "812 bytes", "47.5 kB", "3.2 GB"."""
    amount, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000.0, larger
    return f"{count:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def count(number: int, thing: str) -> str:
    """ "1 round", "2,000 rounds"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def span(values: Sequence[float], digits: int = 4) -> str:
    """ "8", or "2–8": the least and the most of at least one value; floats to so many digits."""
    low, high = (
        f"{x:,}" if isinstance(x, int) else f"{x:.{digits}g}" for x in (min(values), max(values))
    )
    return low if low == high else f"{low}–{high}"
