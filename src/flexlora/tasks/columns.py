"""Rows with named columns become examples. Every problem names the row, the column and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexlora.errors import ConfigError, DataError, shown
from flexlora.tasks.cells import Cells, held
from flexlora.tasks.json_text import require_characters
from flexlora.tasks.limits import DEFAULT, Limits
from flexlora.tasks.messages import conversation
from flexlora.tasks.names import alike, listed, tell_alike, tell_repeated
from flexlora.tasks.problems import Problems
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.task import Example, Turn

_KEYS = ("prompt", "messages", "response", "choices", "client", "type", "category", "id")


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
    alike_kept: whether names of clients or categories may differ by what is not seen alone.
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
    alike_kept: bool = False

    def __post_init__(self) -> None:
        if self.response and self.response in self.prompt:
            raise ConfigError(
                f"data.response is {shown(self.response)}, which is a column of data.prompt, too: "
                "every answer would stand in its prompt; name another column in one of them"
            )
        if self.messages and (self.prompt or self.response or self.choices):
            other = "prompt" if self.prompt else "response" if self.response else "choices"
            raise ConfigError(
                f"data.messages and data.{other} are both given; a chat holds prompt and response: "
                f"leave data.{other} out"
            )

    def read(self, table: Rows) -> list[Record]:
        """One record a row, in order.

        Raises DataError for a table without rows, a column that it does not have, one that is not
        named though it must be, a value that is missing or of a wrong kind, an empty prompt or
        response, an id that comes twice, and names of clients or categories that are almost alike:
        all problems of the table together, of each row the first, as `Problems` tells them.
        """
        self._require_named(table)
        problems = Problems(table.where, table.problems)
        if not table.rows:
            problems.require_none()
            raise DataError(f"{table.where} holds no rows; give one or more, or another file")
        if lacking := self._lacking(table):
            for error in lacking:
                problems.add(error)
            problems.require_none()
        cells, named = Cells(), self.named
        rows: list[Row] = []
        records: list[Record] = []
        for row in table.rows:
            with problems.gathered():
                self.limits.require_row(row.place, *(row.values.get(column) for column in named))
                records.append(self._record(row, cells))
                rows.append(row)
        cells.tell_blank(problems)
        examples = [record.example for record in records]
        tell_repeated(zip(rows, (x.id for x in examples), strict=True), problems)
        if not self.alike_kept:
            clients = (record.client for record in records)
            tell_alike(zip(rows, clients, strict=True), self.client, problems)
            categories = (x.category for x in examples)
            tell_alike(zip(rows, categories, strict=True), self.category, problems)
        problems.require_none()
        return records

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that hold something."""
        of_the_row = (self.client, self.type, self.category, self.id)
        one_each = (self.messages, self.response, self.choices, *of_the_row)
        return tuple(name for name in (*self.prompt, *one_each) if name)

    def _lacking(self, table: Rows) -> list[DataError]:
        """One for each column that the table does not have."""
        asked = [(key, column) for key in _KEYS for column in _several(getattr(self, key))]
        lacking = [(key, column) for key, column in asked if column not in ("", *table.columns)]
        if lacking and (mark := _other_separator(table.columns)):
            name = (
                f"one column, {listed(table.columns)}, which seems to be several parted by {mark}"
            )
            return [DataError(f"{table.where} has {name}; part them by commas")]
        return [
            DataError(
                f"column {shown(column)} is not in {table.where}, which has "
                f"{listed(table.columns)}; {alike(column, table.columns)}set data.{key} to one of "
                "them"
            )
            for key, column in lacking
        ]

    def _require_named(self, table: Rows) -> None:
        needed = () if self.messages else ("prompt", "response")
        for key in needed:
            if not getattr(self, key):
                chat = ", or data.messages to a chat's" if key == "prompt" else ""
                raise DataError(
                    f"data.{key} names no column of {table.where}, which has "
                    f"{listed(table.columns)}; set it to one of them{chat}"
                )

    def _record(self, row: Row, cells: Cells) -> Record:
        history: tuple[Turn, ...] = ()
        text = ""
        choices: tuple[str, ...] = ()
        references: tuple[str, ...]
        if self.messages:
            chat = conversation(held(row, self.messages), f"{row.place}: {self.messages}")
            history, instruction, references = chat.history, chat.prompt, (chat.response,)
        else:
            instruction = cells.text(row, self.prompt[0])
            others = [cells.optional(row, column) for column in self.prompt[1:]]
            text = "\n\n".join(other for other in others if other.strip())
            cells.note_empty(row, self.prompt[0], (instruction,))
            choices = cells.choices(row, self.choices) if self.choices else ()
            if choices:  # A blank one has no tokens of its own and would win by length.
                cells.note_empty(row, self.choices, choices)
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


def _several(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _other_separator(columns: Sequence[str]) -> str:
    """What parts the columns, where the one column's name looks like a line of them; else ""."""
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(columns) == 1 and mark in columns[0]:
            return word
    return ""
