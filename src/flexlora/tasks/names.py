"""Names in a table: of columns, of clients, of rows. What is almost alike is told."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from flexlora.errors import DataError, seen, shown
from flexlora.tasks.problems import Problems
from flexlora.tasks.rows import Row

_SHOWN = 20  # columns that an error lists at most


def tell_repeated(named: Iterable[tuple[Row, str]], problems: Problems) -> None:
    """Ids that come twice, each with both places."""
    places: dict[str, str] = {}
    for row, name in named:
        if name in places:
            problems.add(
                DataError(
                    f"{row.place}: id {shown(name)} is that of {places[name]} too; give each row "
                    "its own, or leave data.id out"
                )
            )
        places[name] = row.place


def tell_alike(named: Iterable[tuple[Row, str]], column: str, problems: Problems) -> None:
    """Names that differ from an earlier one by what is not seen: most likely they are one."""
    places: dict[str, str] = {}
    first: dict[str, str] = {}
    for row, name in named:
        if name in places or not name.strip():  # Blank names are told as such.
            continue
        places[name] = row.place
        other = first.setdefault(_letters(name), name)
        if other != name:
            problems.add(
                DataError(
                    f"{row.place}: {column} {shown(name)} differs from {shown(other)} in "
                    f"{places[other]} by blanks, marks or capitals alone; write both alike, or "
                    'set data.alike to "keep" if they are two'
                )
            )


def listed(columns: Sequence[str]) -> str:
    """Names of columns, as many as an error shows."""
    more = f", … ({len(columns)} in all)" if len(columns) > _SHOWN else ""
    return ", ".join(map(seen, columns[:_SHOWN])) + more if columns else "no columns"


def alike(wanted: str, columns: Sequence[str]) -> str:
    """What an error says of a column whose name differs by what is not seen."""
    found = [name for name in columns if _letters(name) == _letters(wanted)]
    if not found:
        return ""
    return f"{shown(found[0])} differs by blanks, marks or capitals alone: rename it, or "


def _letters(name: str) -> str:
    """What of a name is seen, whatever its capitals and however its marks are spelt."""
    kept = "".join(sign for sign in name if sign.isprintable() and not sign.isspace())
    return unicodedata.normalize("NFC", kept.casefold())
