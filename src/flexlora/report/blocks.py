"""What a page is made of: sections of notes, tables, figures and headline numbers; plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexlora.formats.words import count

ROWS = 250  # A table's rows at most; what is beyond is counted.
ABSENT = "–"
NO_CHANGE = "±"
"""What a change begins with that is nothing in the digits that are shown."""


@dataclass(frozen=True)
class Mark:
    """A value with a remark: the best of its column, or its text as it stands."""

    value: Any
    text: str = ""
    best: bool = False


@dataclass(frozen=True)
class Cell:
    """What one cell shows."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """numeric: which columns are numbers, aligned right. more: what was left out, in words.

    folded: behind its caption, to be opened.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    more: str = ""
    folded: bool = False

    @staticmethod
    def of(
        caption: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        digits: Mapping[str, int] | None = None,
        limit: int = ROWS,
        order: str = "",
        folded: bool = False,
    ) -> Table:
        """Format by column: floats of one column share their digits, which its sizes choose.

        digits: decimals of some columns; order: by what the rows shown come first.
        """
        every = [tuple(row) for row in rows]
        kept, beyond = every[:limit], len(every) - limit
        places = [
            (digits or {}).get(title, _places([_plain(row[i]) for row in kept]))
            for i, title in enumerate(columns)
        ]
        more = f"Not shown: {count(beyond, 'more row')}{order}." if beyond > 0 else ""
        cells = tuple(
            tuple(_cell(value, place) for value, place in zip(row, places, strict=True))
            for row in kept
        )
        numeric = tuple(_numeric([_plain(row[i]) for row in kept]) for i in range(len(columns)))
        return Table(caption, tuple(columns), cells, numeric, more, folded)


@dataclass(frozen=True)
class Key:
    """One entry of a figure's legend. colour: a place in the palette, -1 for neutral."""

    label: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Figure:
    """A Vega-Lite specification with its heading, how to read it, its legend and its numbers."""

    title: str
    reading: str
    spec: Mapping[str, Any]
    table: Table
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Note:
    """A sentence. warning: one that a reader must not miss."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Tile:
    """A headline number: what, how much, and against what."""

    name: str
    value: str
    against: str
    good: bool | None


@dataclass(frozen=True)
class Tiles:
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Heading:
    """The title of what follows, inside a section."""

    text: str


Block = Figure | Table | Note | Tiles | Heading


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Front:
    """How a page begins that is of more than its runs: what it is called, in a sentence what it is
    of, and a section before theirs."""

    title: str
    subtitle: str
    section: Section


def signed(value: float, digits: int) -> str:
    """ "+1.25", "−0.50", "±0.00": with the typographic minus."""
    text = f"{abs(value):,.{digits}f}"
    sign = NO_CHANGE if float(text.replace(",", "")) == 0 else "+" if value > 0 else "−"
    return sign + text


def plain(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Mark) else value


def _numeric(values: Sequence[Any]) -> bool:
    there = [value for value in values if value is not None]
    return bool(there) and all(isinstance(x, int | float) for x in there)


def _places(values: Sequence[Any]) -> int:
    sizes = [abs(x) for x in values if isinstance(x, float) and math.isfinite(x) and x]
    if not sizes:
        return 1
    return min(6, max(0, 3 - math.floor(math.log10(max(sizes)))))


def _cell(value: Any, places: int) -> Cell:
    best = isinstance(value, Mark) and value.best
    if isinstance(value, Mark) and value.text:
        return Cell(value.text, best)
    value = _plain(value)
    if value is None:
        return Cell(ABSENT)
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(f"{value:,}".replace("-", "−"), best)
    if isinstance(value, float):
        return Cell(plain(value, places), best)
    return Cell(str(value), best)
