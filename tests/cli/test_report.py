"""`flexlora report`: one page, or one sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from comparing.comparisons import comparison, played
from report.synthetic import synthetic_run
from resealed import reseal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return synthetic_run(tmp_path / "r", rounds=2, clients=4, unseen=2, labels=2, layers=1)


def test_a_page_in_the_run(flexlora: Flexlora, folder: Path) -> None:
    done = flexlora("report", folder)
    assert done.code == 0, done
    assert f"report written to {folder / 'report.html'}" in done.out


def test_a_page_elsewhere(flexlora: Flexlora, folder: Path, tmp_path: Path) -> None:
    assert flexlora("report", folder, "--out", tmp_path / "new" / "p.html").code == 0
    assert (tmp_path / "new" / "p.html").is_file()
    assert not (folder / "report.html").exists()


def test_a_comparison_has_a_page_of_its_own(flexlora: Flexlora, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    played(comparison(rules=["fedit"], seeds=[0]), out)
    done = flexlora("report", out)
    assert done.code == 0, done
    assert f"report written to {out / 'report.html'}" in done.out
    assert "No primary comparison was fixed" in (out / "report.html").read_text()
    cell = out / "cells" / "fedit" / "0"
    assert_one_sentence(flexlora("report", out, cell), "is a comparison", "give it alone")


def test_no_run(flexlora: Flexlora, tmp_path: Path) -> None:
    assert_one_sentence(flexlora("report", tmp_path), str(tmp_path), "give a run directory")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_log(flexlora: Flexlora, folder: Path) -> None:
    log = folder / "metrics.jsonl"
    log.write_bytes(b"{\n" + log.read_bytes())
    assert_one_sentence(flexlora("report", folder), "metrics.jsonl", "line 1 is damaged")
    log.write_bytes(b'{"round": 1, "seconds": 3}\n')
    reseal(folder)
    assert_one_sentence(
        flexlora("report", folder), "metrics.jsonl", "line 1 is damaged (learning_rate is missing)"
    )
    assert not (folder / "report.html").exists()


def test_out_is_a_folder(flexlora: Flexlora, folder: Path) -> None:
    assert_one_sentence(flexlora("report", folder, "--out", folder), "is a folder")


def test_the_extra_is_missing(
    flexlora: Flexlora, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "flexlora.extras.find_spec", lambda name: None if name == "altair" else found(name)
    )
    assert_one_sentence(flexlora("report", folder), "altair", "flexlora[report]")
