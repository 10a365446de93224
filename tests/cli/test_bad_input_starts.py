"""Wrong starting points, and what cannot be inspected: one sentence, and nothing written."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from commands import Flexlora
from flexlora.adapters import About, Adapter, Factors
from flexlora.federation import run
from flexlora.formats.peft import save_peft
from flexlora.models import AdaptedModel, load_model
from flexlora.runs.run_directory import Run
from peft_folders import pair, write_folder
from small import small, write
from wrong_input import Arguments, Cases


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapter]:
    """A finished run of one round, and an adapter for the layers that it adapts."""
    config = small(federation={"rounds": 1}, evaluation={"unseen": False})
    folder = run(config, tmp_path_factory.mktemp("runs") / "r").folder
    layers = AdaptedModel(load_model("tiny"), ("q_proj",)).layers
    factors = {x.name: Factors(torch.zeros(x.m, 2), torch.ones(2, x.n), 8.0) for x in layers}
    return folder, Adapter(factors, "tiny")


@dataclass(frozen=True)
class Place:
    """An empty folder, a sound run and a sound adapter to be copied into it and spoilt."""

    folder: Path
    parent: Path
    sound: Adapter

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def start(self, path: Path, *flags: object, **tables: Any) -> Arguments:
        """`flexlora run` from this adapter or run."""
        config = small(model={"init_from": str(path)}, **tables)
        return ["run", write(config, self.folder / "c.toml"), "--out", self.out, *flags]

    def go_on(self, *settings: str) -> Arguments:
        """`flexlora continue` of the sound run."""
        flags = [flag for setting in settings for flag in ("--set", setting)]
        return ["continue", self.parent, "--out", self.out, *flags]

    def eval(self, adapter: Path) -> Arguments:
        few = ("--tasks", 1, "--examples", 1, "--max-new-tokens", 1, "--max-tokens", 250)
        return ["eval", "tiny", "--data", "embedded", "--adapter", adapter, *few]

    def adapter(self, base: str = "tiny", base_fingerprint: str = "") -> Path:
        known = Adapter(dict(self.sound), About(base, base_fingerprint))
        save_peft(known, self.folder / "a")
        return self.folder / "a"

    def layer(self, name: str, m: int, n: int) -> Path:
        """An adapter of this one layer."""
        one = {name: Factors(torch.zeros(m, 1), torch.ones(1, n), 1.0)}
        save_peft(Adapter(one, "tiny"), self.folder / "a")
        return self.folder / "a"

    def run(self) -> Path:
        return Path(shutil.copytree(self.parent, self.folder / "r"))


CASES: Cases[Place] = Cases()
case = CASES.add


# --- model.init_from -----------------------------------------------------------------------------

Q = "model.layers.0.self_attn.q_proj"

case(
    "start missing", "gone does not exist; give a PEFT folder (with adapter_config.json) or a run"
)(lambda p: p.start(p.folder / "gone"))
case("start of neither kind", "is neither an adapter nor a run; give a PEFT folder")(
    lambda p: p.start(p.folder)
)
case("start in a dry run", "gone does not exist; give a PEFT folder")(
    lambda p: p.start(p.folder / "gone", "--dry-run")
)
case(
    "start of other shapes", "init_from = ", f"layer {Q} of the start is 6 × 5, expected 128 × 128"
)(lambda p: p.start(p.layer(Q, 6, 5), "--force"))
case(
    "start of layers that are not adapted",
    "has layers that are not adapted: model.layers.0.mlp.up_proj; add them to model.targets",
)(lambda p: p.start(p.layer("model.layers.0.mlp.up_proj", 344, 128), "--force"))
case(
    "start of parameters", "a holds LoRA on a bare parameter (layer x.experts.w[0], of lora_A (2,"
)(
    lambda p: p.start(
        write_folder(p.folder / "a", pair("x.experts", 6, 5, 4), r=2, target_parameters=["w"])
    )
)
case("start of another base", "made for org/huge, not for tiny; set model.name to that model, or")(
    lambda p: p.start(p.adapter(base="org/huge"))
)
case(
    "start of other weights", "made for tiny with weights ffffffffffff, not for tiny with weights"
)(lambda p: p.start(p.adapter(base_fingerprint="float32:" + "f" * 64)))
case(
    "force without a start", "model.init_force is true but model.init_from is not set; set it, or"
)(lambda p: ["run", write(small(), p.folder / "c.toml"), "--out", p.out, "--force"])
case("an empty start", 'config model.init_from is "", expected text that is not empty')(
    lambda p: [
        *("run", write(small(), p.folder / "c.toml"), "--out", p.out),
        *("--set", "model.init_from=''"),
    ]
)


@case("start from a run without a round", "has no checkpoint yet; go on with: flexlora resume")
def _(place: Place) -> Arguments:
    return place.start(Run.create(small(), place.folder / "r").folder)


@case("start truncated", "adapter_model.safetensors is truncated", "save the adapter again")
def _(place: Place) -> Arguments:
    weights = place.adapter() / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return place.start(weights.parent)


@case("start with NaN", "holds NaN or infinity; train again")
def _(place: Place) -> Arguments:
    weights = place.adapter() / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, weights)
    return place.start(weights.parent)


@case("start in pickle only", "pickled weights (adapter_model.bin), which can run code; save the")
def _(place: Place) -> Arguments:
    folder = place.adapter()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return place.start(folder)


@case(
    "start with a damaged note",
    "flexlora.json is damaged (is not readable JSON); remove it, or",
)
def _(place: Place) -> Arguments:
    folder = place.adapter(base_fingerprint="float32:" + "f" * 64)
    (folder / "flexlora.json").write_text("[")
    return place.start(folder)


# --- eval ----------------------------------------------------------------------------------------

case(
    "eval of another base",
    "made for org/huge, not for tiny; give that model, or force it (--force)",
)(lambda p: p.eval(p.adapter(base="org/huge")))
case("eval of other weights", "made for tiny with weights ffffffffffff, not for tiny with weights")(
    lambda p: p.eval(p.adapter(base_fingerprint="float32:" + "f" * 64))
)

# --- continue ------------------------------------------------------------------------------------

case("continue what is missing", "gone is no run: it has no config.toml; give a run directory")(
    lambda p: ["continue", p.folder / "gone", "--out", p.out]
)
case("continue an adapter", "a is no run: it has no config.toml; give a run directory")(
    lambda p: ["continue", p.adapter(), "--out", p.out]
)
case("continue for no more rounds", "rounds is 1, but", "is at round 1 already; raise it: --set")(
    lambda p: p.go_on()
)
case("continue a round that is not kept", "has no checkpoint of round 7; it keeps those of 1")(
    lambda p: [*p.go_on("federation.rounds=2"), "--round", 7]
)
case("continue with another rule", "rule.name is flora, not flexlora as in", "model.init_from = ")(
    lambda p: p.go_on("federation.rounds=2", "rule.name=flora")
)
case("continue with another α", "training.alpha is 8.0, not 16.0 as in", "model.init_from = ")(
    lambda p: p.go_on("federation.rounds=2", "training.alpha=8.0")
)
case("continue with another scaling", "training.scaling is rslora, not lora as in")(
    lambda p: p.go_on("federation.rounds=2", "training.scaling=rslora")
)
case("continue with other layers", "the adapted layers are not those of", "model.init_from = ")(
    lambda p: p.go_on("federation.rounds=2", "model.targets=['q_proj']")
)
case("continue in another dtype", "the base model tiny is not that of", "model.init_from = ")(
    lambda p: p.go_on("federation.rounds=2", "model.dtype=bfloat16")
)
case(
    "continue from two places", "init_from is x, but a continued run begins from its parent; leave"
)(lambda p: p.go_on("federation.rounds=2", "model.init_from=x"))
case("continue with an unknown key", "federation.round is unknown; did you mean 'rounds'?")(
    lambda p: p.go_on("federation.round=2")
)
case("continue into what exists", "exists; choose another --out or remove it")(
    lambda p: ["continue", p.parent, "--out", p.folder, "--set", "federation.rounds=2"]
)


@case("continue before the first round", "has no checkpoint yet; go on with: flexlora resume")
def _(place: Place) -> Arguments:
    return ["continue", Run.create(small(), place.folder / "r").folder, "--out", place.out]


# --- inspect -------------------------------------------------------------------------------------

case("inspect what is missing", "gone does not exist; give a PEFT folder")(
    lambda p: ["inspect", p.folder / "gone"]
)
case("inspect what is neither", "is neither an adapter nor a run; give a PEFT folder")(
    lambda p: ["inspect", p.folder]
)
case("inspect a file", "c.toml is neither an adapter nor a run")(
    lambda p: ["inspect", write(small(), p.folder / "c.toml")]
)


@case("inspect a damaged run", "metrics.jsonl, line 1 is damaged", "restore it")
def _(place: Place) -> Arguments:
    folder = place.run()
    (folder / "metrics.jsonl").write_text("{\n{}\n")
    return ["inspect", folder]


@case("inspect a damaged adapter", "adapter_config.json is not readable JSON; save the adapter")
def _(place: Place) -> Arguments:
    folder = place.adapter()
    (folder / "adapter_config.json").write_text("{")
    return ["inspect", folder]


@case("inspect another kind of adapter", "is a PEFT adapter of type 'IA3'; only LORA can be read")
def _(place: Place) -> Arguments:
    config = place.adapter() / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "IA3"}))
    return ["inspect", config.parent]


@pytest.mark.parametrize("name", CASES)
def test_wrong_starts(
    flexlora: Flexlora,
    tmp_path: Path,
    sound: tuple[Path, Adapter],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    untouched = [tmp_path, sound[0]]
    CASES.assert_refused(name, Place(tmp_path, *sound), flexlora, untouched=untouched)
