"""PEFT LoRA folders read one layer at a time, without PEFT.

Linear layers, embeddings, convolutions, and bare parameters with the experts in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from torch import Tensor

from flexlora.adapters import About, Adapter, Factors, Scaling
from flexlora.errors import AdapterError
from flexlora.formats.closing import Closing
from flexlora.formats.home import expanded
from flexlora.formats.peft_config import (
    WEIGHTS,
    about,
    read_config,
    read_extra,
    scaling_of,
)
from flexlora.formats.peft_keys import sorted_out
from flexlora.formats.peft_layers import PeftLayers, Sides
from flexlora.formats.stored_layer import matrices
from flexlora.formats.tensor_file import Stored, TensorReader


@final
class PeftReader(Closing):
    """A PEFT LoRA folder, open. Use as a context manager, or `close()` it.

    layers: name → `StoredLayer`, in name order, as the base model calls them, whatever wrapped it;
    whole: keys of tensors that stand beside LoRA (modules_to_save, embeddings), as PEFT writes
    them. Only what `factors` and `tensor` are asked for is brought into memory.
    as_published: whether the update has to be one to the base model as it was published, which
    PiSSA's and others' alone is not (`FromInitial`).
    Raises AdapterError for a folder that is missing, damaged or pickled, and for every PEFT variant
    whose update is not scale · B A: nothing is dropped silently.
    """

    cancels = False

    def __init__(self, folder: Path | str, *, as_published: bool = True) -> None:
        self.path = expanded(folder)
        self.config = read_config(self.path, as_published=as_published)
        self._extra = read_extra(self.path)
        self._file = _opened(self.path)
        try:
            stored = self._file.stored
            modules = self.config.get("modules_to_save") or []
            pairs, self._whole = sorted_out(self.path, stored, modules)
            self._require_gathered(pairs, stored)
            self._sides = Sides(self._file)
            self.layers = PeftLayers(self.path, self.config, self._extra, self._file).of(pairs)
        except BaseException:
            self.close()
            raise

    @property
    def whole(self) -> tuple[str, ...]:
        return tuple(self._whole)

    @property
    def about(self) -> About:
        return about(self.config, self._extra.base_fingerprint)

    @property
    def modules_to_save(self) -> Sequence[str]:
        return tuple(self.config.get("modules_to_save") or ())

    @property
    def target_parameters(self) -> Sequence[str]:
        return tuple(self.config.get("target_parameters") or ())

    @property
    def scaling(self) -> Scaling:
        return scaling_of(self.config)

    def factors(self, name: str) -> Factors:
        """One layer as matrices, dtypes as stored. Raises AdapterError for NaN or infinity."""
        layer = self.layers[name]
        return matrices(self.path, layer, *self._sides.of(layer)).cut(layer.rank)

    def summand(self, name: str) -> Factors:
        return self.factors(name)

    def adapter(self) -> Adapter:
        """All layers, as matrices. Raises AdapterError as `factors`."""
        return Adapter({name: self.factors(name) for name in self.layers}, self.about)

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


def _opened(path: Path) -> TensorReader:
    if not (path / WEIGHTS).is_file():
        if (path / "adapter_model.bin").exists():
            raise AdapterError(
                f"{path} holds only pickled weights (adapter_model.bin), which can run code; "
                "save the adapter again as safetensors"
            )
        raise AdapterError(f"{path} has no {WEIGHTS}; save the adapter again")
    return TensorReader(path / WEIGHTS)
