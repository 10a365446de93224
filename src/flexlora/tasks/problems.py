"""What is wrong with a table, told together, so that it is mended in one go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from flexlora.errors import DataError

TOLD = 10
"""Problems, or places of one problem, that an error tells at most."""


@final
class Problems:
    """The faults of one table: how many, and the first ten of them.

    where: the table's file, folder or name; before: what was found already, which stays as it is.
    """

    def __init__(self, where: str, before: Problems | None = None) -> None:
        self._where = where
        self._first: list[DataError] = [] if before is None else list(before._first)
        self._count: int = 0 if before is None else before._count

    def add(self, error: DataError) -> None:
        self._count += 1
        if self._count <= TOLD:
            self._first.append(error)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep a DataError of this block, and go on behind it."""
        try:
            yield
        except DataError as error:
            self.add(error)

    @property
    def count(self) -> int:
        """How many there are so far."""
        return self._count

    def require_none(self) -> None:
        """Raise the one that there is, as it is, or a DataError that tells of all."""
        if self._count == 1:
            raise self._first[0]
        if self._count:
            # A place ("line 2") says the table's name, which is in front of all of them already.
            place = re.compile(rf"{re.escape(self._where)}, (?=\w+ \d)")
            words = [place.sub("", str(error)) for error in self._first]
            numbered = " ".join(f"({i}) {text}" for i, text in enumerate(words, start=1))
            first = f", the first {TOLD} of which are" if self._count > TOLD else ""
            raise DataError(f"{self._count:,} problems in {self._where}{first}: {numbered}")
