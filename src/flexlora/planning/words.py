"""Times as people read them."""

from __future__ import annotations

_UNITS = ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "3.5 min", "2.1 h", "4.0 days"."""
    for length, unit in _UNITS:
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
