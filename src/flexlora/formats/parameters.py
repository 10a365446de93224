"""LoRA on a module's bare parameters (PEFT's target_parameters): names, experts, nesting.

PEFT wraps a module once for each of its parameters, the first that the model declares innermost:
their tensors lie under `module`, `module.base_layer`, … and nothing there names the parameter. A
parameter of three dimensions holds experts, whose factors share one pair of tensors: a is
(experts · r, n), an expert's rows together; b is (m, r · experts), an expert's columns apart
(`ParamWrapper` in `peft/tuners/lora/layer.py`). Each expert is a layer, `module.parameter[expert]`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from flexlora.errors import AdapterError

INNER: Final = ".base_layer"
# The order in which models declare them: those of transformers that hold several in one module.
_DECLARED: Final = (
    *("gate_proj", "gate_up_proj", "gate_up_proj_bias", "up_proj", "down_proj", "down_proj_bias"),
    *("w1", "v1", "w2", "weight", "bias"),
)


@dataclass(frozen=True)
class Parameter:
    """A bare parameter. names: its own, or those that it may be, where no file says which it is.

    place, depth: which of how many wrappers of the module it has, the innermost 0.
    """

    module: str
    names: tuple[str, ...]
    place: int
    depth: int

    @property
    def known(self) -> bool:
        return len(self.names) == 1

    @property
    def full_names(self) -> tuple[str, ...]:
        """As the model calls it, or those that it may be."""
        return tuple(f"{self.module}.{name}" for name in self.names)

    @property
    def layer(self) -> str:
        """The name of its layer, or, before an expert's number, of its layers."""
        if self.known:
            return self.full_names[0]
        return f"{self.module}.{'+'.join(self.names)}({self.place + 1} of {self.depth})"


@dataclass(frozen=True)
class Expert:
    """One of the experts in a parameter; experts: how many there are, 1 for a plain matrix."""

    parameter: Parameter
    expert: int
    experts: int

    @property
    def layer(self) -> str:
        name = self.parameter.layer
        return name if self.experts == 1 else expert_name(name, self.expert)


def expert_name(tensor: str, expert: int) -> str:
    """The layer of one of the experts that lie in one tensor."""
    return f"{tensor}[{expert}]"


def declared(names: Collection[str]) -> tuple[str, ...] | None:
    """Names of one module's parameters as the model declares them; None where that is unknown."""
    if len(names) == 1:
        return tuple(names)
    if not all(name in _DECLARED for name in names):
        return None
    return tuple(sorted(names, key=_DECLARED.index))


def nested(parameters: Iterable[Parameter], layers: Set[str]) -> Mapping[str, str]:
    """Layer of a parameter → the wrapper that holds its tensors, where all of these are adapted.

    layers: names of the other layers. Raises AdapterError where the parameters come from adapters
    that PEFT could not tell apart in one folder.
    """
    by_module: dict[str, dict[str, Parameter]] = {}
    for parameter in parameters:
        by_module.setdefault(parameter.module, {})[parameter.layer] = parameter
    found: dict[str, str] = {}
    for module, held in by_module.items():
        if all(parameter.known for parameter in held.values()):
            order = declared([x.names[0] for x in held.values()])
            places = {name: i for i, name in enumerate(order or ())}
            inside = {name: places.get(x.names[0], -1) for name, x in held.items()}
            depth = len(held)
        else:
            order = next(iter(held.values())).names
            inside = {name: x.place for name, x in held.items()}
            depth = max(x.depth for x in held.values())
            if any((x.names, x.depth) != (order, depth) for x in held.values()):
                order = None
        if order is None:
            raise AdapterError(
                f"{module} has LoRA on {' and '.join(sorted(held))} in these adapters, and no file "
                "says which of them the model declares first, by which PEFT tells them apart; give "
                "adapters of the same target_parameters"
            )
        wrappers = {name: module + INNER * (depth - 1 - inside[name]) for name in held}
        if not layers.isdisjoint(wrappers.values()):
            raise AdapterError(
                f"{module} is adapted as a layer in one adapter and by its parameter in another "
                f"({next(iter(held))}), which PEFT cannot hold in one; train both alike"
            )
        found |= wrappers
    return found


def split(a: Tensor, b: Tensor, expert: int, experts: int) -> tuple[Tensor, Tensor]:
    """One expert's a (r, n) and b (m, r)."""
    rank = a.shape[0] // experts
    return a[expert * rank : (expert + 1) * rank], b[:, expert::experts].contiguous()


def joined(sides: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The pair that holds all experts, from each one's a (r, n) and b (m, r) of one rank."""
    a, b = zip(*sides, strict=True)
    return torch.cat(a), torch.stack(b, dim=-1).flatten(1)
