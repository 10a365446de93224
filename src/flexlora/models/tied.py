"""Weights that several modules of a model have for theirs: what changes one changes all."""

from __future__ import annotations

from collections import defaultdict

from torch import nn


def tied_modules(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Module → the others with the same weight; of the modules that have such others."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            owners[id(weight)].append(name)
    shared = (names for names in owners.values() if len(names) > 1)
    return {name: tuple(x for x in names if x != name) for names in shared for name in names}
