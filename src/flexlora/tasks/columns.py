"""Rows with named columns become examples. Every problem names the row, the column and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexlora.errors import ConfigError, DataError, seen, shown
from flexlora.tasks.cells import Cells
from flexlora.tasks.json_text import require_characters
from flexlora.tasks.limits import DEFAULT, Limits
from flexlora.tasks.messages import conversation
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.task import Example, Turn

_KEYS = ("prompt", "messages", "response", "choices", "client", "type", "category", "id")
_SHOWN = 20  # columns that an error lists at most


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
    client, type, category, id: text, or a whole number. The id defaults to the row's place.

    A whole number where text is expected is written out ("7"); a column holds one kind of value.
    """

    prompt: tuple[str, ...] = ()
    messages: str = ""
    response: str = ""
    choices: str = ""
    client: str = ""
    type: str = ""
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
        for key in _KEYS:
            value = getattr(self, key)
            for column in (value,) if isinstance(value, str) else value:
                if column and column not in table.columns:
                    raise DataError(
                        f"column {shown(column)} is not in {table.where}, which has "
                        f"{_listed(table.columns)}; {_alike(column, table.columns)}set data.{key} "
                        "to one of them"
                    )
        cells, named = Cells(), self.named
        for row in table.rows:
            self.limits.require_row(row.place, *(row.values.get(column) for column in named))
        records = [self._record(row, cells) for row in table.rows]
        cells.require_full()
        _require_distinct(table.rows, [record.example.id for record in records])
        return records

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that hold something."""
        of_the_row = (self.client, self.type, self.category, self.id)
        one_each = (self.messages, self.response, self.choices, *of_the_row)
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

    def _record(self, row: Row, cells: Cells) -> Record:
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
            type=cells.name(row, self.type) if self.type else "",
        )
        client = cells.name(row, self.client) if self.client else ""
        turns = (text for turn in history for text in turn)
        texts = (instruction, text, *references, *choices, *turns)
        require_characters(row.place, (client, example.id, example.category, example.type, *texts))
        return Record(client, example)


def _require_distinct(rows: Sequence[Row], ids: Sequence[str]) -> None:
    places: dict[str, str] = {}
    for row, name in zip(rows, ids, strict=True):
        if name in places:
            raise DataError(
                f"{row.place}: id {shown(name)} is that of {places[name]} too; give each row "
                "its own, or leave data.id out"
            )
        places[name] = row.place


def _listed(columns: Sequence[str]) -> str:
    more = f", … ({len(columns)} in all)" if len(columns) > _SHOWN else ""
    return ", ".join(map(seen, columns[:_SHOWN])) + more if columns else "no columns"


def _alike(wanted: str, columns: Sequence[str]) -> str:
    """What an error says of a column whose name differs by what is not seen."""
    found = [name for name in columns if _letters(name) == _letters(wanted)]
    if not found:
        return ""
    return f"{shown(found[0])} differs by blanks, marks or capitals alone: rename it, or "


def _letters(name: str) -> str:
    return "".join(sign for sign in name if sign.isprintable() and not sign.isspace()).casefold()
