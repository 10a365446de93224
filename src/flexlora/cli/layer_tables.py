"""Tables with a row for every layer, or for every kind of layer where they are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from rich.table import Table

SHOWN = 40  # Layers that are shown one by one unless all are asked for.
WIDE = 110  # Columns of a terminal that has room for shapes, α and longer bars.


def layer_table(first: str, names: Sequence[str], columns: Mapping[str, list[str] | None]) -> Table:
    """Names, then the columns that there are; bars and names to the left, numbers to the right."""
    shown = {title: cells for title, cells in columns.items() if cells is not None}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for title in shown:
        left = title in ("spectrum", "mean spectrum", "‖ΔW‖ by depth", "from")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for name, *cells in zip(names, *shown.values(), strict=True):
        table.add_row(name, *cells)
    return table


def shared_prefix(names: Sequence[str]) -> str:
    """The dotted beginning that all names share, with its last dot; something of each is left."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    same = takewhile(lambda column: len(set(column)) == 1, columns)
    return "".join(f"{column[0]}." for column in same) if len(names) > 1 else ""
