"""docs/layout.md tells of every folder, in the order that the architecture test holds."""

from __future__ import annotations

import re
from pathlib import Path

import flexlora
from test_architecture import BANS, ORDER, PURE

PAGE = (Path(__file__).parents[1] / "docs" / "layout.md").read_text()
ROWS = re.findall(r"^\| (\S+) \| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)


def test_every_folder_has_its_line_and_one_sentence() -> None:
    assert [name for _, name, _ in ROWS] == ORDER
    for _, name, words in ROWS:
        assert words.endswith("."), name
        assert words.count(". ") == 0, name


def test_floors_rise_and_the_lowest_are_pure() -> None:
    floors = [-1 if floor == "–" else int(floor) for floor, _, _ in ROWS]
    assert floors == sorted(floors)
    low = {name for floor, (_, name, _) in zip(floors, ROWS, strict=True) if floor <= 1}
    assert low == PURE


def test_a_folder_says_the_same_floor_of_itself() -> None:
    source = Path(flexlora.__file__).parent
    for floor, name, _ in ROWS:
        file = source / name / "__init__.py"
        if file.is_file():
            assert file.read_text().startswith(f'"""Floor {floor}: '), name


def test_the_bans_are_told() -> None:
    text = PAGE[PAGE.index("Bans beyond the order") :].partition("## One round")[0]
    for name, banned in BANS.items():
        assert all(f"`{word}`" in text for word in (name, *banned))
