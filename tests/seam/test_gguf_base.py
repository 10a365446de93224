"""A federation on a model out of a GGUF file is one on the folder that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from commands import Flexlora, assert_one_sentence, caller
from flexlora.federation import Session, run
from flexlora.formats.peft import load_peft, save_peft
from flexlora.models import AdaptedModel, load_model
from flexlora.runs import load_adapter
from flexlora.runs.run_directory import Run
from gguf_files import llama, write_llama
from same_run import assert_same_run
from small import small, write


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    return caller(monkeypatch, capsys)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEXLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    write_llama(path, llama(), "Q4_1")
    return path


def asked(name: Path, **tables: Mapping[str, Any]) -> Any:
    given = {"federation": {"rounds": 2}, **tables}
    return small(model={"name": str(name), "dtype": "bfloat16"}, **given)


def test_a_run_is_that_on_the_folder_bit_for_bit(file: Path, tmp_path: Path, cache: Path) -> None:
    one = run(asked(file), tmp_path / "one").folder
    folder = next((cache / "gguf").glob("*-float32"))
    other = run(asked(folder), tmp_path / "other").folder
    assert_same_run(one, other)
    adapter, twin = (load_adapter(x, "full") for x in (one, other))
    assert adapter.base == str(file)
    assert adapter.base_fingerprint == twin.base_fingerprint


def test_workers_find_what_was_unpacked_once(file: Path, tmp_path: Path, cache: Path) -> None:
    one = run(asked(file, run={"workers": 1}), tmp_path / "one").folder
    (unpacked,) = (cache / "gguf").glob("*-float32")
    made = unpacked.stat().st_ino
    two = run(asked(file, run={"workers": 2}), tmp_path / "two").folder
    assert Run.open(two).resolved["workers"] == 2
    assert_same_run(one, two)
    assert [x.stat().st_ino for x in (cache / "gguf").glob("*-float32")] == [made]


def test_it_is_previewed_resumed_continued_exported_and_scored(
    file: Path, tmp_path: Path, cache: Path, flexlora: Flexlora
) -> None:
    config = write(asked(file, evaluation={"on_clients": "off"}), tmp_path / "c.toml")
    done = flexlora("run", config, "--dry-run")
    assert done.code == 0, done
    assert not list((cache / "gguf").glob("*-float32"))
    played, whole = tmp_path / "run", tmp_path / "merged"
    assert flexlora("run", config, "--out", played).code == 0
    scored = ("--dtype", "bfloat16", "--data", "embedded", "--tasks", "1", "--examples", "1")
    longer = ("continue", played, "--set", "federation.rounds=3", "--out", tmp_path / "longer")
    for arguments in (
        ("resume", played),
        longer,
        ("export", played, "--rank", "4", "--out", tmp_path / "adapter"),
        ("export", played, "--rank", "full", "--merged", "--out", whole),
        ("eval", file, "--adapter", tmp_path / "adapter", *scored),
    ):
        done = flexlora(*arguments)
        assert (done.code, done.err) == (0, ""), (arguments, done)
    merged: Any = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    held: Any = load_model(file, "bfloat16").model.float()
    change = {n: f.product().dense() for n, f in load_adapter(played, "full").items()}
    name = next(iter(change))
    weight, was = (x.get_submodule(name).weight.detach().double() for x in (merged, held))
    wanted = was + change[name]
    assert float((weight - wanted).norm() / wanted.norm()) < 2**-8


def test_peft_loads_what_was_learned_on_the_folder_that_one_writes(
    file: Path, tmp_path: Path
) -> None:
    """As the guide says: the model saved, and the adapter on it."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    played = run(asked(file, evaluation={"unseen": False}), tmp_path / "run").folder
    save_peft(load_adapter(played, 4), tmp_path / "adapter")
    assert load_peft(tmp_path / "adapter").base == str(file)
    base = load_model(file)
    model: Any = base.model
    model.save_pretrained(tmp_path / "my-model")
    base.tokenizer.save_pretrained(tmp_path / "my-model")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "my-model")
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        plain = saved(ids).logits
        theirs = peft.PeftModel.from_pretrained(saved, tmp_path / "adapter")(ids).logits
        ours = AdaptedModel(load_model(file), tuple(load_adapter(played, 4)))
        products = load_adapter(played, 4).items()
        ours.set_delta({name: factors.product() for name, factors in products})
        wanted = ours(ids).logits
    assert torch.equal(plain, model(ids).logits)
    assert not torch.allclose(plain, wanted, rtol=1e-3)
    assert float((theirs - wanted).norm() / wanted.norm()) < 1e-5


def test_an_adapter_of_another_file_is_refused(
    file: Path, tmp_path: Path, flexlora: Flexlora
) -> None:
    """Fingerprints tell, whatever the files are called."""
    run(asked(file, evaluation={"unseen": False}), tmp_path / "run")
    assert flexlora("export", tmp_path / "run", "--rank", "2", "--out", tmp_path / "a").code == 0
    write_llama(file, llama(initializer_range=0.1), "Q4_1")
    arguments = ("eval", file, "--dtype", "bfloat16", "--data", "embedded")
    done = flexlora(*arguments, "--adapter", tmp_path / "a")
    assert_one_sentence(done, "with weights", "some.gguf")


def test_every_door_refuses_in_one_sentence(
    file: Path, tmp_path: Path, cache: Path, flexlora: Flexlora
) -> None:
    file.write_bytes(file.read_bytes()[:3000])
    config = write(asked(file), tmp_path / "c.toml")
    for arguments in (
        ("run", config, "--out", tmp_path / "run"),
        ("run", config, "--dry-run"),
        ("eval", file, "--data", "embedded"),
    ):
        assert_one_sentence(flexlora(*arguments), "some.gguf is truncated", "copy it again")
    assert not (tmp_path / "run").exists()
    assert not cache.exists()


def test_the_extra_is_asked_for_before_anything_is_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexlora.extras.find_spec", lambda _: None)
    with pytest.raises(Exception, match=r"model.name is .*some.gguf, a GGUF file, but gguf and"):
        Session.of(asked(file))
