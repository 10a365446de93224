"""A rehearsal with faults, as people are told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Flexlora
from federation.test_faults import FAULTS, SAID
from flexlora.federation import run
from flexlora.report.write import write_report
from report.pages import words
from small import small, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(**FAULTS), tmp_path_factory.mktemp("runs") / "r").folder


def test_people_are_told(folder: Path, flexlora: Flexlora, tmp_path: Path) -> None:
    done = flexlora("inspect", folder)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert SAID in lines
    for start in ("more than one attempt: round ", "rested after failures in a row: "):
        assert any(line.startswith(start) for line in lines)
    assert any("to spare, when enough others had come" in line for line in lines)
    assert any(line.startswith("quarantined ") for line in lines)
    refused = " refused, to nothing that was open (late, twice, or of another round), which are no "
    assert refused in " ".join(done.out.split())
    dry = flexlora("run", write(small(**FAULTS), tmp_path / "c.toml"), "--dry-run")
    assert dry.code == 0
    assert SAID in dry.out
    text = words(write_report([folder], tmp_path / "page.html"))
    for told in (SAID, "Rounds that took more than one attempt", "Spare answers", "rests up to"):
        assert told in text
