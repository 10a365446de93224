"""Which modules of a model are adapted, and the refusals by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from torch import nn

from flexlora.adapters import LayerSpec
from flexlora.errors import ModelError, nearest
from flexlora.models.linear_like import linear_shape
from flexlora.models.towers import text_tower
from flexlora.models.unfit import experts, read_past

ALL_LINEAR = "all-linear"
_KINDS = ("attention", "mlp")


def find_layers(model: nn.Module, name: str, targets: Sequence[str]) -> tuple[LayerSpec, ...]:
    """The targeted linear-like modules of `model`, by name, of its text tower alone.

    "all-linear" takes all but the output head. Any other target is a pattern of
    `LayerSpec.matches`: kind, last name, full name or glob. Norms, other small parameters, layers
    of other towers and those that are read past any adapter are left alone where a kind or a glob
    sweeps over them; everything else that cannot be adapted is refused.

    Raises ModelError naming the target and what it met: no module, an embedding, a module that is
    not linear-like, an expert parameter (3-D weights of mixtures of experts), the tied head, what
    texts do not run through.
    """
    search = _Search(model, name)
    if not search.linear:
        raise ModelError(
            f"model {name} has no linear layers to adapt; give a transformer with nn.Linear layers"
        )
    if not targets:
        raise ModelError(f'targets is empty; give "{ALL_LINEAR}" or names of layers of {name}')
    chosen = {layer.name: layer for target in targets for layer in search.layers(target)}
    return tuple(chosen[key] for key in sorted(chosen))


def linear_width(model: nn.Module) -> int:
    """Σ (m + n) over the linear-like modules but the output head: what a token passes through."""
    head = output_head(model)
    holds = text_tower(model, head)
    shapes = (linear_shape(x) for name, x in model.named_modules() if x is not head and holds(name))
    return sum(sum(shape) for shape in shapes if shape is not None)


def output_head(model: nn.Module) -> nn.Module | None:
    """What makes logits of hidden states, where the model says so."""
    getter: Any = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    if isinstance(head, nn.Module):
        return head
    fallback = getattr(model, "lm_head", None)
    return fallback if isinstance(fallback, nn.Module) else None


class _Unfit(Exception):
    """A target that met something it cannot adapt. said: what, as a clause; cure: what to do.

    The cure is made when it is asked for, since it takes trying other targets.
    """

    def __init__(self, said: str, cure: Callable[[], str]) -> None:
        super().__init__(said)
        self.said = said
        self.cure = cure


@final
class _Search:
    """What a target can meet in a model, and what it makes of it."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model = model
        self.name = name
        self.head = output_head(model)
        holds = text_tower(model, self.head)
        self.linear: list[LayerSpec] = []
        self.others: list[tuple[LayerSpec, nn.Module]] = []  # Their shapes are of no use.
        self.apart: list[LayerSpec] = []
        for path, module in model.named_modules():
            shape = linear_shape(module)
            if not holds(path):
                self.apart.append(LayerSpec(path, *(shape or (0, 0))))
            elif shape is not None:
                self.linear.append(LayerSpec(path, *shape))
            elif path:
                self.others.append((LayerSpec(path, 0, 0), module))
        self.apart.sort(key=lambda x: x.m == 0)  # Linear layers first: they are what is meant.
        self.experts = [x for x in experts(model) if holds(x.name)]

    def layers(self, target: str) -> list[LayerSpec]:
        """The layers that it adapts, at least one. Raises ModelError."""
        try:
            return self._matching(target)
        except _Unfit as error:
            said, cure = error.said, error.cure()
        raise ModelError(f'target "{target}" {said}; {cure}')

    def _matching(self, target: str) -> list[LayerSpec]:
        if target == ALL_LINEAR:
            return self._all()
        for expert in self.experts:
            owner = LayerSpec(expert.name.rpartition(".")[0], 0, 0)
            if expert.matches(target) or owner.matches(target):
                raise _Unfit(
                    f"matches expert parameter {expert.name} of {self.name}, which is not "
                    "linear-like",
                    lambda: self._instead(target, "name linear layers in targets"),
                )
        found = [layer for layer in self.linear if layer.matches(target)]
        past = {layer.name: why for layer in found if (why := read_past(self.model, layer))}
        for name, why in past.items():
            if len(past) == len(found) or _names(target, name):
                raise _Unfit(
                    f"matches {name} of {self.name}, {why}",
                    lambda: self._instead(target, "leave it out of targets, and name others"),
                )
        self._require_no_other(target, found)
        for layer in found:
            if self._is_head(layer) and self._is_tied():
                raise _Unfit(
                    f"matches the output head {layer.name} of {self.name}, whose weight is tied to "
                    "the input embedding",
                    lambda: "leave it out of targets",
                )
        if not found:
            raise self._nothing(target)
        return [layer for layer in found if layer.name not in past]

    def _all(self) -> list[LayerSpec]:
        if self.experts:
            raise _Unfit(
                f"meets expert parameter {self.experts[0].name} of {self.name}, which has no "
                "linear module to adapt",
                lambda: self._instead(ALL_LINEAR, "name the layers in targets"),
            )
        kept = (layer for layer in self.linear if not read_past(self.model, layer))
        return [layer for layer in kept if not self._is_head(layer)]

    def _require_no_other(self, target: str, found: Sequence[LayerSpec]) -> None:
        """Raise where the target means a module that is not linear-like."""
        for other, module in self.others:
            by_name = _names(target, other.name)
            by_name = by_name and (not found or (target != other.kind and _owns(module)))
            by_glob = (
                target != other.kind and other.matches(target) and isinstance(module, nn.Embedding)
            )
            if by_name or by_glob:
                raise _Unfit(
                    f"matches {other.name} of {self.name}, which is {type(module).__name__} and "
                    "not linear-like",
                    lambda: self._near(target),
                )

    def _nothing(self, target: str) -> _Unfit:
        for layer in self.apart:
            if layer.matches(target):
                return _Unfit(
                    f"matches {layer.name} of {self.name}, which texts do not run through",
                    lambda: self._instead(target, "name layers of the text tower"),
                )
        for name, _ in self.model.named_parameters():
            if _names(target, name):
                return _Unfit(
                    f"matches {name} of {self.name}, which is a parameter and not a linear layer",
                    lambda: self._near(target),
                )
        return _Unfit(f"matches no layer of {self.name}", lambda: self._near(target))

    def _near(self, target: str) -> str:
        """What is written like it, or else what there is: names that work, and not itself."""
        if "." in target:
            return nearest(target, {layer.name for layer in self.linear} | {ALL_LINEAR})
        known = {*self._last_names(), *(layer.kind for layer in self.linear), ALL_LINEAR}
        return nearest(target, {name for name in known - {target} if self._works(name)})

    def _instead(self, target: str, advice: str) -> str:
        """The advice, with a target that does work."""
        for other in (*_KINDS, *self._last_names()):
            if other != target and self._works(other):
                return f'{advice}, such as "{other}"'
        return f"{self.name} has no layers that can be adapted by name; give another model"

    def _last_names(self) -> list[str]:
        return sorted({layer.name.rpartition(".")[2] for layer in self.linear})

    def _works(self, target: str) -> bool:
        """Whether it adapts more than the output head."""
        try:
            return not all(map(self._is_head, self._matching(target)))
        except _Unfit:
            return False

    def _is_head(self, layer: LayerSpec) -> bool:
        return self.model.get_submodule(layer.name) is self.head

    def _is_tied(self) -> bool:
        weight = getattr(self.head, "weight", None)
        return any(
            module is not self.head and parameter is weight
            for module in self.model.modules()
            for parameter in module.parameters(recurse=False)
        )


def _names(target: str, name: str) -> bool:
    """Whether it is the full or the last name, rather than a kind or a glob."""
    return name == target or name.endswith("." + target)


def _owns(module: nn.Module) -> bool:
    """True for a module with parameters of its own, not only of its children."""
    return next(module.parameters(recurse=False), None) is not None
