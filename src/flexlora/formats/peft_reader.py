"""PEFT LoRA folders read one layer at a time, without PEFT: linear, embedding and convolution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from torch import Tensor

from flexlora.adapters import Adapter, Factors, Scaling, lora_scale
from flexlora.errors import AdapterError
from flexlora.formats.closing import Closing
from flexlora.formats.home import expanded
from flexlora.formats.peft_config import (
    CONFIG,
    TASK_TYPE,
    WEIGHTS,
    PerLayer,
    read_config,
    read_extra,
    scaling_of,
)
from flexlora.formats.peft_keys import sorted_out
from flexlora.formats.stored_layer import StoredLayer, kind_of, matrices, sides_of, stored_layer
from flexlora.formats.tensor_file import Stored, TensorReader


@final
class PeftReader(Closing):
    """A PEFT LoRA folder, open. Use as a context manager, or `close()` it.

    layers: name → `StoredLayer`, in name order, as the base model calls them, whatever wrapped it;
    whole: keys of tensors that stand beside LoRA (modules_to_save, embeddings), as PEFT writes
    them. Only what `factors` and `tensor` are asked for is brought into memory.
    Raises AdapterError for a folder that is missing, damaged or pickled, and for every PEFT variant
    whose update is not scale · B A: nothing is dropped silently.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = expanded(folder)
        self.config = read_config(self.path)
        self._extra = read_extra(self.path)
        self._file = _opened(self.path)
        try:
            stored = self._file.stored
            modules = self.config.get("modules_to_save") or []
            pairs, self._whole = sorted_out(self.path, stored, modules)
            self._require_gathered(pairs, stored)
            self._ranks = PerLayer(self.path, self.config, "r")
            self._alphas = PerLayer(self.path, self.config, "lora_alpha")
            self.layers = {name: self._layer(name, pairs[name], stored) for name in sorted(pairs)}
        except BaseException:
            self.close()
            raise

    @property
    def whole(self) -> tuple[str, ...]:
        return tuple(self._whole)

    @property
    def base(self) -> str:
        """The base model that the folder names ("" if none)."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def base_fingerprint(self) -> str:
        return self._extra.base_fingerprint

    @property
    def fan_in_fan_out(self) -> bool:
        return self.config.get("fan_in_fan_out") is True

    @property
    def task_type(self) -> str | None:
        found = self.config.get("task_type", TASK_TYPE)
        return None if found is None else str(found)

    @property
    def modules_to_save(self) -> Sequence[str]:
        return tuple(self.config.get("modules_to_save") or ())

    @property
    def scaling(self) -> Scaling:
        return scaling_of(self.config)

    def factors(self, name: str) -> Factors:
        """One layer as matrices, dtypes as stored. Raises AdapterError for NaN or infinity."""
        layer = self.layers[name]
        a, b = (self.tensor(key) for key in (layer.a_key, layer.b_key))
        return matrices(self.path, layer, a, b).cut(layer.rank)

    def adapter(self) -> Adapter:
        """All layers, as matrices. Raises AdapterError as `factors`."""
        return Adapter(
            {name: self.factors(name) for name in self.layers},
            base=self.base,
            base_fingerprint=self.base_fingerprint,
            fan_in_fan_out=self.fan_in_fan_out,
        )

    def tensor(self, key: str) -> Tensor:
        """A tensor of the file, or one of `whole`, in memory of its own."""
        return self._file.read(self._whole.get(key, key))

    def close(self) -> None:
        self._file.close()

    def _require_gathered(
        self, pairs: Mapping[str, Mapping[str, str]], tensors: Mapping[str, Stored]
    ) -> None:
        of_layers = (key for pair in pairs.values() for key in pair.values())
        for key in (*of_layers, *self._whole.values()):
            if 0 in tensors[key].shape:
                raise AdapterError(
                    f"tensor {key} in {self.path} is empty, of shape {tensors[key].shape}, as "
                    "DeepSpeed's ZeRO-3 leaves it where weights are not gathered; set "
                    "stage3_gather_16bit_weights_on_model_save, and save the adapter again"
                )

    def _layer(
        self, name: str, pair: Mapping[str, str], tensors: Mapping[str, Stored]
    ) -> StoredLayer:
        sides = sides_of(self.path, name, pair, tensors)
        a, b = (side.shape for side in sides)
        kind = kind_of(self.path, name, pair["A"], a, b)
        rank = self._ranks.of(name)
        if rank != a[0]:
            raise AdapterError(
                f"layer {name} in {self.path} has rank {a[0]}, but {CONFIG} says {rank:g}; "
                "correct r or rank_pattern there"
            )
        scale = self._scale(name, a[0])
        held = self._held(name, pair, a[0])
        return stored_layer(name, kind, held, scale, pair, sides)

    def _held(self, name: str, pair: Mapping[str, str], rank: int) -> int:
        """The rank without the zeros that `save_peft` filled it up with and noted; its own rank
        where there are none, or where others stand in their place since.
        """
        noted = self._extra.ranks.get(name, rank)
        if not 0 <= noted < rank:
            return rank
        a, b = (self.tensor(pair[side]) for side in "AB")
        return rank if a[noted:].any() or b[:, noted:].any() else noted

    def _scale(self, name: str, rank: int) -> float:
        scale = lora_scale(self._alphas.of(name), rank, self.scaling)
        exact = self._extra.scales.get(name, math.nan)
        return exact if math.isclose(exact, scale, rel_tol=1e-15) else scale


def _opened(path: Path) -> TensorReader:
    if not (path / WEIGHTS).is_file():
        if (path / "adapter_model.bin").exists():
            raise AdapterError(
                f"{path} holds only pickled weights (adapter_model.bin), which can run code; "
                "save the adapter again as safetensors"
            )
        raise AdapterError(f"{path} has no {WEIGHTS}; save the adapter again")
    return TensorReader(path / WEIGHTS)
