"""What begins with ~ is looked for at home, by all that open adapters, and told where nobody is."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Flexlora, caller
from comparing.comparisons import comparison
from flexlora.cli.places import require_free as require_place_free
from flexlora.errors import AdapterError, RunError
from flexlora.formats.adapter_formats import open_adapter
from flexlora.formats.atomic import atomic_write, require_free
from flexlora.formats.home import expanded
from flexlora.formats.peft import load_peft, save_peft
from flexlora.merging import merge
from flexlora.runs import Run
from peft_folders import pair, write_folder
from small import small, write

NOBODY = "~nobody_is_called_that/a"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "a", pair("x", 3, 4, 1), r=1)
    return tmp_path


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    return caller(monkeypatch, capsys)


def test_home_is_written_out(home: Path) -> None:
    assert expanded("~/a") == expanded(home / "a") == home / "a"
    assert expanded("a/~") == Path("a/~")
    assert expanded(NOBODY) == Path(NOBODY)


def test_adapters_at_home_are_found(home: Path) -> None:
    with open_adapter("~/a") as reader:
        assert reader.path == home / "a"
    assert load_peft("~/a").ranks == {"x": 1}
    assert merge([Path("~/a"), "~/a"], home / "b").adapters == (home / "a", home / "a")
    assert (home / "b" / "adapter_config.json").is_file()


def test_what_is_made_at_home_lies_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever makes it, and none of them makes a folder called ~."""
    here = home / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    save_peft(load_peft("~/a"), "~/saved")
    assert merge(["~/a"], "~/merged").out == home / "merged"
    run = Run.create(small(), "~/run")
    named = Run.create(small(run={"out": "~/runs", "name": "x"}))
    assert (run.folder, named.folder) == (home / "run", home / "runs" / "x-1")
    atomic_write("~/text", "x")
    made = {"saved", "merged", "run", "runs", "text"}
    assert made <= {path.name for path in home.iterdir()}
    assert list(here.iterdir()) == []
    for taken in (require_free, require_place_free):
        with pytest.raises(RunError, match="~/saved exists"):
            taken(Path("~/saved"))


def test_configs_and_comparisons_at_home_are_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, flexlora: Flexlora
) -> None:
    """A shell writes out no ~ that stands behind "--out=", so that it comes here as it is."""
    here = home / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    asked = comparison(seeds=[0], rules=["flexlora"], part="unseen")
    (home / "c.toml").write_text(asked.to_toml())
    write(small(), home / "run.toml")
    done = flexlora("run", "~/run.toml", "--dry-run")
    assert done.code == 0, done.err
    done = flexlora("compare", "~/c.toml", "--out=~/compared")
    assert done.code == 0, done.err
    assert (home / "compared" / "table.md").is_file()
    done = flexlora("report", "~/compared")
    assert done.code == 0, done.err
    assert list(here.iterdir()) == []


@pytest.mark.usefixtures("home")
def test_where_nobody_lives_no_adapter_is() -> None:
    for work in (open_adapter, load_peft, lambda path: merge([path], "b")):
        with pytest.raises(AdapterError, match="nobody_is_called_that/a is not a folder; give"):
            work(NOBODY)
