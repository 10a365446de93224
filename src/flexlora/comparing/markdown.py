"""A section of notes and tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flexlora.formats.visible import visible
from flexlora.report.blocks import Block, Note, Section, Table

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~])")


def markdown(section: Section, title: str) -> str:
    """Notes as paragraphs, tables with their captions; a figure's numbers stand in for it.

    Names of arms and categories are others' texts: what would be markup, or hidden, is escaped.
    """
    parts = [f"# {escaped(title)}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", visible(text))


def _block(block: Block) -> str:
    if isinstance(block, Note):
        return escaped(block.text)
    return _table(block) if isinstance(block, Table) else ""


def _table(table: Table) -> str:
    rows = [[escaped(cell.text) for cell in row] for row in table.rows]
    lines = [
        _line([escaped(name) for name in table.columns]),
        _line(["---:" if numeric else "---" for numeric in table.numeric]),
        *map(_line, rows),
    ]
    told = [f"**{escaped(table.caption)}**", "\n".join(lines)]
    return "\n\n".join([*told, escaped(table.more)] if table.more else told)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
