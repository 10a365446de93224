"""The registry of rules: one line each. A name is taken once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from flexlora.errors import ConfigError, nearest
from flexlora.rules.fedit import FedIT
from flexlora.rules.flexlora import FlexLoRA
from flexlora.rules.flora import FLoRA
from flexlora.rules.hetlora import HetLoRA
from flexlora.rules.increment import FlexLoRAIncrement
from flexlora.rules.rule import Rule

RULES: dict[str, type[Rule]] = {}


def register(rule: type[Rule]) -> type[Rule]:
    """Add a rule under its `name`; usable as a decorator. Raises ConfigError for a taken name."""
    if rule.name in RULES and RULES[rule.name] is not rule:
        raise ConfigError(
            f"rule '{rule.name}' is registered already, by {RULES[rule.name].__qualname__}; "
            "choose another name"
        )
    RULES[rule.name] = rule
    return rule


def make_rule(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """The rule of this name with its options. Raises ConfigError for an unknown name or option."""
    if name not in RULES:
        raise ConfigError(f"rule '{name}' is unknown; {nearest(name, RULES)}")
    known = [p for p in inspect.signature(RULES[name]).parameters if p not in ("args", "kwargs")]
    for option in options or {}:
        if option not in known:
            hint = nearest(option, known) if known else "it takes no options"
            raise ConfigError(f"rule.{option} is not an option of '{name}'; {hint}")
        _require_type(name, option, (options or {})[option])
    return RULES[name](**(options or {}))


def _require_type(name: str, option: str, value: Any) -> None:
    """Hold an option to its annotation; a whole number is taken for a float, true for nothing."""
    wanted = get_type_hints(RULES[name].__init__)[option]
    kinds = get_args(wanted) or (wanted,)
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    if not fits:
        words = " or ".join(k.__name__ for k in kinds if k is not type(None))
        raise ConfigError(f"rule.{option} of '{name}' is {value!r}; give a value of type {words}")


register(FedIT)
register(FlexLoRA)
register(FlexLoRAIncrement)
register(HetLoRA)
register(FLoRA)
