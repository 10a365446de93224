"""What a PEFT folder says of what was written into it: its config's ranks, and our notes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nextafter
from typing import Any

from flexlora.adapters import About
from flexlora.errors import AdapterError
from flexlora.formats.layer_patterns import LayerPatterns
from flexlora.formats.parameters import Parameter


@dataclass(frozen=True)
class Target:
    """What PEFT adapts as one: a layer, or a parameter with all of its experts.

    keys: of a and b; rank, alpha: as written, 1 for rank 0; scale: what alpha / rank rounds to, or
    should. own: layer, or each expert → its rank without the zeros that fill it up.
    """

    name: str
    keys: tuple[str, str]
    rank: int
    alpha: float
    scale: float
    own: Mapping[str, int]
    parameter: Parameter | None = None

    @staticmethod
    def of(
        name: str,
        keys: tuple[str, str],
        rank: int,
        scale: float,
        own: Mapping[str, int],
        parameter: Parameter | None = None,
    ) -> Target:
        """alpha: that for which alpha / rank is `scale` to the last bit, or as near as can be."""
        alpha = scale * rank
        for candidate in (alpha, nextafter(alpha, inf), nextafter(alpha, -inf)):
            if candidate / rank == scale:
                alpha = candidate
                break
        return Target(name, keys, rank, alpha, scale, own, parameter)

    def filled_up(self, rank: int) -> Target:
        return replace(self, rank=rank, alpha=float(rank))

    @property
    def pattern_names(self) -> tuple[str, ...]:
        """What PEFT holds patterns against."""
        return (self.name,) if self.parameter is None else self.parameter.full_names


def config(targets: Collection[Target], target_parameters: Sequence[str]) -> dict[str, Any]:
    """r, α and patterns: the most common ones, every other layer pinned by its full name.

    target_parameters: as PEFT's config has them; none for the full names.
    Raises AdapterError for patterns of parameters of which nothing says which is which.
    """
    rank = Counter(target.rank for target in targets).most_common(1)[0][0]
    alpha = Counter(target.alpha for target in targets).most_common(1)[0][0]
    parameters = [target.parameter for target in targets if target.parameter is not None]
    found = {
        "peft_type": "LORA",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "target_modules": [target.name for target in targets if target.parameter is None],
        "rank_pattern": _pattern([(x, x.rank) for x in targets], rank),
        "alpha_pattern": _pattern([(x, x.alpha) for x in targets], alpha),
    }
    if parameters:
        full = {name for parameter in parameters for name in parameter.full_names}
        found["target_parameters"] = list(target_parameters) or sorted(full)
    return found


def config_about(about: About, targets: Iterable[Target]) -> dict[str, Any]:
    """What the config says of the model and its task, and of `selection` in place of full names,
    where it tells all of them."""
    layers = [target.name for target in targets if target.parameter is None]
    found = {
        "base_model_name_or_path": about.base or None,
        "task_type": about.task_type,
        "fan_in_fan_out": about.fan_in_fan_out,
        **(about.selection if _selects(about.selection.get("target_modules"), layers) else {}),
    }
    if about.revision:
        found["revision"] = about.revision
    if about.auto_mapping is not None:
        found["auto_mapping"] = dict(about.auto_mapping)
    return found


def _selects(modules: str | list[str] | None, layers: Iterable[str]) -> bool:
    """Whether PEFT would find every layer by these `target_modules`: each the end of a name, or one
    expression."""
    if isinstance(modules, str):
        if modules == "all-linear":
            return True
        try:
            expression = LayerPatterns({modules: True})
            return all(expression.of(layer, False) for layer in layers)
        except ValueError:  # It cannot be run in linear time.
            return False
    ends = set(modules or ())
    return all(not ends.isdisjoint(_ends(layer)) for layer in layers)


def _ends(name: str) -> Iterator[str]:
    """The name, and what follows each of its dots."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _pattern(numbers: Iterable[tuple[Target, float]], common: float) -> dict[str, float | int]:
    """PEFT matches a pattern as a regular expression at the end of a name: ^ pins it to one."""
    found: dict[str, float] = {}
    for target, number in numbers:
        for name in target.pattern_names:
            if found.setdefault(name, number) != number:
                raise AdapterError(
                    f"{target.name} has another rank or scale than other parameters of its module, "
                    "which no file tells apart by name, as PEFT's patterns do; leave compact out"
                )
    return {
        "^" + re.escape(name): _whole(float(number))
        for name, number in found.items()
        if number != common
    }


def ranks(targets: Collection[Target]) -> dict[str, int]:
    """Layer → its rank without zeros, where it was filled up with them."""
    return {
        name: own for target in targets for name, own in target.own.items() if own != target.rank
    }


def scales(targets: Collection[Target]) -> dict[str, float]:
    """Layer, or parameter → its scale, where no α / r rounds to it."""
    return {x.name: x.scale for x in targets if x.alpha / x.rank != x.scale}


def _whole(number: float) -> float | int:
    """Whole numbers as integers, as PEFT writes them."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
