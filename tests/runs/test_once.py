"""What is written once when a run is made: whatever is wrong with what was derived is told."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from commands import Flexlora, caller
from flexlora.config.config import Config
from flexlora.config.toml import LARGEST
from flexlora.errors import RunError
from flexlora.federation import Session, at_once
from flexlora.federation import run as play
from flexlora.federation.continuing import Parent
from flexlora.runs import Standing
from flexlora.runs.fields import RESOLVED
from flexlora.runs.overview import overview
from flexlora.runs.run_directory import Run
from resealed import reseal
from small import small


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round."""
    config = small(federation={"rounds": 1}, evaluation={"unseen": False})
    return play(config, tmp_path_factory.mktemp("runs") / "r").folder


WANTED = {
    "device": "a text",
    "threads": "a whole number",
    "workers": "a whole number",
    "worker_threads": "a whole number",
    "clients_at_once": "a whole number",
    "clients_per_round": "a whole number",
    "date": "a text",
    "layers": "a whole number",
    "fan_in_fan_out": "true or false",
    "clients": "an object",
    "ranks": "an object",
    "afforded": "an object",
    "metric": "a text",
    "network": "a text",
    "higher_is_better": "an object",
}


def derived(whole: Path, folder: Path, **changes: Any) -> Path:
    """The run with these entries of resolved.toml; those that are None are gone."""
    changed = Path(shutil.copytree(whole, folder))
    file = changed / "resolved.toml"
    document = {**tomllib.loads(file.read_text()), **changes}
    file.write_text(tomli_w.dumps({k: v for k, v in document.items() if v is not None}))
    return reseal(changed)


def sentence(folder: Path, reason: str) -> str:
    file = folder / "resolved.toml"
    return f"{file} is missing or damaged ({reason}); restore it, or start a new run"


@pytest.mark.parametrize("key", WANTED)
def test_each_derived_entry_of_another_type_is_told_by_name(
    whole: Path, tmp_path: Path, key: str, flexlora: Flexlora
) -> None:
    assert WANTED.keys() == RESOLVED.keys()
    changed = derived(whole, tmp_path / "r", **{key: [1]})
    said = sentence(changed, f"{key} is [1], expected {WANTED[key]}")
    out = tmp_path / "out.html"
    for arguments in (
        ("inspect", changed),
        ("export", changed, "--rank", "2", "--out", out),
        ("report", changed, "--out", out),
        ("resume", changed),
        ("continue", changed, "--set", "federation.rounds=2", "--out", out),
    ):
        done = flexlora(*arguments)
        assert (done.code, done.out, done.err) == (2, "", f"flexlora: {said}\n"), arguments
        assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threads": 0}, "threads is 0, expected 1 or more"),
        ({"layers": -1}, "layers is -1, expected 0 or more"),
        ({"workers": 10**400}, "workers is 1000"),
        ({"clients_per_round": True}, "clients_per_round is True, expected a whole number"),
        ({"date": "soon"}, "date is 'soon', expected a day as 2026-11-28"),
        ({"clients": {"low": "x"}}, "clients.low is 'x', expected a whole number"),
        ({"ranks": {"low": 2}}, "ranks.low is 2, expected a text"),
        ({"higher_is_better": {"loss\x1b": 0}}, r"higher_is_better.loss\x1b is 0, expected true"),
    ],
)
def test_a_derived_value_that_cannot_be_is_told_by_name(
    whole: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    changed = derived(whole, tmp_path / "r", **changes)
    with pytest.raises(RunError, match=re.escape(f"resolved.toml is missing or damaged ({reason}")):
        _ = Run.open(changed).resolved


@pytest.mark.parametrize(
    ("key", "reader", "reason"),
    [
        ("device", lambda folder: Session.resuming(folder).setup, "device is missing"),
        ("threads", lambda folder: Session.resuming(folder).setup, "threads is missing"),
        ("threads", lambda folder: Parent.open(folder).threads, "threads is missing"),
        (
            "clients_at_once",
            lambda folder: at_once.read(Run.open(folder)),
            "clients_at_once is missing",
        ),
        ("ranks", overview, "ranks is missing"),
        ("metric", lambda folder: Standing(Run.open(folder)), "metric is missing"),
        (
            "higher_is_better",
            lambda folder: Standing(Run.open(folder)),
            "higher_is_better is missing",
        ),
    ],
)
def test_a_derived_entry_that_is_gone_is_told_by_name(
    whole: Path, tmp_path: Path, key: str, reader: Callable[[Path], Any], reason: str
) -> None:
    changed = derived(whole, tmp_path / "r", **{key: None})
    with pytest.raises(RunError) as error:
        reader(changed)
    assert str(error.value) == sentence(changed, reason)


def toml_error(text: str) -> str:
    """In Python's words, which are its own."""
    with pytest.raises(tomllib.TOMLDecodeError) as error:
        tomllib.loads(text)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"x =", f" (it is not TOML: {toml_error('x =')})"),
        (b"\xff", " (it is not UTF-8 text)"),
        (b"x = " + b"[" * 5000, " (it is not TOML: it is nested too deep)"),
        (b"x = 1" + b"0" * 5000, " (it is not TOML: a number has thousands of digits)"),
        (b" " * (LARGEST + 1), " (it has more than 4 MB)"),
        (None, ""),
    ],
)
def test_a_derived_file_that_cannot_be_read_has_one_cure(
    tmp_path: Path, text: bytes | None, reason: str
) -> None:
    run = Run.create(Config(), tmp_path / "r")
    file = run.folder / "resolved.toml"
    file.unlink()
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(RunError) as error:
        _ = run.resolved
    assert str(error.value) == (
        f"{file} is missing or damaged{reason}; restore it, or start a new run"
    )
