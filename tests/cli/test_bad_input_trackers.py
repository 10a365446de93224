"""Wrong input for trackers and output: exit code 2, one sentence, and nothing written."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from small import small, write

MISSING = "run.trackers has {}, but {} is not installed; install the extra flexlora[{}]"
# name → (settings, package that is not there, fragments)
CASES: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "unknown": (
        ("run.trackers=['tensorbord']",),
        "",
        ("run.trackers has 'tensorbord'; did you mean 'tensorboard'?",),
    ),
    "one of two unknown": (
        ("run.trackers=['wandb', 'comet']",),
        "",
        ("'comet'; known: mlflow, tensorboard, trackio, wandb",),
    ),
    "no list": (
        ("run.trackers=tensorboard",),
        "",
        ('config run.trackers is "tensorboard", expected a list',),
    ),
    "wandb without a key": (
        ("run.trackers=['wandb']",),
        "",
        ("wandb, which is online but has no key; run `wandb login`, or set WANDB_MODE=offline",),
    ),
    "no tensorboard": (
        ("run.trackers=['tensorboard']",),
        "tensorboard",
        (MISSING.format("tensorboard", "tensorboard", "tensorboard"),),
    ),
    "no accelerate": (
        ("run.trackers=['trackio']",),
        "accelerate",
        (MISSING.format("trackio", "accelerate", "trackio"),),
    ),
    "no database for mlflow": (
        ("run.trackers=['mlflow']",),
        "sqlalchemy",
        (MISSING.format("mlflow", "sqlalchemy", "mlflow"),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_trackers(
    flexlora: Flexlora,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    settings, missing, fragments = CASES[name]
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Where wandb keeps keys.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "flexlora.extras.find_spec", lambda p: None if p == missing else find_spec(p)
    )
    config = write(small(), tmp_path / "c.toml")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    done = flexlora("run", config, "--out", tmp_path / "out", *flags)
    assert_one_sentence(done, *fragments)
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


@pytest.mark.parametrize("command", [["run", "c.toml"], ["resume", "r"], ["demo"]])
def test_silence_and_json_exclude_each_other(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = flexlora(*command, "--quiet", "--json")
    assert_one_sentence(done, "--quiet and --json exclude each other; give one of them")
    assert list(tmp_path.iterdir()) == []
