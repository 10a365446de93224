"""docs/notation.md names what is there: every name exists in the file that the row points to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "flexlora"
CODE = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[str, str]]:
    """(a name of the first column, a file of the last one), every name with every file."""
    found = []
    for line in (ROOT / "docs" / "notation.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        names, files = CODE.findall(cells[0]), CODE.findall(cells[-1])
        if line.startswith("|") and names:
            assert files, f"no file: {line}"
            found += [(name, files[min(i, len(files) - 1)]) for i, name in enumerate(spread(names))]
    return found


def spread(names: list[str]) -> list[str]:
    """ "Spectrum.u, s, vh" is three names."""
    found = []
    for name in names:
        first, *others = name.split(", ") if "(" not in name else [name]
        owner = first.rpartition(".")[0]
        found += [first, *(f"{owner}.{other}" for other in others)]
    return found


def defined(file: Path) -> dict[str, set[str]]:
    """Every class and function at the top of a file, with what each class has in its body."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {name for part in node.body for name in bound(part)}
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = {argument.arg for argument in node.args.args}
    return found


def bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        inside = [x for x in ast.walk(node) if isinstance(x, ast.Attribute)]
        held = [x.attr for x in inside if isinstance(x.value, ast.Name) and x.value.id == "self"]
        return [node.name, *(held if node.name == "__init__" else [])]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


@pytest.mark.parametrize(("name", "where"), rows())
def test_a_name_is_where_its_row_says(name: str, where: str) -> None:
    known = defined(SOURCE / where)
    first, *members = [part.partition("(")[0] for part in name.partition("[")[0].split(".")]
    assert first in known, f"{where} defines no {first}"
    for member in members:
        assert member in known[first], f"{first} of {where} has no {member}"


def test_the_arguments_that_a_row_shows_are_there() -> None:
    for name, where in rows():
        shown = re.fullmatch(r"(\w+)\(([\w, ]+)\)", name)
        if shown:
            arguments = defined(SOURCE / where)[shown[1]]
            assert len(shown[2].split(", ")) <= len(arguments), name


def test_the_table_is_read() -> None:
    assert len(rows()) > 20
    with pytest.raises(AssertionError, match="defines no Nothing"):
        test_a_name_is_where_its_row_says("Nothing", "adapters/factors.py")
    with pytest.raises(AssertionError, match=r"Factors of adapters/factors\.py has no c"):
        test_a_name_is_where_its_row_says("Factors.c", "adapters/factors.py")
