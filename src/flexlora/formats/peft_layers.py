"""The layers of a PEFT folder, described from its config and its file's header."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, final

from torch import Tensor

from flexlora.adapters import lora_scale
from flexlora.errors import AdapterError, shown
from flexlora.formats.parameters import Expert, Parameter, split
from flexlora.formats.peft_config import CONFIG, Extra, PerLayer, scaling_of
from flexlora.formats.peft_keys import twice
from flexlora.formats.peft_targets import TargetParameters
from flexlora.formats.stored_layer import StoredLayer, kind_of, sides_of, stored_layer
from flexlora.formats.tensor_file import TensorReader

MOST_EXPERTS: Final = 1 << 18  # In one folder; the largest models have about 50,000.
Pairs = Mapping[str, Mapping[str, str]]  # Layer, as keys have it → side → key.


@final
class PeftLayers:
    """Makes layers of the pairs in an open file. Raises AdapterError for unreadable patterns."""

    def __init__(
        self, path: Path, config: Mapping[str, Any], extra: Extra, file: TensorReader
    ) -> None:
        self._path, self._extra = path, extra
        self._stored, self._sides = file.stored, Sides(file)
        self._targets = TargetParameters(path, config)
        self._ranks = PerLayer(path, config, "r")
        self._alphas = PerLayer(path, config, "lora_alpha")
        self._scaling = scaling_of(config)

    def of(self, pairs: Pairs) -> dict[str, StoredLayer]:
        """Name → layer, in name order.

        Raises AdapterError for shapes and ranks that do not fit, and for too many experts.
        """

        def fits_layer(name: str) -> bool:
            sides = sides_of(self._path, name, pairs[name], self._stored)
            return sides[0].shape[0] == self._ranks.of(name)

        parameters = self._targets.found(pairs, fits_layer)
        experts: dict[str, int] = {}  # Module → in its parameters.
        layers: list[StoredLayer] = []
        for name, keys in sorted(pairs.items()):
            if name not in parameters:
                layers.append(self._layer(name, keys))
                continue
            of_one = self._parameter(parameters[name], keys, MOST_EXPERTS - len(layers))
            layers.extend(of_one)
            many, module = len(of_one), parameters[name].module
            if many > 1 and experts.setdefault(module, many) != many:
                raise AdapterError(
                    f"parameters of {module} in {self._path} hold {experts[module]} and {many} "
                    f"experts, by the ranks in {CONFIG}; correct r or rank_pattern there"
                )
        layers.sort(key=lambda layer: layer.name)
        for one, other in pairwise(layers):
            if one.name == other.name:
                raise twice(self._path, f"layer {one.name}")
        return {layer.name: layer for layer in layers}

    def _layer(self, name: str, keys: Mapping[str, str]) -> StoredLayer:
        sides = sides_of(self._path, name, keys, self._stored)
        a, b = (side.shape for side in sides)
        kind = kind_of(self._path, name, keys["A"], a, b)
        rank = self._ranks.of(name)
        if rank != a[0]:
            raise AdapterError(
                f"layer {name} in {self._path} has rank {a[0]}, but {CONFIG} says {rank:g}; "
                "correct r or rank_pattern there"
            )
        scale = self._scale(name, a[0], self._alphas.of(name))
        return self._held(stored_layer(name, kind, a[0], scale, keys, sides))

    def _parameter(
        self, parameter: Parameter, keys: Mapping[str, str], most: int
    ) -> list[StoredLayer]:
        """A layer for each expert; most: how many are allowed."""
        name = parameter.layer
        a, b = sides_of(self._path, name, keys, self._stored)
        rank = self._common(self._ranks, parameter)
        experts, rest = divmod(a.shape[0], int(rank))
        fit = len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
        if not fit or rest or not rank.is_integer():
            raise AdapterError(
                f"parameter {name} in {self._path} has lora_A and lora_B of shapes {a.shape} and "
                f"{b.shape}, which hold no experts of rank {rank:g}, as {CONFIG} says; correct r "
                "or rank_pattern there"
            )
        if experts > most:
            raise AdapterError(
                f"parameter {name} in {self._path} has {experts:,} experts of rank {rank:g}, above "
                f"the limit of {MOST_EXPERTS:,} in a folder; correct r or rank_pattern in {CONFIG}"
            )
        r = int(rank)
        scale = self._scale(name, r, self._common(self._alphas, parameter))
        sides = replace(a, shape=(r, a.shape[1])), replace(b, shape=(b.shape[0], r))
        layer = stored_layer(name, "parameter", r, scale, keys, sides)
        each = (Expert(parameter, place, experts) for place in range(experts))
        return [self._held(replace(layer, name=one.layer, expert=one)) for one in each]

    def _common(self, per_layer: PerLayer, parameter: Parameter) -> float:
        """The number that all have which the parameter may be."""
        first, *others = (per_layer.of(name) for name in parameter.full_names)
        if any(other != first for other in others):
            names, key = shown(", ".join(parameter.names)), per_layer.key
            raise AdapterError(
                f"{self._path / CONFIG} gives {names} of {parameter.module} no one {key}, and no "
                "file says which of them the model declares first, by which PEFT tells them apart; "
                f"train them with one {key}"
            )
        return first

    def _scale(self, name: str, rank: int, alpha: float) -> float:
        scale = lora_scale(alpha, rank, self._scaling)
        exact = self._extra.scales.get(name, math.nan)
        return exact if math.isclose(exact, scale, rel_tol=1e-15) else scale

    def _held(self, layer: StoredLayer) -> StoredLayer:
        """With the rank that it has without the zeros that `save_peft` filled it up with and noted;
        its own rank where there are none, or where others stand in their place since.
        """
        noted = self._extra.ranks.get(layer.name, layer.rank)
        if not 0 <= noted < layer.rank:
            return layer
        a, b = self._sides.of(layer)
        return layer if a[noted:].any() or b[:, noted:].any() else replace(layer, rank=noted)


@final
class Sides:
    """The two tensors of a layer out of an open file, in memory of their own.

    Those of the last experts are kept: the next ones lie in the same tensors.
    """

    def __init__(self, file: TensorReader) -> None:
        self._file = file
        self._last: tuple[str, Tensor, Tensor] | None = None

    def of(self, layer: StoredLayer) -> tuple[Tensor, Tensor]:
        """a and b, as they are stored, of an expert its own."""
        if layer.expert is None or layer.expert.experts == 1:
            return self._file.read(layer.a_key), self._file.read(layer.b_key)
        if self._last is None or self._last[0] != layer.a_key:
            self._last = None  # Not both at once.
            a, b = (self._file.read(key) for key in (layer.a_key, layer.b_key))
            self._last = (layer.a_key, a, b)
        return split(*self._last[1:], layer.expert.expert, layer.expert.experts)
