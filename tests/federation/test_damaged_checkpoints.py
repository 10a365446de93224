"""A run whose last checkpoint is damaged goes on from the one before, and ends at the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence, caller
from flexlora.errors import RunError
from flexlora.federation import Session, resume
from flexlora.federation import run as play
from flexlora.runs.events import Noted
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small
from stops import StopsAfter

QUIET = {"unseen": False, "on_clients": "off"}


def stopped_and_whole(folder: Path, rule: str, **tables: object) -> tuple[Path, Path]:
    asked = {"federation": {"rounds": 5}, "evaluation": QUIET, "rule": {"name": rule}, **tables}
    config = small(**asked)  # type: ignore[arg-type]
    whole = play(config, folder / "whole").folder
    with pytest.raises(KeyboardInterrupt):
        play(config, folder / "stopped", observer=StopsAfter(4))
    return folder / "stopped", whole


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return stopped_and_whole(tmp_path_factory.mktemp("runs"), "flexlora")


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    return caller(monkeypatch, capsys)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def of_another_round(checkpoint: Path) -> None:
    before = checkpoint.with_name("round-0003")
    shutil.rmtree(checkpoint)
    shutil.copytree(before, checkpoint)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the state": (lambda c: flip(c / "state.safetensors"), "state.safetensors is damaged"),
    "a bit of the meta": (lambda c: flip(c / "meta.json"), "meta.json is damaged"),
    "no state": (lambda c: (c / "state.safetensors").unlink(), "state.safetensors is missing"),
    "no meta": (lambda c: (c / "meta.json").unlink(), "meta.json is missing"),
    "no sums": (lambda c: (c / "SHA256SUMS").unlink(), "SHA256SUMS is missing or damaged"),
    "a foreign file": (lambda c: (c / "x.txt").write_text("x"), "x.txt is not of what was written"),
    "of another round": (of_another_round, "round-0004 is of another run or round"),
}


def notes(folder: Path) -> list[str]:
    return [event.text for event in Run.open(folder).events(Noted)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_resume_goes_on_from_the_one_before_and_ends_at_the_same_bits(
    runs: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    stopped, whole = runs
    folder = Path(shutil.copytree(stopped, tmp_path / "r"))
    do, said = DAMAGES[damage]
    do(folder / "checkpoints" / "round-0004")
    with pytest.raises(RunError, match=f"{said}.*or go on from round 3, which is whole: flexlora"):
        Run.open(folder).load_checkpoint()
    resume(folder)
    assert_same_run(folder, whole)
    (note,) = notes(folder)
    assert said in note
    assert "goes on from round 3" in note
    aside = folder / "checkpoints" / "damaged-round-0004"
    assert aside.is_dir(), "what is damaged is kept, for whoever wants to look"
    assert aside.name in note


def test_what_clients_remember_goes_back_too(tmp_path: Path) -> None:
    stopped, whole = stopped_and_whole(tmp_path, "fedsa")
    flip(stopped / "checkpoints" / "round-0004" / "state.safetensors")
    resume(stopped)
    assert_same_run(stopped, whole)


def test_two_damaged_ones_are_stepped_over(tmp_path: Path) -> None:
    stopped, whole = stopped_and_whole(tmp_path, "flexlora", run={"checkpoints": 3})
    flip(stopped / "checkpoints" / "round-0004" / "state.safetensors")
    flip(stopped / "checkpoints" / "round-0003" / "meta.json")
    resume(stopped)
    assert_same_run(stopped, whole)
    (note,) = notes(stopped)
    assert "goes on from round 2" in note
    assert "damaged-round-0003 and damaged-round-0004" in note


def test_where_none_is_whole_the_last_is_named_and_nothing_is_changed(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(runs[0], tmp_path / "r"))
    for path in folder.glob("checkpoints/round-*/state.safetensors"):
        flip(path)
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(RunError, match=r"round-0004/state\.safetensors is damaged") as error:
        resume(folder)
    assert "go on from" not in str(error.value)
    assert sorted(path.name for path in folder.rglob("*")) == before


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_the_last_rounds_and_the_best_are_kept(tmp_path: Path, kept: int) -> None:
    config = small(federation={"rounds": 5}, evaluation=QUIET, run={"checkpoints": kept})
    result = play(config, tmp_path / "r")
    rounds = Run.open(tmp_path / "r").checkpoints()
    assert rounds == sorted({*range(6 - kept, 6), result.scored_round})


def test_a_session_that_only_looks_writes_nothing(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs[0], tmp_path / "r"))
    flip(folder / "checkpoints" / "round-0004" / "meta.json")
    before = sorted(path.name for path in folder.rglob("*"))
    Session.resuming(folder).preview()
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_who_reads_is_told_what_is_damaged_and_which_round_is_whole(
    runs: tuple[Path, Path], tmp_path: Path, flexlora: Flexlora
) -> None:
    """No command shows or hands out another round than the one asked for."""
    folder = Path(shutil.copytree(runs[0], tmp_path / "r"))
    flip(folder / "checkpoints" / "round-0004" / "meta.json")
    said = ("meta.json is damaged", f"go on from round 3, which is whole: flexlora resume {folder}")
    assert_one_sentence(flexlora("inspect", folder), *said)
    assert_one_sentence(flexlora("report", folder, "--out", tmp_path / "x.html"), *said)
    out = tmp_path / "adapter"
    assert_one_sentence(flexlora("export", folder, "--out", out, "--rank", 2), *said)
    assert not out.exists()
    done = flexlora("resume", folder)
    assert done.code == 0, done.err
    assert (done.out + done.err).count("goes on from round 3") == 1
    assert flexlora("inspect", folder).code == 0


def test_of_a_run_that_has_ended_an_earlier_round_can_be_exported(
    runs: tuple[Path, Path], tmp_path: Path, flexlora: Flexlora
) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "r"))
    flip(folder / "checkpoints" / "round-0005" / "meta.json")
    export = ("export", folder, "--out", tmp_path / "adapter", "--rank", 2)
    assert_one_sentence(flexlora(*export), "meta.json is damaged", "whole: --round 4")
    done = flexlora(*export, "--round", 4)
    assert done.code == 0, done.err
