"""Which tensors of a folder are of bare parameters, told without the model; and hostile folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.errors import AdapterError
from flexlora.formats import peft_layers
from flexlora.formats.peft_reader import PeftReader
from flexlora.merging import merge
from peft_folders import pair, stored, write_folder
from reference import gaussian

EXPERTS = "layers.0.mlp.experts"


def names(folder: Path) -> list[str]:
    with PeftReader(folder) as reader:
        return list(reader.layers)


def nested(module: str, *inputs: int, rank: int = 4) -> dict[str, torch.Tensor]:
    """Wrappers from outside in, each of so many inputs."""
    found: dict[str, torch.Tensor] = {}
    for i, n in enumerate(inputs):
        found |= pair(module + i * ".base_layer", 6, n, rank, i)
    return found


CASES: list[tuple[list[str], Any, dict[str, torch.Tensor], list[str]]] = [
    (["experts.w"], [], nested(EXPERTS, 5), [f"{EXPERTS}.w[0]", f"{EXPERTS}.w[1]"]),
    (["w"], None, nested(EXPERTS, 5), [f"{EXPERTS}.w[0]", f"{EXPERTS}.w[1]"]),
    ([f"{EXPERTS}.w"], [], nested(EXPERTS, 5), [f"{EXPERTS}.w[0]", f"{EXPERTS}.w[1]"]),
    (["perts.w"], ["experts"], pair(EXPERTS, 6, 5, 2), [EXPERTS]),
    # A name alone may be of any module: these are layers by target_modules, or by their rank.
    (["w"], ["experts"], pair(EXPERTS, 6, 5, 2), [EXPERTS]),
    (["w"], ".*(experts|q)", pair(EXPERTS, 6, 5, 2), [EXPERTS]),
    (["w"], "(?!x).*q", nested(EXPERTS, 5), [f"{EXPERTS}.w[0]", f"{EXPERTS}.w[1]"]),
    (["experts.w"], "(?!x).*q", pair(EXPERTS, 6, 5, 2), [f"{EXPERTS}.w"]),
    # The outer one is declared last; names with their module are meant before those without.
    (
        ["experts.down_proj", "experts.up_proj", "w"],
        [],
        nested(EXPERTS, 5, 7, rank=2),
        [f"{EXPERTS}.down_proj", f"{EXPERTS}.up_proj"],
    ),
    (
        ["down_proj", "up_proj", "v"],
        [],
        nested(EXPERTS, 5, 7, rank=2),
        [f"{EXPERTS}.down_proj+up_proj+v({i} of 2)" for i in (1, 2)],
    ),
    # Without target_parameters a base_layer is a name like any other.
    ([], None, pair(f"{EXPERTS}.base_layer", 6, 5, 2), [f"{EXPERTS}.base_layer"]),
]


@pytest.mark.parametrize(("parameters", "modules", "tensors", "wanted"), CASES)
def test_what_is_a_parameter_and_of_which_name(
    tmp_path: Path,
    parameters: list[str],
    modules: Any,
    tensors: dict[str, torch.Tensor],
    wanted: list[str],
) -> None:
    options: dict[str, Any] = {"target_parameters": parameters, "target_modules": modules}
    assert names(write_folder(tmp_path / "a", tensors, r=2, **options)) == wanted


def test_each_of_two_parameters_has_its_own_tensors(tmp_path: Path) -> None:
    options: dict[str, Any] = {"target_parameters": ["down_proj", "up_proj"]}
    tensors = nested(EXPERTS, 5, 7)
    with PeftReader(write_folder(tmp_path / "a", tensors, r=2, **options)) as reader:
        for expert in (0, 1):
            for name, inner, n in (("down_proj", "", 5), ("up_proj", ".base_layer", 7)):
                factors = reader.factors(f"{EXPERTS}.{name}[{expert}]")
                rows = tensors[f"{EXPERTS}{inner}.lora_A.weight"].view(2, 2, n)
                columns = tensors[f"{EXPERTS}{inner}.lora_B.weight"].view(6, 2, 2)
                assert torch.equal(factors.a, rows[expert])
                assert torch.equal(factors.b, columns[:, :, expert])


WRONG: list[tuple[dict[str, torch.Tensor], dict[str, Any], str]] = [
    (
        nested(EXPERTS, 5),
        {"r": 3},
        "has lora_A and lora_B of shapes (4, 5) and (6, 4), which hold no experts of rank 3",
    ),
    (nested(EXPERTS, 5), {"r": 8}, "which hold no experts of rank 8, as adapter_config"),
    (nested(EXPERTS, 5), {"r": 2.5}, "which hold no experts of rank 2.5"),
    (
        {f"{EXPERTS}.lora_A.weight": gaussian(4, 5), f"{EXPERTS}.lora_B.weight": gaussian(6, 2)},
        {"r": 2},
        "shapes (4, 5) and (6, 2), which hold no experts of rank 2",
    ),
    (
        {
            f"{EXPERTS}.lora_A.weight": gaussian(4, 5, 1),
            f"{EXPERTS}.lora_B.weight": gaussian(6, 4, 1),
        },
        {"r": 2},
        "shapes (4, 5, 1) and (6, 4, 1), which hold no experts",
    ),
    (
        nested(EXPERTS, 5, 6, 7),
        {"r": 2},
        f"holds LoRA for 3 parameters of {EXPERTS}, up to {EXPERTS}.base_layer.base_layer, but "
        "adapter_config.json names 'down_proj, up_proj' in target_parameters; save the adapter",
    ),
    (
        pair(f"{EXPERTS}.base_layer", 6, 5, 4),
        {"r": 2},
        f"holds LoRA for 1 parameters of {EXPERTS}, up to {EXPERTS}.base_layer, but",
    ),
    (
        nested(EXPERTS, 5, 7),
        {"r": 2, "rank_pattern": {"up_proj": 1}},
        f"parameters of {EXPERTS} in {{}} hold 2 and 4 experts, by the ranks in adapter_config",
    ),
    (
        nested(EXPERTS, 5) | pair(f"{EXPERTS}.down_proj[1]", 6, 5, 2),
        {"r": 2, "target_parameters": ["experts.down_proj"]},
        f"holds layer {EXPERTS}.down_proj[1] twice",
    ),
    (nested(EXPERTS, 5), {"r": 2, "target_parameters": "w"}, "target_parameters 'w'; make it a li"),
    (
        nested(EXPERTS, 5),
        {"r": 2, "target_parameters": [f"experts.{i}" for i in range(65)]},
        "has target_parameters of more than 64 names for one module, or of 512 characters ('exp",
    ),
    (
        nested(EXPERTS, 5),
        {"r": 2, "target_parameters": [f"experts.{i}{'x' * 90}" for i in range(6)]},
        f"for one module, or of 512 characters ('{EXPERTS}'); correct it",
    ),
    (nested(EXPERTS, 5), {"r": 2, "target_parameters": ["x" * 513]}, "or of 512 characters ('xxx"),
]


@pytest.mark.parametrize(("tensors", "config", "message"), WRONG)
def test_what_does_not_fit_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {
        "target_parameters": ["experts.down_proj", "experts.up_proj"]
    } | config
    folder = write_folder(tmp_path / "a", tensors, **options)
    with pytest.raises(AdapterError) as caught:
        PeftReader(folder)
    assert message.format(folder) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_layers_between_the_experts_of_a_parameter_disturb_nothing(tmp_path: Path) -> None:
    tensors = pair("a", 6, 5, 4) | pair("a.w[0]", 6, 5, 4, 1) | pair("a.w[0].q", 6, 5, 2, 2)
    options: dict[str, Any] = {"target_parameters": ["a.w", "w[0].v"], "target_modules": ["q"]}
    folder = write_folder(tmp_path / "a", tensors, r=2, **options)
    inner = [f"a.w[0].{x}" for x in ("q", "v[0]", "v[1]")]
    assert names(folder) == ["a.w[0]", *inner, "a.w[1]"]
    merge([folder], tmp_path / "out", compact=True)
    given, made = stored(folder), stored(tmp_path / "out")
    assert given.keys() == made.keys()
    assert all(torch.equal(given[key], made[key]) for key in given)


def test_a_wrapper_that_another_adapter_has_as_a_layer_is_refused(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "a", nested("x", 5, 5), r=4, target_parameters=["up_proj", "w1"])
    other = write_folder(tmp_path / "b", pair("x.base_layer", 6, 5, 4), r=4)
    with pytest.raises(AdapterError, match="x is adapted as a layer in one adapter and by its par"):
        merge([one, other], tmp_path / "out", force=True)


def test_experts_beyond_the_limit_are_counted_before_any_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft_layers, "MOST_EXPERTS", 6)
    options: dict[str, Any] = {"target_parameters": ["experts.w"]}
    tensors = {
        key: x for i in range(2) for key, x in pair(f"layers.{i}.experts", 6, 5, 4, i).items()
    }
    folder = write_folder(tmp_path / "a", tensors, r=1, **options)
    with pytest.raises(AdapterError) as caught:
        PeftReader(folder)
    assert "has 4 experts of rank 1, above the limit of 6 in a folder" in str(caught.value)
    monkeypatch.setattr(peft_layers, "MOST_EXPERTS", 8)
    assert len(names(folder)) == 8
