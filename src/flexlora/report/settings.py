"""What it takes to make the numbers again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flexlora.errors import cut_short
from flexlora.formats.words import count
from flexlora.report.blocks import Section, Table
from flexlora.report.runs import ReportRun


def settings(runs: Sequence[ReportRun]) -> Section:
    configs = {
        run.label: {
            f"{table}.{key}": value
            for table, keys in run.config.items()
            for key, value in keys.items()
        }
        for run in runs
    }
    data = {
        run.label: {key: value for key, value in run.data.items() if key != "partition"}
        for run in runs
    }
    environments = {run.label: run.environment for run in runs}
    return Section(
        "settings",
        "Config and environment",
        (
            _side_by_side("Config", configs),
            _side_by_side("Data", data),
            _side_by_side("Environment", environments),
        ),
    )


def _side_by_side(title: str, tables: Mapping[str, Mapping[str, Any]]) -> Table:
    """Rows are keys, columns runs; keys in which the runs differ come first."""
    keys = list(dict.fromkeys(key for table in tables.values() for key in table))
    texts = {key: [_text(table.get(key)) for table in tables.values()] for key in keys}
    differing = [key for key in keys if len(set(texts[key])) > 1]
    same = [key for key in keys if key not in differing]
    note = f", the {count(len(differing), 'key')} that differ first" if differing else ""
    rows = [[key, *texts[key]] for key in differing + same]
    return Table.of(title + note, ["key", *tables], rows)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return cut_short(text, 300)
