"""A session's doors: looking ahead costs no weights, and every way to go on ends at one state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import flexlora as package
from commands import Flexlora, caller
from flexlora.errors import ModelError
from flexlora.federation import Session, at_once, continue_run, prepare, run
from flexlora.formats.peft import save_peft
from flexlora.models import base
from flexlora.runs import load_adapter
from flexlora.runs.run_directory import Run
from flexlora.training import CohortSize
from resealed import reseal
from same_run import assert_same_run
from small import small, write

TINY = Path(package.__file__).parent / "models" / "tiny"
SHORT: dict[str, Any] = {"evaluation": {"unseen": False, "on_clients": "off"}}


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    return caller(monkeypatch, capsys)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr(base, "load_weights", never)


# --- looking ahead -------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_weights")
def test_a_preview_is_what_the_setup_says_without_weights() -> None:
    preview = Session.of(small()).preview()
    assert {p.device.type for p in preview.setup.model.model.parameters()} == {"meta"}
    assert preview.parent is None


def test_a_preview_tells_what_a_whole_setup_does() -> None:
    ahead, whole = Session.of(small()).preview(), prepare(small())
    assert ahead.setup.spec == whole.spec
    assert ahead.setup.settings == whole.settings
    assert ahead.setup.census == whole.census
    told = whole.describe()
    assert ahead.setup.describe() == {k: v for k, v in told.items() if k != "model_fingerprint"}


@pytest.mark.usefixtures("no_weights")
def test_a_dry_run_loads_no_weights(flexlora: Flexlora, tmp_path: Path) -> None:
    done = flexlora("run", write(small(), tmp_path / "c.toml"), "--dry-run")
    assert done.code == 0, done.err
    assert "layers of tiny adapted" in done.out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model as a folder of one's own."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


@pytest.mark.usefixtures("no_weights")
def test_weights_of_other_shapes_are_seen_by_their_headers(folder: Path) -> None:
    Session.of(small(model={"name": str(folder)})).preview()
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "q_proj" in name)
    save_file({**weights, name: torch.zeros(3, 5)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{name} is \(3, 5\), expected .* do not fit config"):
        Session.of(small(model={"name": str(folder)})).preview()


@pytest.mark.usefixtures("no_weights")
def test_weights_that_were_cut_short_are_seen_too(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        ModelError, match=r"model\.safetensors is truncated or not safetensors: copy"
    ):
        Session.of(small(model={"name": str(folder)})).preview()


def test_a_start_is_compared_with_the_weights(tmp_path: Path) -> None:
    """An adapter knows the weights it was made for: they are loaded to tell."""
    begun = run(small(**SHORT, federation={"rounds": 1}), tmp_path / "r").folder
    save_peft(load_adapter(begun, 2), tmp_path / "a")
    preview = Session.of(small(model={"init_from": str(tmp_path / "a")})).preview()
    assert preview.parent is not None
    assert preview.parent["kind"] == "adapter"
    assert preview.setup.ground.fingerprint


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["auto", "measured"])
def test_both_doors_continue_at_the_same_bits(
    tmp_path: Path, flexlora: Flexlora, asked: str
) -> None:
    """With as many clients at once as the parent had, whatever would be found now."""
    config = small(**SHORT, run={"clients_at_once": asked}, federation={"rounds": 1})
    parent = run(config, tmp_path / "parent").folder
    resolved = parent / "resolved.toml"
    was = Run.open(parent).resolved["clients_at_once"]
    text = resolved.read_text()
    resolved.write_text(text.replace(f"clients_at_once = {was}\n", "clients_at_once = 3\n"))
    reseal(parent)
    by_python = continue_run(parent, {"federation": {"rounds": 3}}, tmp_path / "python").folder
    out = tmp_path / "command"
    done = flexlora("continue", parent, "--set", "federation.rounds=3", "--out", out)
    assert done.code == 0, done.err
    assert_same_run(out, by_python)
    for folder in (out, by_python):
        made = Run.open(folder)
        assert made.resolved["clients_at_once"] == 3
        assert made.parent == json.loads((by_python / "parent.json").read_text())
        assert made.start_round == 1


def test_a_trial_that_is_asked_for_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(**SHORT, run={"clients_at_once": "auto"}, federation={"rounds": 1})
    parent = run(config, tmp_path / "parent").folder
    monkeypatch.setattr(at_once, "choose_cohort_size", lambda *_, **__: CohortSize(3, ()))
    more: dict[str, Any] = {"federation": {"rounds": 2}, "run": {"clients_at_once": "measured"}}
    made = Run.open(continue_run(parent, more, tmp_path / "r").folder)
    assert made.resolved["clients_at_once"] == 3


def test_a_number_that_is_asked_for_is_not_the_parents(tmp_path: Path) -> None:
    config = small(**SHORT, run={"clients_at_once": 2}, federation={"rounds": 1})
    parent = run(config, tmp_path / "parent").folder
    more = {"federation": {"rounds": 2}, "run": {"clients_at_once": 1}}
    assert (
        Run.open(continue_run(parent, more, tmp_path / "r").folder).resolved["clients_at_once"] == 1
    )
