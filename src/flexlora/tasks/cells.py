"""The values of a row as texts and lists. Every problem names the row, the column and the cure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from flexlora.errors import DataError, shown
from flexlora.tasks.json_text import parsed_json
from flexlora.tasks.problems import TOLD, Problems
from flexlora.tasks.rows import LIST, TEXT, WHOLE, Row, kind_of


class Cells:
    """Reads values, and holds each column to the kind of its first value."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}  # column → kind, place
        self._empty: dict[str, list[str]] = {}  # columns → places

    def text(self, row: Row, column: str) -> str:
        return str(self._value(row, column, (TEXT, WHOLE)))

    def name(self, row: Row, column: str) -> str:
        """Whose a row is, or what it is called: a blank would pool rows that say nothing."""
        text = self.text(row, column)
        self.note_empty(row, column, (text,))
        return text

    def optional(self, row: Row, column: str) -> str:
        """A text, "" for null. Raises DataError for a row that does not have the column at all."""
        value = held(row, column, "write null where it has nothing to say")
        return "" if value is None else self.text(row, column)

    def choices(self, row: Row, column: str) -> tuple[str, ...]:
        value = self._value(row, column, (LIST, TEXT))
        where = f"{row.place}: {column}"
        if isinstance(value, str):
            cure = 'write the choices as ["first", "second"]'
            value = parsed_json(value, where, cure)
            if not isinstance(value, list):
                raise DataError(f"{where} is text, but no list in JSON; {cure}")
        found = _texts(value, where)
        if len(found) < 2 or len(set(found)) < len(found):
            raise DataError(f"{where} holds {len(found)} choices; give two or more, all different")
        return found

    def references(self, row: Row, column: str, choices: Sequence[str]) -> tuple[str, ...]:
        value = self._value(row, column, (TEXT, WHOLE, LIST))
        where = f"{row.place}: {column}"
        if isinstance(value, str) and _is_place(value, choices):
            value = int(value)
        if isinstance(value, int) and choices:
            if str(value) in choices and choices[value : value + 1] != (str(value),):
                raise DataError(
                    f"{where} is {value}, which may be the choice {shown(str(value))} or the place "
                    f"of another, from 0; give the right choice as text, {shown(str(value))}"
                )
            if not 0 <= value < len(choices):
                raise DataError(
                    f"{where} is {shown(value)}, but there are "
                    f"{len(choices)} choices; give the place of the right one, from 0 to "
                    f"{len(choices) - 1}, or its text"
                )
            return (choices[value],)
        found = (str(value),) if isinstance(value, str | int) else _texts(value, where)
        if choices and found[0] not in choices:
            raise DataError(
                f"{where} is {shown(found[0])}, which is none of the "
                f"{len(choices)} choices; give one of them"
            )
        return found

    def note_empty(self, row: Row, column: str, texts: Sequence[str]) -> None:
        """Remember a row whose text is blank: all of them are told at once."""
        if not all(text.strip() for text in texts):
            self._empty.setdefault(column, []).append(row.place)

    def tell_blank(self, problems: Problems) -> None:
        """One problem for each column, with the places of the rows that are blank there."""
        for column, places in self._empty.items():
            rows = "row has" if len(places) == 1 else "rows have"
            others = ", ".join(places[1:TOLD]) + (", …" if len(places) > TOLD else "")
            also = f" (also {others})" if others else ""
            problems.add(
                DataError(
                    f"{places[0]}: {column} is blank; {len(places)} {rows} nothing there{also}: "
                    "fill or remove what is empty"
                )
            )

    def _value(self, row: Row, column: str, expected: Collection[str]) -> Any:
        value = held(row, column)
        kind = kind_of(value)
        if kind not in expected:
            raise DataError(
                f"{row.place}: {column} is {_shown(kind, value)}, expected "
                f"{' or '.join(expected)}; mend that row"
            )
        first, place = self._first.setdefault(column, (kind, row.place))
        if kind != first:
            raise DataError(
                f"{row.place}: {column} is {_shown(kind, value)}, but {first} in {place}; write "
                "the whole column alike"
            )
        return value


def held(row: Row, column: str, cure: str = "mend that row") -> Any:
    """The value. Raises DataError for a row without that column, which its table has."""
    if column not in row.values:
        raise DataError(f"{row.place}: {column} is missing; {cure}")
    return row.values[column]


def _is_place(text: str, choices: Sequence[str]) -> bool:
    """Whether a text, as all that a CSV file holds is, can only be the place of a choice."""
    numbers = any(choice.strip().isdecimal() for choice in choices)
    return bool(choices) and not numbers and text.isascii() and text.isdecimal() and len(text) < 9


def _texts(values: Sequence[object], where: str) -> tuple[str, ...]:
    if not values:
        raise DataError(f"{where} is an empty list; give one text or more")
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(
                f"{where}, item {place + 1}, is {_shown(kind_of(value), value)}, expected text; "
                "mend that row"
            )
    return tuple(str(value) for value in values)


def _shown(kind: str, value: object) -> str:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{kind} ({shown(value)})" if plain else kind
