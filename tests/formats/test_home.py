"""What begins with ~ is looked for at home, by all that open adapters, and told where nobody is."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexlora.errors import AdapterError
from flexlora.formats.adapter_formats import open_adapter
from flexlora.formats.home import expanded
from flexlora.formats.peft import load_peft
from flexlora.merging import merge
from peft_folders import pair, write_folder

NOBODY = "~nobody_is_called_that/a"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "a", pair("x", 3, 4, 1), r=1)
    return tmp_path


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


@pytest.mark.usefixtures("home")
def test_where_nobody_lives_no_adapter_is() -> None:
    for work in (open_adapter, load_peft, lambda path: merge([path], "b")):
        with pytest.raises(AdapterError, match="nobody_is_called_that/a is not a folder; give"):
            work(NOBODY)
