"""The source "rows": what a Python program holds in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from flexlora.tasks.files import require_size
from flexlora.tasks.held_rows import held_text
from flexlora.tasks.json_text import parsed_json
from flexlora.tasks.problems import Problems
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.table_source import TableSource


@final
@dataclass(frozen=True)
class HeldRows(TableSource):
    """Rows under the name that `flexlora.hold_rows` gave them. Rows are counted from 0."""

    def rows(self, path: str, *, test: bool) -> Rows:
        text = held_text(path)
        require_size(path, len(text), self.limits.table_bytes)
        problems = Problems(path)
        rows: list[Row] = []
        for number, line in enumerate(text.splitlines()):
            where = f"{path}, row {number}"
            with problems.gathered():
                self.limits.require_line(where, len(line))
                rows.append(Row(where, f"rows:{number}", parsed_json(line, where, "mend it")))
        columns = dict.fromkeys(name for row in rows for name in row.values)
        return Rows(path, tuple(columns), rows, (path,), problems)
