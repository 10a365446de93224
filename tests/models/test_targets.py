"""What a target meets that cannot be adapted: what is said of it, and a cure that is one."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from torch import nn

from flexlora.errors import ModelError
from flexlora.models import BaseModel
from flexlora.models.targets import find_layers
from flexlora.models.unfit import _PEFT_REFUSES
from models.families import names, tiny

TARGETS = ["all-linear", "attention", "mlp", "other", "*.0.*", "q_proj", "weight", "gate"]
FAMILIES = ["gemma3", "jamba", "jetmoe", "llama", "mamba", "mixtral", "recurrent_gemma", "rwkv"]


def base_of(name: str) -> BaseModel:
    base = tiny(name)
    assert base is not None
    return base


def refused(base: BaseModel, target: str) -> str:
    """The sentence, or nothing where it adapts some layers."""
    try:
        return "" if find_layers(base.model, base.name, [target]) else "no layers"
    except ModelError as error:
        return str(error)


def require_cures(base: BaseModel, target: str) -> None:
    """Whatever the refusal of a target names instead is another one, and works."""
    said = refused(base, target)
    instead = re.findall(r'such as "([^"]+)"|did you mean \'([^\']+)\'', said)
    instead += [(x, "") for x in re.findall(r"known: ([^…]*)", said) for x in x.split(", ") if x]
    for found in instead:
        name = found[0] or found[1]
        assert name != target, said
        assert not refused(base, name), said
    assert not said or instead or "leave it out" in said or "another model" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_refusal_names_instead_works(family: str) -> None:
    base = base_of(family)
    for target in TARGETS:
        require_cures(base, target)


@pytest.mark.soak
def test_what_any_refusal_names_instead_works() -> None:
    for family in names():
        base = tiny(family)
        if base is not None:
            for target in TARGETS:
                require_cures(base, target)


@pytest.mark.parametrize("target", ["all-linear", "attention", "*.0.*", "key"])
@pytest.mark.parametrize("family", ["rwkv"])
def test_parameters_of_three_dimensions_are_not_all_experts(family: str, target: str) -> None:
    assert not refused(base_of(family), target)


def test_a_parameter_that_is_named_is_called_one() -> None:
    said = refused(base_of("rwkv"), "time_mix_key")
    assert "matches rwkv.blocks.0.attention.time_mix_key of rwkv, which is a parameter" in said
    said = refused(base_of("recurrent_gemma"), "input_gate_weight")
    assert "which is a parameter and not a linear layer" in said
    said = refused(base_of("gemma3"), "probe")
    assert "matches model.vision_tower.head.probe of gemma3, which is a parameter" in said


def test_experts_in_the_attention_are_refused_with_something_else() -> None:
    said = refused(base_of("jetmoe"), "attention")
    assert "matches expert parameter model.layers.0.self_attention.experts" in said
    assert 'such as "kv_proj"' in said


@pytest.mark.parametrize(
    ("family", "layer", "target"),
    [
        ("falcon_h1", "out_proj", "other"),
        ("falcon_h1", "out_proj", "*.layers.0.*"),
        ("falcon_mamba", "dt_proj", "all-linear"),
        ("jamba", "dt_proj", "other"),
        ("longcat_flash", "classifier", "mlp"),
        ("mamba", "dt_proj", "*.mixer.*"),
        ("mamba", "out_proj", "all-linear"),
        ("nemotron_h", "out_proj", "other"),
    ],
)
def test_a_weight_that_is_read_past_adapters_is_left_alone(
    family: str, layer: str, target: str
) -> None:
    base = base_of(family)
    said = refused(base, layer)
    assert re.search(rf'target "{layer}" matches \S+\.{layer} of {family}, whose weight', said)
    if "expert" not in refused(base, target):
        found = find_layers(base.model, family, [target])
        assert found
        assert not any(x.name.endswith("." + layer) for x in found)


def test_the_models_whose_out_proj_peft_refuses_are_those_of_its_own_check() -> None:
    def refuses(name: str) -> bool:
        model: Any = nn.Module()
        model.config = SimpleNamespace(model_type=name)
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, "out_proj")
        except ValueError:
            return True
        return False

    assert {name for name in names() if refuses(name)} == _PEFT_REFUSES
