"""The registry of rules: one line each. A name is taken once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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
    require_options(RULES[name], "rule", name, options or {})
    return RULES[name](**(options or {}))


def require_options(
    made: Callable[..., object], table: str, name: str, options: Mapping[str, Any]
) -> None:
    """Hold options to the arguments of what they make; `table` is where the config has them.

    A whole number is taken for a float, true for nothing. Raises ConfigError.
    """
    known = [p for p in inspect.signature(made).parameters if p not in ("args", "kwargs")]
    for option, value in options.items():
        if option not in known:
            hint = nearest(option, known) if known else "it takes no options"
            raise ConfigError(f"{table}.{option} is not an option of '{name}'; {hint}")
        wanted = get_type_hints(made.__init__)[option]
        kinds = get_args(wanted) or (wanted,)
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            words = " or ".join(k.__name__ for k in kinds if k is not type(None))
            raise ConfigError(
                f"{table}.{option} of '{name}' is {value!r}; give a value of type {words}"
            )


register(FedIT)
register(FlexLoRA)
register(FlexLoRAIncrement)
register(HetLoRA)
register(FLoRA)
