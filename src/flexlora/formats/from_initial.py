"""An adapter whose initialisation changed the base model, told for the model as it was published.

PiSSA, OLoRA, CorDA and LoRA-GA begin at B₀ A₀ ≠ 0 and train on the base W − s B₀ A₀. What they
learned is s (B A − B₀ A₀) for W: with the adapter as it was initialised at hand, a plain pair of
rank 2 r, [B, −B₀] and [A; A₀], to the last bit. What remains is what the base was rounded by when
s B₀ A₀ was taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import About, Factors
from flexlora.errors import AdapterError, shown
from flexlora.formats.as_written import filled_up
from flexlora.formats.closing import Closing
from flexlora.formats.peft_reader import PeftReader
from flexlora.formats.plain_lora import changed_base
from flexlora.formats.stored_layer import StoredLayer, holding


@final
class FromInitial(Closing):
    """A trained PEFT folder less the folder that it began from; see `AdapterReader`.

    Layers have twice their rank. The base is the one that the start names: a trained adapter
    may name what the start had left of it. What stands beside LoRA is the trained adapter's.
    Raises AdapterError for folders that are no plain LoRA but for their initialisation, and for two
    whose layers, shapes, ranks or scales differ.
    """

    cancels = True

    def __init__(self, trained: Path | str, initial: Path | str) -> None:
        self._trained = PeftReader(trained, as_published=False)
        try:
            self._initial = PeftReader(initial, as_published=False)
        except BaseException:
            self._trained.close()
            raise
        try:
            self.path = self._trained.path
            self._require_fitting()
            self.layers = {
                name: _less(layer, self._initial.layers[name])
                for name, layer in self._trained.layers.items()
            }
        except BaseException:
            self.close()
            raise

    @property
    def about(self) -> About:
        told, start = self._trained.about, self._initial.about
        return replace(
            told,
            base=start.base or told.base,
            base_fingerprint=start.base_fingerprint,
            revision=start.revision if start.base else told.revision,
        )

    @property
    def whole(self) -> tuple[str, ...]:
        return self._trained.whole

    @property
    def modules_to_save(self) -> Sequence[str]:
        return self._trained.modules_to_save

    @property
    def target_parameters(self) -> Sequence[str]:
        return self._trained.target_parameters

    def factors(self, name: str) -> Factors:
        trained, initial = self._both(name)
        b = torch.cat([trained.b, -initial.b], dim=1)
        return Factors(b, torch.cat([trained.a, initial.a]), trained.scale)

    def summand(self, name: str) -> Factors:
        """The same as (B − B₀) A + B₀ (A − A₀), whose parts are as small as what was learned: a sum
        in float32 keeps digits of it that would cancel between B A and B₀ A₀.
        """
        (b, a), (b0, a0) = map(_wide, self._both(name))
        scale = self.layers[name].scale
        return Factors(torch.cat([b - b0, b0], dim=1), torch.cat([a, a - a0]), scale)

    def _both(self, name: str) -> tuple[Factors, Factors]:
        """Of one rank: either may be without the zeros that filled it up."""
        trained, initial = self._trained.factors(name), self._initial.factors(name)
        rank = max(trained.rank, initial.rank)
        return _of_rank(trained, rank), _of_rank(initial, rank)

    def tensor(self, key: str) -> Tensor:
        return self._trained.tensor(key)

    def close(self) -> None:
        self._trained.close()
        self._initial.close()

    def _require_fitting(self) -> None:
        trained, initial = self._trained, self._initial
        if trained.path.resolve() == initial.path.resolve():
            raise AdapterError(
                f"{trained.path} is given as its own start; give the adapter as it was before "
                "training, which PEFT saves by save_pretrained"
            )
        for one, other in ((trained, initial), (initial, trained)):
            for name in sorted(one.layers.keys() - other.layers.keys())[:1]:
                raise self._unfit(f"layer {name} is in {one.path} alone")
        inits = [changed_base(reader.config) for reader in (trained, initial)]
        if None not in inits and len(set(inits)) > 1:
            raise self._unfit(
                f"one was initialised by {shown(inits[0])}, the other by {shown(inits[1])}"
            )
        for name, layer in trained.layers.items():
            ours, theirs = (_described(x) for x in (layer, initial.layers[name]))
            if ours != theirs:
                raise self._unfit(f"layer {name} has {ours} and {theirs}")

    def _unfit(self, why: str) -> AdapterError:
        return AdapterError(
            f"{self._trained.path} did not begin from {self._initial.path}: {why}; give the "
            "adapter as it was when its training began"
        )


def _described(layer: StoredLayer) -> str:
    shapes = f"A {layer.a_shape} and B {layer.b_shape}"
    return f"{layer.kind} {shapes} of scale {layer.scale:g}"


def _of_rank(factors: Factors, rank: int) -> Factors:
    b, a = filled_up(factors.b, 1, rank), filled_up(factors.a, 0, rank)
    return Factors(b, a, factors.scale)


def _wide(factors: Factors) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(
        torch.promote_types(factors.a.dtype, factors.b.dtype), torch.float32
    )
    return factors.b.to(dtype), factors.a.to(dtype)


def _less(layer: StoredLayer, initial: StoredLayer) -> StoredLayer:
    return replace(
        layer,
        rank=2 * max(layer.rank, initial.rank),
        dtype=holding(layer.dtype, initial.dtype),
        widened=layer.widened or initial.widened,
    )
