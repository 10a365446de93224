"""Where a run was played, and whether it goes on elsewhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from flexlora.federation import resume
from flexlora.federation.as_it_was import elsewhere
from flexlora.runs import environment as module
from flexlora.runs.environment import environment
from flexlora.runs.events import Noted
from flexlora.runs.run_directory import Run
from small import small


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_the_commit_is_that_of_our_own_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of a user's project in which the package is installed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / ".venv" / "flexlora"
    package.mkdir(parents=True)
    (package / "environment.py").touch()
    (tmp_path / "theirs.txt").touch()
    (tmp_path / ".gitignore").write_text(".venv\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "theirs.txt", ".gitignore")
    git(tmp_path, "commit", "-qm", "theirs")
    monkeypatch.setattr(module, "__file__", str(package / "environment.py"))
    assert environment()["commit"] is None
    git(tmp_path, "add", "-f", ".venv/flexlora/environment.py")
    git(tmp_path, "commit", "-qm", "ours")
    found = environment()["commit"]
    assert isinstance(found, str)
    assert len(found) == 40


def test_a_run_that_goes_on_elsewhere_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexlora.federation import run

    config = small(federation={"rounds": 1}, evaluation={"unseen": False, "on_clients": "off"})
    made = Run.open(run(config, tmp_path / "r").folder)
    assert elsewhere(made) == ""
    resume(made.folder)
    assert made.events(Noted) == []
    here = environment()
    monkeypatch.setattr(module, "environment", lambda: here | {"torch": "9.9", "gpus": ["A"]})
    resume(made.folder)
    (note,) = made.events(Noted)
    was = f"(was {here['torch']})"
    wanted = f"goes on with torch 9.9 {was}, gpus ['A'] (was {here['gpus']}): numbers may round"
    assert note.text.startswith(wanted)
