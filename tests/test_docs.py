"""What the pages say of the tests is true, and their tables are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flexlora.rules import RULES

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
