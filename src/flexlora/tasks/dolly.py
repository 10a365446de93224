"""The source "dolly": databricks-dolly-15k as it is published, one JSON object a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from flexlora.tasks.jsonl_source import read_jsonl
from flexlora.tasks.rows import Rows
from flexlora.tasks.table_source import Category, Prompt, Response, TableSource


@final
@dataclass(frozen=True)
class Dolly(TableSource):
    """The file, or its folder, with Dolly's columns; without a partition one task a category."""

    prompt: Prompt = ("instruction", "context")
    response: Response = "response"
    category: Category = "category"

    def rows(self, path: str, *, test: bool) -> Rows:
        return read_jsonl(path, self.limits)
