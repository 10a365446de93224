"""What cannot be merged: each refused by one sentence, before or while writing, nothing left."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.errors import AdapterError, ConfigError, InputError, RankError, RunError
from flexlora.formats.atomic import Taken
from flexlora.merging import merge
from flexlora.merging.inputs import checked_weights
from peft_folders import PREFIX, add, config_of, edit, pair, stored, write_folder
from reference import gaussian
from wrong_input import contents

Q = "layers.0.q_proj"
KEY = f"{PREFIX}{Q}."


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [
        write_folder(tmp_path / name, pair(Q, 8, 6, 3, seed), r=3, base_model_name_or_path="org/m")
        for seed, name in enumerate("ab")
    ]


def refused(tmp_path: Path, kind: type[InputError], adapters: list[Path], **options: Any) -> str:
    """The message of a merge that must fail and leave nothing behind."""
    before = contents(tmp_path)
    given = {"rank": 2} | options
    with pytest.raises(kind) as caught:
        merge(adapters, tmp_path / "out", **given)
    assert contents(tmp_path) == before
    assert type(caught.value) is kind
    return str(caught.value)


OPTIONS: list[tuple[dict[str, Any], type[InputError], str]] = [
    ({"weights": [1.0]}, ConfigError, "1 weights for 2 adapters; give one weight for each"),
    ({"weights": []}, ConfigError, "0 weights for 2 adapters"),
    ({"weights": ["1", 1.0]}, ConfigError, "weight '1' is no number; give numbers such as 0.5"),
    ({"weights": [True, 1.0]}, ConfigError, "weight True is no number"),
    ({"weights": 1.0}, ConfigError, "weights are 1.0; give a list with one number for each"),
    ({"weights": "12"}, ConfigError, "weights are '12'; give a list"),
    ({"weights": [1.0, math.nan]}, ConfigError, "weight nan is not finite"),
    ({"weights": [-math.inf, 1.0]}, ConfigError, "weight -inf is not finite; give numbers such"),
    ({"weights": [0.0, -0.0]}, ConfigError, "all weights are 0, so nothing would be left"),
    ({"energy": 0.9}, ConfigError, "give just one of rank and energy"),
    ({"rank": 0}, RankError, "rank is 0; give a whole number of 1 or more, or 'full'"),
    ({"rank": -3}, RankError, "rank is -3"),
    ({"rank": 2.0}, RankError, "rank is 2.0"),
    ({"rank": True}, RankError, "rank is True"),
    ({"rank": "all"}, RankError, "rank is all; give a whole number"),
    ({"rank": None, "energy": 0.0}, ConfigError, "energy is 0.0; give a share above 0 and at most"),
    ({"rank": None, "energy": 1.0001}, ConfigError, "energy is 1.0001"),
    ({"rank": None, "energy": "0.9"}, ConfigError, "energy is '0.9'; give a share above 0"),
    ({"rank": None, "energy": True}, ConfigError, "energy is True"),
    ({"rank": None, "energy": math.nan}, ConfigError, "energy is nan"),
    ({"dtype": "int8"}, ConfigError, "dtype is int8; give one of float32, bfloat16, float16"),
    ({"split": "right"}, ConfigError, "split is right; give left or balanced"),
]


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS)
def test_options_that_make_no_sense(
    tmp_path: Path, two: list[Path], options: Any, kind: type[InputError], message: str
) -> None:
    assert message in refused(tmp_path, kind, two, **options)


def test_no_adapter_at_all(tmp_path: Path) -> None:
    assert "no adapter to merge; name at least one" in refused(tmp_path, ConfigError, [])


def test_weights_are_one_each() -> None:
    assert checked_weights(4, None) == (0.25,) * 4
    assert checked_weights(3, [1, 0, -2]) == (1.0, 0.0, -2.0)


def test_what_is_there_is_not_written_over(tmp_path: Path, two: list[Path]) -> None:
    (tmp_path / "out").mkdir()
    assert "out exists; choose another path or remove it" in refused(tmp_path, Taken, two)
    before = contents(tmp_path)
    with pytest.raises(RunError, match="exists"):
        merge(two, two[0], rank=2)
    assert contents(tmp_path) == before


def dora(folder: Path) -> None:
    add(folder, **{f"{KEY}lora_magnitude_vector": torch.ones(8)})


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut_short(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def huge_header(folder: Path) -> None:
    """A header of 2⁶⁰ bytes is refused before any of it is read."""
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes((2**60).to_bytes(8, "little") + weights.read_bytes()[8:])


def huge_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_bytes(b" " * ((1 << 24) + 1))


def deep_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[" * 10 * sys.getrecursionlimit())


def two_adapters(folder: Path) -> None:
    add(folder, **{f"{KEY}lora_A.other.weight": torch.ones(3, 6)})


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "DoRA by its config": (lambda p: edit(p, use_dora=True), "holds DoRA (use_dora)"),
    "DoRA by its tensors": (dora, "holds DoRA (tensor 'base_model.model"),
    "LoRA bias": (lambda p: edit(p, lora_bias=True), "holds LoRA biases (lora_bias)"),
    "a bias of LoRA": (
        lambda p: add(p, **{f"{KEY}lora_B.bias": torch.ones(8)}),
        "holds trained biases (tensor",
    ),
    "trained biases": (lambda p: edit(p, bias="all"), "holds trained biases (bias = 'all')"),
    "KaSA": (lambda p: edit(p, kasa_config={"beta": 1e-4}), "holds KaSA (kasa_config)"),
    "MonteCLoRA": (lambda p: edit(p, monteclora_config={"n": 1}), "holds MonteCLoRA"),
    "QALoRA": (lambda p: edit(p, use_qalora=True), "holds QALoRA"),
    "block-diagonal": (lambda p: edit(p, use_bdlora={"n": 2}), "holds block-diagonal LoRA"),
    "Arrow": (lambda p: edit(p, arrow_config={"top_k": 1}), "holds Arrow routing"),
    "activated LoRA": (lambda p: edit(p, alora_invocation_tokens=[1]), "holds activated LoRA"),
    "trained tokens": (lambda p: edit(p, trainable_token_indices=[1]), "holds trained tokens"),
    "replicated layers": (lambda p: edit(p, layer_replication=[[0, 1]]), "holds replicated layers"),
    "PiSSA": (
        lambda p: edit(p, init_lora_weights="pissa"),
        "initialised by 'pissa', which changes",
    ),
    "another method": (lambda p: edit(p, peft_type="IA3"), "is a PEFT adapter of type 'IA3'"),
    "pickle": (pickled, "holds only pickled weights (adapter_model.bin), which can run code"),
    "truncated": (cut_short, "adapter_model.safetensors is truncated or no safetensors file"),
    "a header that lies": (huge_header, "is truncated or no safetensors file"),
    "a config too large": (huge_config, "adapter_config.json has more than 16 MB"),
    "a config too deep": (deep_config, "adapter_config.json is not readable JSON"),
    "half of a pair": (
        lambda p: add(p, **{f"{KEY}lora_B.weight": None}),
        f"layer {Q} in {{}} has no B (lora_B, lora_up); save the adapter again",
    ),
    "NaN": (
        lambda p: add(p, **{f"{KEY}lora_A.weight": torch.full((3, 6), math.nan)}),
        f"{{}}: layer {Q} of the adapter holds NaN or infinity",
    ),
    "infinity": (
        lambda p: add(p, **{f"{KEY}lora_B.weight": torch.full((8, 3), -math.inf)}),
        f"{{}}: layer {Q} of the adapter holds NaN or infinity",
    ),
    "several adapters": (two_adapters, f"holds layer {Q} twice; save one adapter only"),
    "another rank than it says": (lambda p: edit(p, r=4), f"layer {Q} in {{}} has rank 3, but"),
    "no α": (lambda p: edit(p, lora_alpha="x"), f"has lora_alpha 'x' for layer {Q}"),
    "another name for modules": (
        lambda p: edit(p, modules_to_save="lm_head"),
        "has modules_to_save 'lm_head'; make it a list of names",
    ),
    "a foreign tensor": (
        lambda p: add(p, **{f"{PREFIX}score.weight": torch.ones(2)}),
        "holds tensor 'base_model.model.score.weight', which is no plain LoRA pair",
    ),
    "a foreign method": (
        lambda p: add(p, **{f"{PREFIX}score.hada_w1_a": torch.ones(2)}),
        "holds LoHa (tensor 'base_model.model.score.hada_w1_a'), which is no plain LoRA pair",
    ),
    "a foreign tensor of a hostile name": (
        lambda p: add(p, **{f"{PREFIX}\x1b[2J{'x' * 400}": torch.ones(2)}),
        f"holds tensor '{PREFIX}\\x1b[2J{'x' * 34}…, which is no plain LoRA pair",
    ),
    "whole numbers": (
        lambda p: add(p, **{f"{KEY}lora_B.weight": torch.ones(8, 3, dtype=torch.int32)}),
        "is stored as F32 and I32; save it as floats",
    ),
    "nothing": (
        lambda p: add(p, **{f"{KEY}lora_{x}.weight": None for x in "AB"}),
        "holds no LoRA tensors",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_that_is_no_plain_lora(
    tmp_path: Path, two: list[Path], name: str, place: int, alone: bool
) -> None:
    """Also alone and at full rank, where nothing would have to be summed."""
    spoil, message = FOLDERS[name]
    spoil(two[place])
    given = [two[place]] if alone else two
    options = {"rank": "full" if alone else 2}
    assert message.format(two[place]) in refused(tmp_path, AdapterError, given, **options)


def test_folders_that_are_not_there(tmp_path: Path, two: list[Path]) -> None:
    gone = tmp_path / "gone"
    message = refused(tmp_path, AdapterError, [two[0], gone])
    assert message == f"{gone} is not a folder; give a PEFT adapter folder"
    (two[1] / "adapter_config.json").unlink()
    assert "b has no adapter_config.json; give a folder that" in refused(
        tmp_path, AdapterError, two
    )


BASES = "give adapters of one base model, or force the merge (--force) if they are"


def test_another_base_model(tmp_path: Path, two: list[Path]) -> None:
    edit(two[1], base_model_name_or_path="org/other")
    message = refused(tmp_path, AdapterError, two)
    assert message == f"{two[0]} was made for org/m, {two[1]} for org/other; {BASES}"


@pytest.mark.parametrize("name", ["org/m", "org/copy"])
def test_other_weights_of_the_base_model_whatever_its_name(
    tmp_path: Path, two: list[Path], name: str
) -> None:
    edit(two[1], base_model_name_or_path=name)
    for folder, digest in zip(two, ("aa", "bb"), strict=True):
        note = {"ranks": {}, "scales": {}, "base_fingerprint": f"float32:{digest}"}
        (folder / "flexlora.json").write_text(json.dumps(note))
    message = refused(tmp_path, AdapterError, two)
    assert message == f"{two[0]} and {two[1]} were made for different weights of org/m; {BASES}"
    assert merge(two, tmp_path / "out", rank=2, force=True).layers


def test_the_third_adapter_is_held_to_each_of_the_others(tmp_path: Path, two: list[Path]) -> None:
    """The first names no base, so that only the other two can tell."""
    edit(two[0], base_model_name_or_path=None)
    third = write_folder(tmp_path / "c", pair(Q, 8, 6, 2), r=2, base_model_name_or_path="org/other")
    message = refused(tmp_path, AdapterError, [*two, third])
    assert f"{two[1]} was made for org/m, {third} for org/other" in message


SHAPES: list[tuple[dict[str, torch.Tensor], str]] = [
    (pair(Q, 8, 7, 3), "is linear 8 × 6 in {}, linear 8 × 7 in {}; they are of different models"),
    (pair(Q, 6, 8, 3), "is linear 8 × 6 in {}, linear 6 × 8 in {}"),
    (
        {f"{Q}.lora_embedding_A": gaussian(3, 6), f"{Q}.lora_embedding_B": gaussian(8, 3)},
        "is linear 8 × 6 in {}, embedding 8 × 6 in {}",
    ),
    (
        {
            f"{Q}.lora_A.weight": gaussian(3, 2, 3),
            f"{Q}.lora_B.weight": gaussian(8, 3, 1),
        },
        "is linear 8 × 6 in {}, convolution 8 × 2 × 3 in {}",
    ),
]


@pytest.mark.parametrize(("tensors", "message"), SHAPES)
@pytest.mark.parametrize("force", [False, True])
def test_another_shape_of_a_layer_even_when_forced(
    tmp_path: Path, two: list[Path], tensors: dict[str, torch.Tensor], message: str, force: bool
) -> None:
    other = write_folder(tmp_path / "c", tensors, r=3)
    told = refused(tmp_path, AdapterError, [two[0], other], force=force)
    assert f"layer {Q} " + message.format(two[0], other) in told


def test_convolutions_of_one_size_and_another_window(tmp_path: Path) -> None:
    """2 × 6 and 6 × 2 are 12 inputs each: the matrices alone would not tell."""
    folders = []
    for name, window in (("a", (2, 3)), ("b", (3, 2))):
        tensors = {
            "conv.lora_A.weight": gaussian(2, 2, *window),
            "conv.lora_B.weight": gaussian(4, 2, 1, 1),
        }
        folders.append(write_folder(tmp_path / name, tensors, r=2))
    message = refused(tmp_path, AdapterError, folders)
    assert "convolution 4 × 2 × 2 × 3 in" in message
    assert "convolution 4 × 2 × 3 × 2 in" in message


def test_grouped_convolutions_by_name(tmp_path: Path) -> None:
    tensors = {
        "conv.lora_A.weight": gaussian(4, 6, 3, 3),
        "conv.lora_B.weight": gaussian(6, 2, 1, 1),
    }
    folder = write_folder(tmp_path / "a", tensors, r=4)
    message = refused(tmp_path, AdapterError, [folder])
    assert "LoRA on a grouped convolution, whose update is no product of two matrices" in message


def test_weights_kept_in_another_orientation(tmp_path: Path, two: list[Path]) -> None:
    edit(two[1], fan_in_fan_out=True)
    message = refused(tmp_path, AdapterError, two)
    assert f"fan_in_fan_out is on in {two[1]} and off in {two[0]}; correct" in message


def renamed(folder: Path, before: str, after: str) -> Path:
    """The folder with `before` in its keys replaced."""
    tensors = dict.fromkeys(stored(folder))
    changed = {key.replace(before, after): x for key, x in stored(folder).items()}
    return add(folder, **(tensors | changed))


def test_adapters_that_share_no_layer(tmp_path: Path, two: list[Path]) -> None:
    """Another nesting of the same model; side by side they would be half an adapter each."""
    other = renamed(two[1], "layers", "language_model.layers")
    message = refused(tmp_path, AdapterError, two)
    assert message == (
        f"{two[0]} and {other} share no layer: the first has '{Q}', the second "
        f"'language_model.{Q}'; give adapters of one model whose layers have the same names, or "
        "force the merge (--force) if these are different layers"
    )
    assert len(merge(two, tmp_path / "out", rank=2, force=True).layers) == 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_of_three_that_shares_no_layer(tmp_path: Path, two: list[Path], place: int) -> None:
    other = write_folder(tmp_path / "c", pair("x", 8, 6, 2), r=2, base_model_name_or_path="org/m")
    given = [*two[:place], other, *two[place:]]
    message = refused(tmp_path, AdapterError, given)
    assert message.startswith(f"{other} and {given[place - 1 if place else 1]} share no layer")


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "base_model.model."])
def test_known_wrappers_are_taken_off(tmp_path: Path, two: list[Path], wrapper: str) -> None:
    plain = merge(two, tmp_path / "plain", rank="full")
    renamed(two[1], PREFIX, wrapper + PREFIX)
    merged = merge(two, tmp_path / "out", rank="full")
    assert merged.layers == plain.layers
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "plain")


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


HEAD = f"{PREFIX}lm_head.weight"


@pytest.mark.parametrize("modules", [["lm_head"], None])
def test_modules_that_are_equal_are_carried_over(
    tmp_path: Path, two: list[Path], modules: list[str] | None
) -> None:
    """Without a name in the config it is a head that PEFT saved after a vocabulary was resized."""
    for folder in two:
        edit(add(folder, **{HEAD: gaussian(4, 3)}), modules_to_save=modules)
    merge(two, tmp_path / "out", rank=2)
    assert torch.equal(stored(tmp_path / "out")[HEAD], gaussian(4, 3))
    assert config_of(tmp_path / "out").get("modules_to_save") == modules


def test_embeddings_that_differ_are_refused_with_how_to_leave_them_out(
    tmp_path: Path, two: list[Path]
) -> None:
    for seed, folder in enumerate(two):
        add(folder, **{HEAD: gaussian(4, 3, seed=seed)})
    message = refused(tmp_path, AdapterError, two)
    assert f"{HEAD} differs between {two[0]} and {two[1]}; modules saved whole cannot" in message
    assert "save_pretrained(…, save_embedding_layers=False)" in message


def test_modules_saved_whole_that_differ(tmp_path: Path, two: list[Path]) -> None:
    for folder in two:
        edit(add(folder, **{HEAD: gaussian(4, 3)}), modules_to_save=["lm_head"])
    changed = gaussian(4, 3)
    changed[3, 2] += 1e-6
    add(two[1], **{HEAD: changed})
    message = refused(tmp_path, AdapterError, two, force=True)
    assert f"{HEAD} differs between {two[0]} and {two[1]}; modules saved whole cannot be" in message


@pytest.mark.parametrize("order", [1, -1])
def test_modules_saved_whole_in_one_adapter_alone(
    tmp_path: Path, two: list[Path], order: int
) -> None:
    edit(add(two[1], **{HEAD: gaussian(4, 3)}), modules_to_save=["lm_head"])
    message = refused(tmp_path, AdapterError, two[::order])
    assert f"{two[1]} holds {HEAD}, which {two[0]} lacks; modules saved whole" in message


def test_what_a_dtype_cannot_hold(tmp_path: Path, two: list[Path]) -> None:
    message = refused(tmp_path, AdapterError, two, weights=[1e5, 1e5], dtype="float16")
    assert f"layer {Q} of {tmp_path / 'out'} would hold " in message
    cure = "float16 holds 65504 at most; write it as bfloat16 or float32, or give smaller weights"
    assert cure in message
    message = refused(tmp_path, AdapterError, two, weights=[1e39, 1e39])
    assert message == f"layer {Q} becomes infinite when weighted and summed; give smaller weights"
    assert merge(two, tmp_path / "out", weights=[1e5, 1e5], rank=2, dtype="bfloat16").layers
