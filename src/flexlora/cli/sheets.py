"""Tables that fit the width that there is: what is too wide is stacked, and no number is cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import JustifyMethod
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from flexlora.cli.console import Screen


@dataclass(frozen=True)
class Column:
    """A heading, which may have several lines, and a cell for each row."""

    heading: str
    cells: Sequence[str]
    left: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table: names of rows, then columns of numbers.

    ends: rows after which a section ends; bold: rows that are set apart; title: "" for none.
    """

    title: str
    names: Column
    columns: Sequence[Column]
    ends: Collection[int] = ()
    bold: Collection[int] = ()

    def print(self, console: Screen) -> None:
        """As one table where that fits, else as several below each other, each with the names."""
        for place, columns in enumerate(self._parts(console)):
            if place:
                console.print()
            console.print(self._table(console, columns, self.title if place == 0 else ""))

    def _parts(self, console: Screen) -> Iterator[list[Column]]:
        """The columns in order, as many at a time as fit; one at least."""
        part: list[Column] = []
        for column in self.columns:
            if part and self._width(console, [*part, column]) > console.width:
                yield part
                part = []
            part.append(column)
        yield part

    def _width(self, console: Screen, columns: Sequence[Column]) -> int:
        options = console.options.update(max_width=100_000)
        return Measurement.get(console, options, self._table(console, columns, "")).maximum

    def _table(self, console: Screen, columns: Sequence[Column], title: str) -> Table:
        table = Table(
            title=title or None,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        # Names give way: they are folded, and keep the half of the width.
        table.add_column(self.names.heading, overflow="fold", max_width=max(16, console.width // 2))
        for column in columns:
            justify: JustifyMethod = "left" if column.left else "right"
            # A Text keeps its newlines; strings are made visible. Words may be folded.
            heading = Text(column.heading)
            table.add_column(heading, justify=justify, no_wrap=not column.left, overflow="fold")
        rows = zip(self.names.cells, *(column.cells for column in columns), strict=True)
        for place, row in enumerate(rows):
            style = "bold" if place in self.bold else None
            table.add_row(*row, style=style, end_section=place in self.ends)
        return table
