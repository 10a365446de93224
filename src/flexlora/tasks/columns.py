"""Rows with named columns become examples. Every problem names the row, the column and the cure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexlora.errors import ConfigError, DataError
from flexlora.options import cut, seen
from flexlora.tasks.json_text import parsed_json, require_characters
from flexlora.tasks.limits import DEFAULT, Limits
from flexlora.tasks.messages import conversation
from flexlora.tasks.task import Example, Turn

_SHOWN = 20  # columns that an error lists at most
TEXT, WHOLE, LIST = "text", "a whole number", "a list"


@dataclass(frozen=True)
class Row:
    """One row of a table. place: where it stands, for errors ("a.jsonl, line 7"); id: short."""

    place: str
    id: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """A table as it was read. where: its file or name; columns: all that any row has.

    parts: what it was read from, each by one name however it was asked for: whole paths of files,
    or splits of a dataset.
    """

    where: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """An example, and the client that its row names ("" where no column does)."""

    client: str
    example: Example


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; "" is none.

    prompt: the first is the instruction; the others, those that are not empty, are the input, with
    a blank line between them. messages: instead of prompt and response, a chat (`messages`).
    response: a text, or a list of texts that are all right, the first of which is learnt.
    choices: the answers to rank, as a list of texts, or as text that is such a list in JSON; then
    the response may also be a whole number, the place of the right one, from 0.
    client, category, id: text. The id defaults to the row's place.

    A whole number where text is expected is written out ("7"); a column holds one kind of value.
    """

    prompt: tuple[str, ...] = ()
    messages: str = ""
    response: str = ""
    choices: str = ""
    client: str = ""
    category: str = ""
    id: str = ""
    limits: Limits = DEFAULT

    def __post_init__(self) -> None:
        if self.messages and (self.prompt or self.response or self.choices):
            other = "prompt" if self.prompt else "response" if self.response else "choices"
            raise ConfigError(
                f"data.messages and data.{other} are both given; a chat holds prompt and response: "
                f"leave data.{other} out"
            )

    def read(self, table: Rows) -> list[Record]:
        """One record a row, in order.

        Raises DataError for a table without rows, a column that it does not have, one that is not
        named though it must be, a value of a wrong kind, an empty prompt or response, and an id
        that comes twice.
        """
        self._require_named(table)
        if not table.rows:
            raise DataError(f"{table.where} holds no rows; give one or more, or another file")
        for key in ("prompt", "messages", "response", "choices", "client", "category", "id"):
            value = getattr(self, key)
            for column in (value,) if isinstance(value, str) else value:
                if column and column not in table.columns:
                    raise DataError(
                        f"column {column!r} is not in {table.where}, which has "
                        f"{_listed(table.columns)}; {_alike(column, table.columns)}set data.{key} "
                        "to one of them"
                    )
        cells, named = _Cells(), self._named()
        for row in table.rows:
            self.limits.require_row(row.place, *(row.values.get(column) for column in named))
        records = [self._record(row, cells) for row in table.rows]
        cells.require_full()
        _require_distinct(table.rows, [record.example.id for record in records])
        return records

    def _named(self) -> tuple[str, ...]:
        one_each = (self.messages, self.response, self.choices, self.client, self.category, self.id)
        return tuple(name for name in (*self.prompt, *one_each) if name)

    def _require_named(self, table: Rows) -> None:
        needed = () if self.messages else ("prompt", "response")
        for key in needed:
            if not getattr(self, key):
                chat = ", or data.messages to a chat's" if key == "prompt" else ""
                raise DataError(
                    f"data.{key} names no column of {table.where}, which has "
                    f"{_listed(table.columns)}; set it to one of them{chat}"
                )

    def _record(self, row: Row, cells: _Cells) -> Record:
        history: tuple[Turn, ...] = ()
        text = ""
        choices: tuple[str, ...] = ()
        references: tuple[str, ...]
        if self.messages:
            chat = conversation(row.values.get(self.messages), f"{row.place}: {self.messages}")
            history, instruction, references = chat.history, chat.prompt, (chat.response,)
        else:
            instruction = cells.text(row, self.prompt[0])
            others = [cells.optional(row, column) for column in self.prompt[1:]]
            text = "\n\n".join(other for other in others if other.strip())
            cells.note_empty(row, " and ".join(self.prompt), (instruction + text,))
            choices = cells.choices(row, self.choices) if self.choices else ()
            references = cells.references(row, self.response, choices)
            cells.note_empty(row, self.response, references)
        example = Example(
            id=cells.name(row, self.id) if self.id else row.id,
            instruction=instruction,
            input=text,
            references=references,
            category=cells.name(row, self.category) if self.category else "",
            choices=choices,
            history=history,
        )
        client = cells.name(row, self.client) if self.client else ""
        turns = (text for turn in history for text in turn)
        texts = (instruction, text, *references, *choices, *turns)
        require_characters(row.place, (client, example.id, example.category, *texts))
        return Record(client, example)


class _Cells:
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
        return "" if row.values.get(column) is None else self.text(row, column)

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
        if isinstance(value, int) and choices:
            if not 0 <= value < len(choices):
                raise DataError(
                    f"{where} is {cut(str(value), 40)}, but there are {len(choices)} choices; give "
                    f"the place of the right one, from 0 to {len(choices) - 1}, or its text"
                )
            return (choices[value],)
        found = (str(value),) if isinstance(value, str | int) else _texts(value, where)
        if choices and found[0] not in choices:
            raise DataError(
                f"{where} is {cut(found[0], 40)!r}, which is none of the {len(choices)} choices; "
                "give one of them"
            )
        return found

    def note_empty(self, row: Row, column: str, texts: Sequence[str]) -> None:
        """Remember a row whose text is blank: all of them are told at once."""
        if not all(text.strip() for text in texts):
            self._empty.setdefault(column, []).append(row.place)

    def require_full(self) -> None:
        for column, places in self._empty.items():
            rows = "row has" if len(places) == 1 else "rows have"
            raise DataError(
                f"{places[0]}: {column} is blank; {len(places)} {rows} nothing there: fill or "
                "remove what is empty"
            )

    def _value(self, row: Row, column: str, expected: Collection[str]) -> Any:
        value = row.values.get(column)
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


def kind_of(value: object) -> str:
    """A value's kind in words."""
    for kind, words in (
        (type(None), "null"),
        (bool, "true or false"),
        (str, TEXT),
        (int, WHOLE),
        (float, "a number with a decimal point"),
        (list | tuple, LIST),
        (Mapping, "an object"),
        (bytes, "bytes"),
    ):
        if isinstance(value, kind):
            return words
    return f"of type {type(value).__name__}"


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


def _require_distinct(rows: Sequence[Row], ids: Sequence[str]) -> None:
    places: dict[str, str] = {}
    for row, name in zip(rows, ids, strict=True):
        if name in places:
            raise DataError(
                f"{row.place}: id {cut(name, 60)!r} is that of {places[name]} too; give each row "
                "its own, or leave data.id out"
            )
        places[name] = row.place


def _shown(kind: str, value: object) -> str:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{kind} ({cut(str(value), 40)})" if plain else kind


def _listed(columns: Sequence[str]) -> str:
    more = f", … ({len(columns)} in all)" if len(columns) > _SHOWN else ""
    return ", ".join(map(seen, columns[:_SHOWN])) + more if columns else "no columns"


def _alike(wanted: str, columns: Sequence[str]) -> str:
    """What an error says of a column whose name differs by what is not seen."""
    found = [name for name in columns if _letters(name) == _letters(wanted)]
    if not found:
        return ""
    return f"{cut(found[0], 60)!r} differs by blanks, marks or capitals alone: rename it, or "


def _letters(name: str) -> str:
    return "".join(sign for sign in name if sign.isprintable() and not sign.isspace()).casefold()
