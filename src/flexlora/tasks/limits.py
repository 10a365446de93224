"""How much of a table is taken: what is beyond is refused before work is done on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from flexlora.errors import DataError
from flexlora.options import MANY, Option

_OTHER_COLUMNS = 10  # A line may be so many times as long as what the named columns hold.

MaxRowCharacters = Annotated[
    int,
    Option("characters that the named columns of a row may hold, all together", least=1, most=MANY),
]
MaxTableGb = Annotated[
    float, Option("GB that a table may come to as it is read, unpacked", above=0.0, most=1e6)
]
ROW_CHARACTERS = 1_000_000
TABLE_GB = 2.0


@dataclass(frozen=True)
class Limits:
    """row: characters of a row's named columns; table_bytes: of a whole table."""

    row: int
    table_bytes: int

    @staticmethod
    def of(row: int, table_gb: float) -> Limits:
        """As the options `max_row_characters` and `max_table_gb` give them."""
        return Limits(row, int(min(table_gb * 1e9, sys.maxsize)))

    def require_row(self, where: str, *values: Any) -> None:
        """Raise DataError for a row whose values hold more characters, however they are nested."""
        size, left = 0, list(values)
        while left:
            value = left.pop()
            if isinstance(value, str):
                size += len(value)
            elif isinstance(value, Mapping):
                left += value.values()
                size += len(value)
            elif isinstance(value, list | tuple):
                left += value
                size += len(value)
        self._require(where, size, self.row, "its named columns")

    def require_line(self, where: str, size: int) -> None:
        """Raise DataError for a line that is too long to be parsed."""
        self._require(where, size, _OTHER_COLUMNS * self.row, "all")

    def _require(self, where: str, size: int, most: int, part: str) -> None:
        if size > most:
            raise DataError(
                f"{where} holds {size:,} characters in {part}, and data.max_row_characters = "
                f"{self.row:,} allows {most:,}; shorten that row, or raise it"
            )


DEFAULT = Limits.of(ROW_CHARACTERS, TABLE_GB)
