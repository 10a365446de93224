"""What people are told to type is what works where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flexlora.cli.program import program


def script(folder: Path) -> Path:
    folder.mkdir(parents=True)
    made = folder / "flexlora"
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return made


def told(monkeypatch: pytest.MonkeyPatch, argv0: str, *path: Path) -> str:
    monkeypatch.setattr(sys, "argv", [argv0])
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, path)))
    return program()


def test_the_name_where_the_shell_finds_it_else_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, other = script(tmp_path / ".venv" / "bin"), script(tmp_path / "other")
    assert told(monkeypatch, str(mine), mine.parent) == "flexlora"
    assert told(monkeypatch, ".venv/bin/flexlora") == ".venv/bin/flexlora"
    assert told(monkeypatch, ".venv/bin/flexlora", other.parent) == ".venv/bin/flexlora"
    assert told(monkeypatch, ".venv/bin/flexlora", mine.parent) == "flexlora"
    spaced = script(tmp_path / "my files")
    assert told(monkeypatch, str(spaced)) == f"'{spaced}'"
    for no_script in ("-c", "flexlora", str(tmp_path / "notebook.py")):
        assert told(monkeypatch, no_script) == "flexlora"


def test_a_module_is_called_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = script(tmp_path / ".venv" / "bin")
    monkeypatch.setattr(sys, "executable", str(mine.with_name("python")))
    module = "/any/where/flexlora/__main__.py"
    assert told(monkeypatch, module) == f"{Path('.venv/bin/python')} -m flexlora"
    assert told(monkeypatch, module, mine.parent) == "flexlora"


def test_a_real_process_is_told_its_own_way(tmp_path: Path) -> None:
    made = script(tmp_path / "bin")
    made.write_text(
        f"#!{sys.executable}\nfrom flexlora.cli.program import program\nprint(program())\n"
    )
    here = os.environ | {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["bin/flexlora"], cwd=tmp_path, env=here, capture_output=True, text=True, check=True
    )
    expected = (
        "flexlora" if shutil.which("flexlora", path=os.defpath) == str(made) else "bin/flexlora"
    )
    assert done.stdout.strip() == expected
