"""Wrong input: exit code 2, one sentence (the thing, the value, the cure), and nothing written."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from commands import Flexlora, assert_one_sentence
from flexlora import errors
from flexlora.adapters import Adapter, Factors
from flexlora.formats.peft import save_peft
from flexlora.models import AdaptedModel, load_model
from flexlora.runs.run_directory import Run
from small import small, write
from wrong_input import Arguments, Cases, contents

FEW = ("--tasks", 1, "--examples", 1, "--max-new-tokens", 1, "--max-tokens", 250)

TINY_FOLDER = Path(errors.__file__).parent / "models" / "tiny"


@pytest.fixture(scope="session")
def peft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound adapter for the embedded model."""
    layers = AdaptedModel(load_model("tiny"), ("q_proj",)).layers
    factors = {x.name: Factors(torch.zeros(x.m, 2), torch.ones(2, x.n), 8.0) for x in layers}
    folder = tmp_path_factory.mktemp("peft") / "sound"
    save_peft(Adapter(factors, "tiny"), folder)
    return folder


@dataclass(frozen=True)
class Place:
    """An empty folder, what may be put there, and the output that must not come to be."""

    folder: Path
    peft: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def run(self, *settings: str, **tables: Any) -> Arguments:
        """`flexlora run` with the small config, these tables on top, these settings."""
        config = write(small(**tables), self.folder / "c.toml")
        return self.run_file(config, *settings)

    def run_file(self, config: Path, *settings: str) -> Arguments:
        flags = [flag for setting in settings for flag in ("--set", setting)]
        return ["run", config, "--out", self.out, *flags]

    def text(self, text: str | bytes) -> Arguments:
        path = self.folder / "c.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.run_file(path)

    def data(self, path: Path, **options: Any) -> Arguments:
        source = {"source": "natural_instructions", "path": str(path), **options}
        return self.run(data={"train_tasks": 1, "unseen_tasks": 1, **source})

    def model(self) -> Path:
        """A copy of the embedded model's folder, to be damaged."""
        return Path(shutil.copytree(TINY_FOLDER, self.folder / "model"))

    def adapter(self) -> Path:
        return Path(shutil.copytree(self.peft, self.folder / "adapter"))

    def eval(self, adapter: Path) -> Arguments:
        return ["eval", "tiny", "--data", "embedded", "--adapter", adapter, *FEW]


def official(place: Place, **train: Any) -> Path:
    """Natural Instructions as its repository lays it out: two tasks, one to train, one unseen."""
    folder = place.folder / "ni"
    for split, name in (("train", "task1_a"), ("test", "task2_b")):
        splits = folder / "splits" / "default"
        splits.mkdir(parents=True, exist_ok=True)
        (splits / f"{split}_tasks.txt").write_text(name + "\n")
        instances = [{"id": f"{name}-{i}", "input": f"{i}", "output": ["x"]} for i in range(6)]
        task = {"Definition": ["Say x."], "Categories": ["Saying"], "Instances": instances}
        (folder / "tasks").mkdir(exist_ok=True)
        changed = train if split == "train" else {}
        (folder / "tasks" / f"{name}.json").write_text(json.dumps({**task, **changed}))
    return folder


def parquet(place: Place, table: dict[str, list[Any]] | None = None) -> Path:
    folder = place.folder / "ni"
    folder.mkdir()
    rows = {
        "task": ["t"],
        "src_index": [0],
        "id": ["t-0"],
        "input": ["a"],
        "output": [["b"]],
    }
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table(table or rows), folder / f"{split}.parquet")
    described = {"task": "t", "definition": "Say.", "category": "c"}
    (folder / "tasks.jsonl").write_text(json.dumps(described) + "\n")
    return folder


CASES: Cases[Place] = Cases()
case = CASES.add


# --- config --------------------------------------------------------------------------------------

case("config missing", "none.toml does not exist; check the path")(
    lambda p: p.run_file(p.folder / "none.toml")
)
case("config is a folder", "is no plain file; give a TOML file")(lambda p: p.run_file(p.folder))
case("config truncated", "c.toml is not TOML", "correct that line")(
    lambda p: p.text("[model]\nname = 'ti")
)
case(
    "config with a number without end",
    "c.toml is not TOML: a number has thousands of digits; shorten it",
)(lambda p: p.text(f"[federation]\nrounds = {'9' * 5000}\n"))
case(
    "--set with a number without end",
    "--set federation.rounds=99",
    "a number has thousands of digits; shorten it",
)(lambda p: p.run(f"federation.rounds={'9' * 5000}"))
case(
    "--set nested without end",
    "--set data.prompt=[[",
    "it is nested too deep; tables go one level deep",
)(lambda p: p.run(f"data.prompt={'[' * 5000}"))
case("config is JSON", "is not TOML")(lambda p: p.text('{"model": {}}'))
case("config is binary", "is not UTF-8 text; give a TOML file")(lambda p: p.text(b"\x89PNG\xff"))
case("unknown table", "[trainning]", "did you mean 'training'?")(lambda p: p.text("[trainning]"))
case("unknown key", "federation.round is unknown; did you mean 'rounds'?")(
    lambda p: p.run("federation.round=3")
)
case("wrong type", 'federation.rounds is "three", expected a whole number')(
    lambda p: p.run("federation.rounds=three")
)
case("malformed --set", "--set rounds=3 is not of the form table.key=value")(
    lambda p: p.run("rounds=3")
)
case("more clients than there are", "clients_per_round is 5 but there are 4 clients; lower it")(
    lambda p: p.run("federation.clients_per_round=5")
)
case("unknown rule", "rule.name is 'flexlorra'; did you mean 'flexlora'?")(
    lambda p: p.run("rule.name=flexlorra")
)
case("unknown rule option", "rule.gama is not an option of 'hetlora'; did you mean 'gamma'?")(
    lambda p: p.run("rule.name=hetlora", "rule.gama=0.5")
)
case(
    "option of a rule without any", "rule.gamma is not an option of 'fedit'", "or set rule.name to"
)(lambda p: p.run("rule.name=fedit", "rule.gamma=0.5"))
case("rule option of a wrong type", 'rule.gamma is "high", expected a number')(
    lambda p: p.run("rule.name=hetlora", "rule.gamma=high")
)
case("rule option out of range", "rule.gamma is 2, expected a number above 0 and at most 1")(
    lambda p: p.run("rule.name=hetlora", "rule.gamma=2")
)
case("unknown mix", "mix 'unifrom' is unknown; did you mean 'uniform'?")(
    lambda p: p.run("clients.mix=unifrom")
)
case("unknown prompt", "model.prompt is 'alpacca'; did you mean 'alpaca'?")(
    lambda p: p.run("model.prompt=alpacca")
)
case("unknown source", "data.source is 'embeded'; did you mean 'embedded'?")(
    lambda p: p.run("data.source=embeded")
)

# --- data ----------------------------------------------------------------------------------------

case("data folder missing", "gone is no folder; set path to one")(
    lambda p: p.data(p.folder / "gone")
)
case("data folder empty", "holds no Natural Instructions: looked for")(lambda p: p.data(p.folder))
case(
    "embedded tasks have no path",
    "data.path is not an option of 'embedded'",
    "or set data.source to 'jsonl'",
)(lambda p: p.run("data.path=x"))
case("more tasks than there are", "train_tasks is 9999, but there are", "lower train_tasks")(
    lambda p: p.run("data.train_tasks=9999")
)


@case("parquet truncated", "train.parquet is missing, truncated or no parquet file", "copy")
def _(place: Place) -> Arguments:
    path = parquet(place) / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    return place.data(path.parent)


@case("foreign parquet", "train.parquet has no column task", "its columns are a, b")
def _(place: Place) -> Arguments:
    return place.data(parquet(place, {"a": [1], "b": ["x"]}))


@case("parquet with a task that is not described", "tasks.jsonl does not describe task 't'; add")
def _(place: Place) -> Arguments:
    folder = parquet(place)
    (folder / "tasks.jsonl").write_text("")
    return place.data(folder)


@case("a client without examples", "task 'task1_a' has no examples; set min_examples = 1")
def _(place: Place) -> Arguments:
    return place.data(official(place, Instances=[]))


@case("broken JSON", "task1_a.json, line 1: broken JSON")
def _(place: Place) -> Arguments:
    folder = official(place)
    path = folder / "tasks" / "task1_a.json"
    path.write_text(path.read_text()[:-30])
    return place.data(folder)


@case("a prompt longer than allowed", "task 'task1_a', example 'task1_a-", "max_tokens is 250")
def _(place: Place) -> Arguments:
    return place.data(official(place, Definition=["Say x. " * 300]))


case("longer than the context", "max_tokens is 513 but tiny has a context of 512", "lower")(
    lambda p: p.run("data.max_tokens=513")
)
case("no validation examples", "the clients hold no validation examples", "evaluation.every to 0")(
    lambda p: p.run("data.examples_per_task=2")
)
case("no example that fits", "hold no example that fits 9 tokens; raise data.max_tokens")(
    lambda p: p.run("data.max_tokens=9", "data.skip_too_long=true")
)

# --- ranks and targets ---------------------------------------------------------------------------

case("rank 0", "rank 0 for 'all' of client type 'low' is below 1; give")(
    lambda p: p.run("clients.types={low = 0, high = 2}")
)
case("negative rank", "rank -3 for 'mlp' of client type 'low' is below 1")(
    lambda p: p.run("clients.types={low = {mlp = -3, all = 1}, high = 2}")
)
case("rank above min(m, n)", "rank 129 for layer model.layers.0.", "min(m, n) = 128; lower")(
    lambda p: p.run("clients.types={low = 2, high = 129}", "clients.strict=true")
)
case(
    "a rank pattern that matches nothing", "'q_porj' matches no adapted layer; did you mean 'q_pr"
)(lambda p: p.run("clients.types={low = {q_porj = 2, all = 1}, high = 2}"))
case("a layer without a rank", "no rank pattern matches layer", "add a rank for 'all'")(
    lambda p: p.run("clients.types={low = {q_proj = 2}, high = 2}")
)
case("a target that matches nothing", 'target "q_porj" matches no layer of tiny', "did you mean")(
    lambda p: p.run("model.targets=['q_porj']")
)
case("a target that is not linear", 'target "embed_tokens"', "tiny")(
    lambda p: p.run("model.targets=['embed_tokens']")
)

# --- models --------------------------------------------------------------------------------------

case("model folder missing", "model folder", "gone does not exist; give a folder")(
    lambda p: p.run(f"model.name='{p.folder}/gone'")
)
case("model folder empty", "has no config.json; give a folder as save_pretrained writes it")(
    lambda p: p.run(f"model.name='{p.folder}'")
)


@case("model truncated", "weights of model", "cannot be loaded", "copy or convert")
def _(place: Place) -> Arguments:
    weights = place.model() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return place.run(f"model.name='{weights.parent}'")


@case("model foreign", "cannot be loaded", "do not fit config.json")
def _(place: Place) -> Arguments:
    folder = place.model()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    return place.run(f"model.name='{folder}'")


@case("model in pickle only", "pickle files only, which can run code", "safe_serialization")
def _(place: Place) -> Arguments:
    folder = place.model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return place.run(f"model.name='{folder}'")


@case("model without linear layers", "model has no linear layers but its output head; give a")
def _(place: Place) -> Arguments:
    folder = place.model()
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    bare = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, num_hidden_layers=0, **sizes))
    bare.save_pretrained(folder)
    return place.run(f"model.name='{folder}'", "model.targets=['all-linear']")


# --- adapters ------------------------------------------------------------------------------------

case("adapter missing", "gone is not a folder; give a PEFT adapter folder")(
    lambda p: p.eval(p.folder / "gone")
)
case("adapter folder empty", "has no adapter_config.json; give a folder")(
    lambda p: p.eval(p.folder)
)


@case("adapter truncated", "adapter_model.safetensors is truncated", "save the adapter again")
def _(place: Place) -> Arguments:
    weights = place.adapter() / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return place.eval(weights.parent)


@case("adapter with NaN", "layer model.layers.", "holds NaN or infinity; train again")
def _(place: Place) -> Arguments:
    weights = place.adapter() / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, weights)
    return place.eval(weights.parent)


@case(
    "adapter of other shapes", "made for other-model, not for tiny: delta of layer", "expected 128"
)
def _(place: Place) -> Arguments:
    factors = Factors(torch.zeros(6, 2), torch.ones(2, 5), 8.0)
    name = "model.layers.0.self_attn.q_proj"
    save_peft(Adapter({name: factors}, "other-model"), place.folder / "adapter")
    return place.eval(place.folder / "adapter")


@case("adapter of other layers", "made for other-model, not for tiny: target", "matches no layer")
def _(place: Place) -> Arguments:
    factors = Factors(torch.zeros(6, 2), torch.ones(2, 5), 8.0)
    save_peft(Adapter({"transformer.h.0.c_attn": factors}, "other-model"), place.folder / "adapter")
    return place.eval(place.folder / "adapter")


case("eval beyond the context", "max_tokens is 600 but tiny has a context of 512")(
    lambda _: ["eval", "tiny", "--data", "embedded", "--max-tokens", 600]
)
case("eval of data that is missing", "gone is no folder")(
    lambda p: ["eval", "tiny", "--data", p.folder / "gone"]
)

# --- run directories -----------------------------------------------------------------------------

case("resume what is no run", "is no run: it has no config.toml; give a run directory")(
    lambda p: ["resume", p.folder]
)
case("resume what is missing", "gone is no run")(lambda p: ["resume", p.folder / "gone"])
case("export what is no run", "is no run: it has no config.toml; give a run directory")(
    lambda p: ["export", p.folder, "--rank", 2, "--out", p.out]
)


@case("export before the first round", "has no checkpoint yet")
def _(place: Place) -> Arguments:
    Run.create(small(), place.folder / "r")
    return ["export", place.folder / "r", "--rank", 2, "--out", place.out]


@pytest.mark.parametrize("name", CASES)
def test_wrong_input(
    flexlora: Flexlora, tmp_path: Path, peft: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    CASES.assert_refused(name, Place(tmp_path, peft), flexlora, untouched=[tmp_path])


# --- what exists is never touched ----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flexlora.federation import run

    config = small(federation={"rounds": 1}, evaluation={"unseen": False})
    return run(config, tmp_path_factory.mktemp("runs") / "r").folder


def test_an_output_folder_that_exists_stays_as_it_is(
    flexlora: Flexlora, tmp_path: Path, peft: Path, folder: Path
) -> None:
    place = Place(tmp_path, peft)
    place.out.mkdir()
    (place.out / "precious").write_text("x")
    words = f"{place.out} exists; choose another --out or remove it"
    arguments = place.run()
    before = contents(tmp_path)
    assert_one_sentence(flexlora(*arguments), words)
    assert_one_sentence(flexlora("export", folder, "--rank", 2, "--out", place.out), words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("rank", "fragment"),
    [
        ("0", "rank 0 for 'all' is below 1; give a rank of 1 or more"),
        ("-1", "rank -1 for 'all' is below 1"),
        ("--5", "rank '--5' is no whole number"),
        ("²", "rank '²' is no whole number"),
        ("2.5", "rank '2.5' is no whole number; give 1 or more, or 'full'"),
        ("129", "min(m, n) = 128; lower the rank"),
    ],
)
def test_ranks_that_cannot_be_exported(
    flexlora: Flexlora, tmp_path: Path, folder: Path, rank: str, fragment: str
) -> None:
    done = flexlora("export", folder, f"--rank={rank}", "--out", tmp_path / "a")
    assert_one_sentence(done, fragment)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("round", ["7", "soon"])
def test_rounds_that_are_not_kept(
    flexlora: Flexlora, tmp_path: Path, folder: Path, round: str
) -> None:
    arguments = ("--rank", 2, "--round", round, "--out", tmp_path / "a")
    done = flexlora("export", folder, *arguments)
    assert_one_sentence(done, f"has no checkpoint of round {round}; it keeps those of 1")
    assert list(tmp_path.iterdir()) == []
