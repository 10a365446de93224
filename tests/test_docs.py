"""What the pages say of the tests is true, and their tables are whole."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from flexlora.rules import RULES
from flexlora.runs.events import EVENTS, RoundBegun, RoundEnded
from flexlora.runs.records import RoundRecord

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["guarantees", "threat-model"])
def test_every_guarantee_names_a_test_that_exists(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) == text.count("::") > 15
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_no_blank_line_cuts_a_table_in_two() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        begun = re.findall(r"(?:^|\n)\n(\|.*)\n(.*)", text)
        for head, under in begun:
            assert re.fullmatch(r"[|:\- ]+", under), f"{page.name}: {head[:60]} begins no table"


def test_the_reference_has_a_line_for_every_rule() -> None:
    text = (ROOT / "docs/reference/rules.md").read_text(encoding="utf-8")
    table = text[text.index("## In one line each") : text.index("## Screens")]
    lines = re.findall(r"^\| `([\w-]+)` \|.*\| (mixed|one) \|", table, flags=re.MULTILINE)
    wanted = {n: "mixed" if rule.traits.mixed_ranks else "one" for n, rule in RULES.items()}
    assert dict(lines) == wanted
    assert len(lines) == len(wanted)


def test_the_reference_has_a_line_for_every_field_of_every_event() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        tables = importlib.import_module("live_tables").TABLES
    finally:
        sys.path.pop(0)
    assert "```{live-table} event-fields" in (ROOT / "docs/reference/events.md").read_text()
    rows = list(tables["event-fields"]())[1:]
    told = {(event.strip("`"), field.strip("`")): value for event, field, value, _ in rows}
    wanted = {
        (name, field.name)
        for name, kind in EVENTS.items()
        for field in fields(RoundRecord if kind is RoundEnded else kind)
    }
    assert set(told) == {(name, field) for name, field in wanted if field != "time"}
    assert told["reply", "loss"] == "number"
    assert told["round_begun", "clients"] == "list of texts"
    meanings = {(event.strip("`"), field.strip("`")): words for event, field, _, words in rows}
    assert meanings["reply", "bytes_up"].startswith("of the update as it was sent")
    assert meanings["failure", "kind"].startswith("what it was to do")
    written = json.loads(json.dumps(RoundBegun(1, ("a",)).to_json()))
    assert {("round_begun", key) for key in written} - {("round_begun", "event")} <= wanted
