"""Single weights of the base itself, trained in place while the rest of it stands still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flexlora.adapters.sparse import Values
from flexlora.errors import ModelError
from flexlora.models.adapted import AdaptedModel
from flexlora.models.lora import LoRALinear


class Chosen:
    """What is trained of the weights at these places, beside what they begin with, in one vector.

    at: layer → flat places of (m, n); the first `trained` of a layer's are trained, the others only
    stand on `start` (layer → values, as many as places). vector: parameter (numbers,) in float32,
    zero at first, with its gradient beside it at all times: the change of what is trained. Use
    `choosing`, which puts the base back as it was.
    """

    def __init__(
        self,
        layers: Mapping[str, LoRALinear],
        at: Mapping[str, Tensor],
        start: Values,
        trained: Mapping[str, int],
    ) -> None:
        device = next(iter(layers.values())).weight.device
        self._layers = layers
        self._trained = dict(trained)
        self._at = {name: _stored(layers[name], at[name]).to(device) for name in layers}
        self._pristine = {
            name: x.weight.data.flatten()[self._at[name]] for name, x in layers.items()
        }
        self._start = {name: start[name].to(device) for name in layers}
        self.vector = nn.Parameter(torch.zeros(sum(trained.values()), device=device))
        self.vector.grad = torch.zeros_like(self.vector)

    @property
    def gradient(self) -> Tensor:
        gradient = self.vector.grad
        assert gradient is not None
        return gradient

    def place(self) -> None:
        """Have the base compute with W₀ + start + vector, rounded once to the base's dtype."""
        for name, moved in self._cut(self.vector.detach()).items():
            values = self._start[name].clone()
            values[: len(moved)] += moved
            pristine = self._pristine[name]
            wide = torch.promote_types(pristine.dtype, values.dtype)
            self._put(name, pristine.to(wide) + values)

    def restore(self) -> None:
        """W₀ again, bit for bit."""
        for name, values in self._pristine.items():
            self._put(name, values)

    def gather(self, name: str, gradient: Tensor) -> None:
        """Add what a layer's whole gradient says of the weights that are trained."""
        mine = self._cut(self.gradient)[name]
        mine += gradient.flatten()[self._at[name][: len(mine)]].float()

    def values(self) -> dict[str, Tensor]:
        """Layer → the change of its trained weights, copied to the CPU."""
        return {name: x.clone() for name, x in self._cut(self.vector.detach().cpu()).items()}

    def _cut(self, vector: Tensor) -> dict[str, Tensor]:
        parts = torch.split(vector, [self._trained[name] for name in self._layers])
        return dict(zip(self._layers, parts, strict=True))

    def _put(self, name: str, values: Tensor) -> None:
        weight = self._layers[name].weight.data
        weight.view(-1)[self._at[name]] = values.to(weight.dtype)


@contextmanager
def choosing(
    model: AdaptedModel, at: Mapping[str, Tensor], start: Values, trained: Mapping[str, int]
) -> Iterator[Chosen]:
    """While the block runs, backward passes fill the gradient of what is `Chosen`.

    The base computes with W₀ + start and without Δ; afterwards it is W₀, bit for bit. Of whole
    gradients one layer's is held at a time. Raises ModelError for a base whose weights are no plain
    numbers (a quantised one), or another module's too.
    """
    model.stop()
    model.set_delta({})
    layers = model.wrapped
    for name, layer in layers.items():
        weight = layer.weight
        if not weight.is_floating_point() or weight.numel() != layer.m * layer.n:
            raise ModelError(
                f"layer {name} of {model.base.name} is quantised, and single weights of it cannot "
                "be trained; set model.quantise to none, or choose another training.host"
            )
        if layer.tied:
            raise ModelError(
                f"layer {name} of {model.base.name} shares its weight with another module, which "
                "would change too; leave it out of model.targets, or choose another training.host"
            )
        if not weight.is_contiguous():
            weight.data = weight.data.contiguous()
    chosen = Chosen(layers, at, start, trained)
    hooks = []
    try:
        chosen.place()
        for name, layer in layers.items():
            weight = layer.weight
            weight.requires_grad_(True)

            def take(given: Tensor, name: str = name) -> None:
                assert given.grad is not None
                chosen.gather(name, given.grad)
                given.grad = None

            hooks.append(weight.register_post_accumulate_grad_hook(take))  # type: ignore[no-untyped-call]
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers.values():
            layer.weight.requires_grad_(False).grad = None
        chosen.restore()


def _stored(layer: LoRALinear, at: Tensor) -> Tensor:
    """Flat places of (m, n) in the weight as the base stores it: GPT-2 keeps (n, m)."""
    if isinstance(layer.base, nn.Linear):
        return at
    return at % layer.n * layer.m + at // layer.n
