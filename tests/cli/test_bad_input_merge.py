"""Merges that cannot be: one sentence, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from commands import Flexlora, assert_one_sentence
from peft_folders import PREFIX, add, edit, pair, write_folder
from wrong_input import Arguments, Cases

Q = "layers.0.q_proj"


@dataclass(frozen=True)
class Place:
    """An empty folder in which two sound adapters are made, to be spoilt."""

    folder: Path

    def adapters(self, m: int = 8) -> list[Path]:
        base = "org/m"
        return [
            write_folder(
                self.folder / name, pair(Q, rows, 6, 2, seed), r=2, base_model_name_or_path=base
            )
            for seed, (name, rows) in enumerate((("a", 8), ("b", m)))
        ]

    def merge(self, *flags: object) -> Arguments:
        """`flexlora merge` of both."""
        return ["merge", *self.adapters(), "--out", self.folder / "out", *flags]

    def spoilt(self, spoil: Callable[[Path], object], *flags: object) -> Arguments:
        """The second is spoilt first."""
        arguments = self.merge("--rank", 2, *flags)
        spoil(self.folder / "b")
        return arguments


CASES: Cases[Place] = Cases()
case = CASES.add


# --- options -------------------------------------------------------------------------------------

case("rank and energy", "give just one of --rank and --energy")(
    lambda p: p.merge("--rank", 2, "--energy", 0.9)
)
case("rank 0", "rank is 0; give a whole number of 1 or more, or 'full'")(
    lambda p: p.merge("--rank", 0)
)
case("rank below 0", "rank is -4; give a whole number")(lambda p: p.merge("--rank=-4"))
case("half a rank", "--rank 2.5 is no whole number; give 1 or more, or 'full'")(
    lambda p: p.merge("--rank", 2.5)
)
case("rank in words", "--rank Full is no whole number")(lambda p: p.merge("--rank", "Full"))
case("no rank", "--rank  is no whole number")(lambda p: p.merge("--rank", ""))
case("energy in percent", "energy is 99.9; give a share above 0 and at most 1, like 0.999")(
    lambda p: p.merge("--energy", 99.9)
)
case("energy 0", "energy is 0.0; give a share")(lambda p: p.merge("--energy", 0))
case("energy nan", "energy is nan; give a share")(lambda p: p.merge("--energy", "nan"))
case("fewer weights", "1 weights for 2 adapters; give one weight for each")(
    lambda p: p.merge("--rank", 2, "--weights", "1")
)
case("weights in words", "--weights 1,much is no list of numbers; write it like 0.5,0.3,0.2")(
    lambda p: p.merge("--rank", 2, "--weights", "1,much")
)
case("weights with spaces between", "--weights 1 2 is no list of numbers; write it like 0.5")(
    lambda p: p.merge("--rank", 2, "--weights", "1 2")
)
case("a weight missing", "--weights 1, is no list of numbers")(
    lambda p: p.merge("--rank", 2, "--weights", "1,")
)
case("no weights", "--weights  is no list of numbers")(
    lambda p: p.merge("--rank", 2, "--weights", "")
)
case("an infinite weight", "weight inf is not finite; give numbers such as 0.5 or -1")(
    lambda p: p.merge("--rank", 2, "--weights", "1,inf")
)
case("weights of nothing", "all weights are 0, so nothing would be left; give one that is not")(
    lambda p: p.merge("--rank", 2, "--weights", "0,0")
)
case("weights too large", f"layer {Q} becomes infinite when weighted and summed; give smaller")(
    lambda p: p.merge("--rank", 2, "--weights", "1e39,1e39")
)
case("a dtype too small", f"layer {Q} of", "float16 holds 65504 at most; write it as bfloat16 or")(
    lambda p: p.merge("--rank", 2, "--weights", "1e5,1e5", "--dtype", "float16")
)
case("an unknown dtype", "dtype is float64; give one of float32, bfloat16, float16")(
    lambda p: p.merge("--rank", 2, "--dtype", "float64")
)
case("an unknown split", "--split is right; give left or balanced")(
    lambda p: p.merge("--rank", 2, "--split", "right")
)
case("into what exists", "b exists; choose another --out or remove it")(
    lambda p: ["merge", *p.adapters(), "--rank", 2, "--out", p.folder / "b"]
)
case("into an input", "a exists; choose another --out or remove it")(
    lambda p: ["merge", p.adapters()[0], "--rank", "full", "--out", p.folder / "a"]
)

# --- starts --------------------------------------------------------------------------------------


def with_start(place: Place, initial: str, init: object = "pissa") -> Arguments:
    """A merge of both of which the first began from the second. {}: their folder."""
    one, _ = place.adapters()
    edit(one, init_lora_weights=init)
    given = initial.format(place.folder)
    return ["merge", one, "--initial", given, "--out", place.folder / "out"]


case(
    "no start", "was initialised by 'pissa', which changes the base model; merge it with the PEFT"
)(lambda p: p.spoilt(lambda b: edit(b, init_lora_weights="pissa")))
case(
    "a start of none", "--initial b=a is not ADAPTER=START of an adapter that is merged; write it"
)(lambda p: with_start(p, "b=a"))
case("a start alone", "is not ADAPTER=START of an adapter that is merged")(
    lambda p: with_start(p, "{}/b")
)
case("no start behind the sign", "is not ADAPTER=START of an adapter")(
    lambda p: with_start(p, "{}/a=")
)
case("a start that is missing", "gone does not exist; give a PEFT folder")(
    lambda p: with_start(p, "{0}/a={0}/gone")
)
case("two starts", "--initial gives ", "a twice; give each adapter one start")(
    lambda p: [*with_start(p, "{0}/a={0}/b"), "--initial", f"{p.folder}/a={p.folder}/b"]
)
case("its own start", "a is given as its own start; give the adapter as it was before")(
    lambda p: with_start(p, "{0}/a={0}/a")
)
case(
    "a start of other shapes", "did not begin from", f"layer {Q} has linear A (2, 6) and B (8, 2)"
)(lambda p: p.merge("--initial", f"{p.folder}/a={write_other(p.folder)}"))
case("LoftQ", "was initialised by 'loftq', which puts a quantised model in place of the base: no")(
    lambda p: with_start(p, "{0}/a={0}/b", "loftq")
)


def write_other(folder: Path) -> Path:
    return write_folder(folder / "c", pair(Q, 9, 6, 2), r=2)


# --- folders -------------------------------------------------------------------------------------

case(
    "no whole number of experts",
    "b has lora_A and lora_B of shapes (2, 6) and (8, 2), which hold no",
)(lambda p: p.spoilt(lambda b: edit(b, r=4, target_parameters=["q_proj.weight"])))
case("a layer here and a parameter there", "share no layer: the first has 'layers.0.q_proj', the")(
    lambda p: p.spoilt(lambda b: edit(b, target_parameters=["q_proj.weight"]))
)
case("parameters for vLLM", "is LoRA on a parameter, which vLLM does not serve; leave that layer")(
    lambda p: [
        *("merge", edit(p.adapters()[0], target_parameters=["w"]), "--serve", "vllm"),
        *("--out", p.folder / "out"),
    ]
)
case("a folder that is missing", "gone does not exist; give a PEFT folder")(
    lambda p: [*p.merge("--rank", 2), p.folder / "gone"]
)
case("no adapter", "has no adapter_config.json; give a folder that save_pretrained wrote")(
    lambda p: ["merge", p.folder, "--rank", 2, "--out", p.folder / "out"]
)
case("a file of a folder", "is the weights of a PEFT folder", "give the folder")(
    lambda p: [*p.merge("--rank", 2), p.folder / "a" / "adapter_model.safetensors"]
)
case(
    "another base",
    "b for org/other; give adapters of one base model, or force the merge (--force) if they are",
)(lambda p: p.spoilt(lambda b: edit(b, base_model_name_or_path="org/other")))
case(
    "layers of other shapes", f"layer {Q} is linear 8 × 6 in", "linear 9 × 6 in", "of different m"
)(lambda p: ["merge", *p.adapters(9), "--rank", 2, "--force", "--out", p.folder / "out"])
case("another kind of adapter", "b is a PEFT adapter of type 'IA3'; only LORA can be read")(
    lambda p: p.spoilt(lambda b: edit(b, peft_type="IA3"))
)
case("DoRA", "b holds DoRA (use_dora), which is no plain LoRA pair; train or save it as plain")(
    lambda p: p.spoilt(lambda b: edit(b, use_dora=True), "--force")
)
case("KaSA", "b holds KaSA (kasa_config), which is no plain LoRA pair")(
    lambda p: p.spoilt(lambda b: edit(b, kasa_config={"beta": 1.0}), "--force")
)
case("LoRA biases", "b holds LoRA biases (lora_bias), which is no plain LoRA pair")(
    lambda p: p.spoilt(lambda b: edit(b, lora_bias=True))
)
case("modules of one alone", f"b holds {PREFIX}lm_head.weight, which", "a lacks; modules saved")(
    lambda p: p.spoilt(
        lambda b: edit(
            add(b, **{f"{PREFIX}lm_head.weight": torch.ones(2, 2)}), modules_to_save=["lm_head"]
        )
    )
)
case("NaN", f"b: layer {Q} of the adapter holds NaN or infinity; train again with a lower")(
    lambda p: p.spoilt(
        lambda b: add(b, **{f"{PREFIX}{Q}.lora_A.weight": torch.full((2, 6), torch.nan)})
    )
)
case("half of a pair", f"layer {Q} in", "b has no A (lora_A, lora_down); save the adapter again")(
    lambda p: p.spoilt(lambda b: add(b, **{f"{PREFIX}{Q}.lora_A.weight": None}))
)
case("pickle", "b holds only pickled weights (adapter_model.bin), which can run code; save the")(
    lambda p: p.spoilt(lambda b: (b / "adapter_model.safetensors").rename(b / "adapter_model.bin"))
)
case("truncated", "adapter_model.safetensors is truncated or no safetensors file; save the ada")(
    lambda p: p.spoilt(lambda b: (b / "adapter_model.safetensors").write_bytes(bytes(20)))
)
case("a damaged config", "adapter_config.json is not readable JSON; save the adapter again")(
    lambda p: p.spoilt(lambda b: (b / "adapter_config.json").write_bytes(b"\xff{"))
)
case(
    "a damaged note",
    "flexlora.json is damaged (is not a JSON table); remove it, or save",
)(lambda p: p.spoilt(lambda b: (b / "flexlora.json").write_text("[]")))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("json", [False, True])
def test_wrong_merges(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, json: bool
) -> None:
    """The same with --json: what failed prints no object."""
    monkeypatch.chdir(tmp_path)
    flags = ["--json"] if json else []
    done = CASES.assert_refused(name, Place(tmp_path), flexlora, *flags, untouched=[tmp_path])
    assert done.out == ""


@pytest.mark.parametrize("flags", [["--out", "out"], ["a"], ["a", "--out", "out", "--rang", "2"]])
def test_a_command_that_is_not_whole_is_told_how_it_goes(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(flexlora("merge", *flags), "see flexlora merge --help")
    assert list(tmp_path.iterdir()) == []
