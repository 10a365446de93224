"""The registry of rules: one line each. A name is taken once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flexlora.errors import ConfigError
from flexlora.registry import Registry
from flexlora.rules.eclora import ECLoRA
from flexlora.rules.fed_plora import FedPLoRA
from flexlora.rules.fedex import FedExLoRA
from flexlora.rules.fedhera import FedHera
from flexlora.rules.fedhl import FedHL
from flexlora.rules.fedit import FedIT
from flexlora.rules.fedmomentum import FedMomentum
from flexlora.rules.fedsa import FedSALoRA
from flexlora.rules.ffa import FFALoRA
from flexlora.rules.flexlora import FlexLoRA
from flexlora.rules.flora import FLoRA
from flexlora.rules.florist import FLoRIST
from flexlora.rules.fslora import FSLoRA
from flexlora.rules.hetlora import HetLoRA
from flexlora.rules.increment import FlexLoRAIncrement
from flexlora.rules.lora_a2 import LoRAA2
from flexlora.rules.lora_fair import LoRAFAIR
from flexlora.rules.raflora import RaFLoRA
from flexlora.rules.rb_lora import RBLoRA
from flexlora.rules.rbla import RBLA
from flexlora.rules.replicate import Replicate
from flexlora.rules.rolora import RoLoRA
from flexlora.rules.rule import Rule

RULES: Registry[type[Rule]] = Registry("rule", "rule.name")


def register(rule: type[Rule]) -> type[Rule]:
    """Add a rule under its `name`; usable as a decorator. Raises ConfigError for a taken name."""
    return RULES.add(rule.name, rule)


def make_rule(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """The registered rule of this name with its options.

    Raises ConfigError for an unknown name and for an option that is unknown, missing or wrong.
    """
    if ":" in name:
        raise ConfigError(
            f"rule.name is {name!r}, a rule in a file, and make_rule knows registered ones only; "
            "name the file in a config, or register its class"
        )
    return cast("Rule", RULES.make(name, options))


register(FedIT)
register(FlexLoRA)
register(FlexLoRAIncrement)
register(HetLoRA)
register(FLoRA)
register(ECLoRA)
register(FedPLoRA)
register(FedExLoRA)
register(FedHera)
register(FedHL)
register(FedMomentum)
register(FedSALoRA)
register(FFALoRA)
register(FLoRIST)
register(FSLoRA)
register(LoRAA2)
register(LoRAFAIR)
register(RaFLoRA)
register(RBLoRA)
register(RBLA)
register(Replicate)
register(RoLoRA)
