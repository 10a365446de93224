"""flexlora export for the place it goes: a dtype, and a whole model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from commands import Flexlora, assert_one_sentence
from flexlora.adapters import Adapter
from flexlora.federation import run
from flexlora.formats.peft import load_peft, save_peft
from flexlora.models import AdaptedModel, load_model
from flexlora.runs import Run, load_adapter
from peft_folders import stored
from small import small
from warm import Warm

CONFIG = small(evaluation={"on_clients": "off", "unseen": False}, federation={"rounds": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(CONFIG, tmp_path_factory.mktemp("runs") / "r").folder


def ours(adapter: Adapter) -> AdaptedModel:
    model = AdaptedModel(load_model("tiny"), tuple(adapter))
    model.set_delta({name: factors.product() for name, factors in adapter.items()})
    return model


def test_a_merged_export_is_a_model_that_needs_nothing_else(
    folder: Path, tmp_path: Path, warm: Warm
) -> None:
    """By a process of its own, at ranks that differ by layer."""
    found = {energy: load_adapter(folder, energy=energy) for energy in (0.7, 0.8, 0.9, 0.95, 0.99)}
    energy = next(key for key, x in found.items() if len(set(x.ranks.values())) > 1)
    adapter = found[energy]
    asked = ["export", str(folder), "--energy", str(energy), "--merged", "--out", "~/m"]
    done = subprocess.run(
        ["flexlora", *asked],
        capture_output=True,
        text=True,
        env={**os.environ, **warm.environment, "HOME": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    out = tmp_path / "m"
    said = " ".join(done.stdout.split())
    assert "inside the weights of tiny written to ~/m, a whole model" in said
    assert "rounding" not in said
    tokens = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        got = AutoModelForCausalLM.from_pretrained(out)(tokens).logits
        wanted = ours(adapter)(tokens).logits
        bare = load_model("tiny").model(tokens).logits
    moved = float((wanted - bare).norm() / wanted.norm())
    assert float((got - wanted).norm() / wanted.norm()) < min(1e-5, moved / 10)


def test_what_rounding_takes_is_said(flexlora: Flexlora, folder: Path, tmp_path: Path) -> None:
    asked = ("export", folder, "--rank", 2, "--merged", "--dtype", "bfloat16")
    done = flexlora(*asked, "--out", tmp_path / "m")
    assert done.code == 0, done
    assert "% of the update" in " ".join(done.out.split())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto")
    assert loaded.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_an_adapter_of_the_dtype_asked_for(
    flexlora: Flexlora, folder: Path, tmp_path: Path, dtype: str
) -> None:
    asked = ("export", folder, "--rank", "full", "--dtype", dtype)
    assert flexlora(*asked, "--out", tmp_path / "a").code == 0
    save_peft(load_adapter(folder, "full"), tmp_path / "python", dtype=dtype)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "python" / name).read_bytes()
    assert {x.dtype for x in stored(tmp_path / "a").values()} == {getattr(torch, dtype)}
    assert load_peft(tmp_path / "a").base == "tiny"


def test_an_adapter_that_changes_nothing_is_said_to(
    flexlora: Flexlora, folder: Path, tmp_path: Path
) -> None:
    """Of a rule whose B stays with the clients."""
    shared = run(small(rule={"name": "fedsa"}, federation={"rounds": 1}), tmp_path / "r").folder
    for place, more in enumerate(([], ["--merged"])):
        asked = ("--rank", "full", *more, "--out", tmp_path / f"{place}")
        said = "it changes nothing: A or B is zero in every layer"
        assert said in " ".join(flexlora("export", shared, *asked).out.split())
    asked = ("--rank", "full", "--out", tmp_path / "some")
    assert "changes nothing" not in flexlora("export", folder, *asked).out


def test_wrong_options_are_told_before_anything_is_loaded(
    flexlora: Flexlora, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("work was done before the options were looked at")

    monkeypatch.setattr("flexlora.runs.load_adapter", loaded)
    monkeypatch.setattr("flexlora.models.merged.load_model", loaded)
    asked = ("export", folder, "--rank", 2, "--out", tmp_path / "o")
    words = "says how an adapter's are written; give just one of them"
    assert_one_sentence(flexlora(*asked, "--merged", "--compact"), f"--compact {words}")
    assert_one_sentence(flexlora(*asked, "--merged", "--serve", "vllm"), f"--serve {words}")
    done = flexlora(*asked, "--merged", "--dtype", "int8")
    assert_one_sentence(done, "dtype is 'int8'; known: bfloat16, float16, float32")
    assert_one_sentence(flexlora(*asked[:-1], tmp_path, "--merged"), "exists; choose another --out")
    assert list(tmp_path.iterdir()) == []


def test_a_base_in_four_bits_is_refused(
    flexlora: Flexlora, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CONFIG.model.model_copy(update={"quantise": "4bit"})
    opened = Run.open(folder)
    quantised = Run(folder, CONFIG.model_copy(update={"model": model}))
    monkeypatch.setattr("flexlora.runs.readout.Run.open", lambda _: quantised)
    assert opened.config.model.quantise == "none"
    done = flexlora("export", folder, "--rank", 2, "--merged", "--out", tmp_path / "o")
    assert_one_sentence(done, "trained on tiny in 4bit", "write the adapter alone")
    assert list(tmp_path.iterdir()) == []
