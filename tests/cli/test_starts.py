"""Starting points by the command line: an adapter, a run, going on; and GPT-2's export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import flexlora as package
from commands import Flexlora
from flexlora.federation import resume
from flexlora.formats.peft import load_peft, save_peft
from flexlora.runs import load_adapter
from flexlora.runs.run_directory import Run
from small import small, write

TINY_FOLDER = Path(package.__file__).parent / "models" / "tiny"


def done(flexlora: Flexlora, *arguments: object) -> str:
    result = flexlora(*arguments)
    assert result.code == 0, result.err
    return result.out


def test_an_adapter_goes_from_run_to_run(flexlora: Flexlora, tmp_path: Path) -> None:
    """Run, export, start another rule from it, go on with that, look at all of them."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    config = write(small(federation={"rounds": 2}), tmp_path / "c.toml")
    done(flexlora, "run", config, "--out", first)
    done(flexlora, "export", first, "--rank", 3, "--out", tmp_path / "a")
    start = ("--set", f"model.init_from='{tmp_path / 'a'}'", "--set", "rule.name=flora")
    assert "starts from adapter" in done(flexlora, "run", config, *start, "--dry-run")
    assert not second.exists()
    out = done(flexlora, "run", config, *start, "--out", second)
    assert f"starts from adapter {tmp_path / 'a'}" in out
    assert "starting state" in out
    rounds = ("--set", "federation.rounds=3", "--set", "training.learning_rate=0.001")
    out = done(flexlora, "continue", second, "--round", "best", *rounds, "--out", third)
    best = Run.open(second).read_results() or {}
    assert f"goes on from run {second} (flora) after round {best['scored_round']}" in out
    assert "starting state" in out
    config_of = Run.open(third).config
    assert (config_of.federation.rounds, config_of.training.learning_rate) == (3, 0.001)
    assert f"began from run {second} (flora)" in done(flexlora, "inspect", third)
    assert "made for tiny (float32, weights" in done(flexlora, "inspect", tmp_path / "a")
    out = done(flexlora, "run", config, "--set", f"model.init_from='{third}'", "--dry-run")
    assert f"starts from run {third} (flora) after round" in out


def test_force_takes_what_was_made_for_another_base(flexlora: Flexlora, tmp_path: Path) -> None:
    config = write(small(federation={"rounds": 1}), tmp_path / "c.toml")
    done(flexlora, "run", config, "--out", tmp_path / "r")
    save_peft(load_adapter(tmp_path / "r", 2), tmp_path / "a", base_model="org/huge")
    start = ("--set", f"model.init_from='{tmp_path / 'a'}'")
    done(flexlora, "run", config, *start, "--force", "--out", tmp_path / "forced")
    assert Run.open(tmp_path / "forced").config.model.init_force
    (tmp_path / "forced" / "results.json").unlink()
    resume(tmp_path / "forced")
    few = ("--tasks", 1, "--examples", 1, "--max-new-tokens", 1, "--max-tokens", 250)
    scored = ("eval", "tiny", "--data", "embedded", "--adapter", tmp_path / "a", *few)
    assert flexlora(*scored).code == 2
    assert "all" in done(flexlora, *scored, "--force")


def test_an_export_of_gpt2_says_how_its_weights_lie(
    flexlora: Flexlora, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """PEFT warns of a Conv1D whose adapter_config.json does not."""
    import transformers
    from peft import PeftModel

    folder = Path(shutil.copytree(TINY_FOLDER, tmp_path / "gpt2"))
    words = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    shape = transformers.GPT2Config(
        vocab_size=words, n_embd=16, n_layer=1, n_head=2, n_positions=256, bos_token_id=0
    )
    transformers.GPT2LMHeadModel(shape).save_pretrained(folder)
    model = {"name": str(folder), "targets": ["attention"]}
    config = small(
        model=model,
        clients={"types": {"low": 1, "high": 2}},
        federation={"rounds": 1},
        evaluation={"unseen": False},
    )
    done(flexlora, "run", write(config, tmp_path / "c.toml"), "--out", tmp_path / "r")
    done(flexlora, "export", tmp_path / "r", "--rank", 2, "--out", tmp_path / "a")
    adapter = load_peft(tmp_path / "a")
    assert adapter.about.fan_in_fan_out
    # The test sees PEFT's warning where there is one.
    save_peft(adapter, tmp_path / "wrong", fan_in_fan_out=False)
    for name, silent in (("a", True), ("wrong", False)):
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        recwarn.clear()
        PeftModel.from_pretrained(base, tmp_path / name)
        assert ([w for w in recwarn if "peft" in w.filename] == []) == silent
