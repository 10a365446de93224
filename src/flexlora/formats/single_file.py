"""Adapters of one .safetensors file, without a config: kohya's keys, and those of diffusers.

Tensors are described from the file's header and read one layer at a time. Experts that lie in one
tensor, (experts, r, n) and (experts, m, r), are a layer each: `experts.w` is `experts.w[0]`, …
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torch import Tensor

from flexlora.adapters import About, Factors
from flexlora.errors import AdapterError, shown
from flexlora.formats.closing import Closing
from flexlora.formats.diffusers import DIFFUSERS
from flexlora.formats.diffusers_metadata import Noted
from flexlora.formats.key_style import KeyStyle
from flexlora.formats.kohya import KOHYA
from flexlora.formats.parameters import expert_name
from flexlora.formats.peft_keys import PREFIX, plain_name, require_short, twice, variant
from flexlora.formats.plain_lora import unsupported
from flexlora.formats.stored_layer import StoredLayer, kind_of, matrices, sides_of, stored_layer
from flexlora.formats.tensor_file import DTYPES, TensorReader

STYLES = (KOHYA, DIFFUSERS)
ALPHA = ".alpha"


@dataclass(frozen=True)
class Origin:
    """Where a layer lies: its keys, which of the experts in them it is, its alpha's key if any."""

    stem: str
    style: KeyStyle
    keys: Mapping[str, str]
    expert: int | None
    experts: int
    alpha: str | None

    @property
    def has_alpha(self) -> bool:
        """Whether the scale stands beside it, so that it can have a rank of its own."""
        return self.style.alpha or self.alpha is not None


@final
class SingleFileReader(Closing):
    """Such a file, open; see `AdapterReader`. style_of: layer → how its keys are written.

    Raises AdapterError for a file that is damaged, holds anything but plain pairs and alphas, or
    belongs to a PEFT folder, whose config alone says the scale.
    """

    cancels = False
    whole: tuple[str, ...] = ()
    modules_to_save: Sequence[str] = ()
    target_parameters: Sequence[str] = ()

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise AdapterError(
                f"{path} is no plain file; give a .safetensors file or a PEFT folder"
            )
        self._file = TensorReader(self.path)
        try:
            self.metadata = self._file.metadata
            self._noted = Noted(self.path, self.metadata)
            self.origins: dict[str, Origin] = {}
            self.layers: dict[str, StoredLayer] = {}
            self._sort_out()
        except BaseException:
            self.close()
            raise

    @property
    def about(self) -> About:
        return About(self.metadata.get("ss_base_model_version", ""), task_type=None)

    def factors(self, name: str) -> Factors:
        """One layer as matrices; eight-bit floats as bfloat16, which holds them all."""
        layer, origin = self.layers[name], self.origins[name]
        a, b = (self._file.read(origin.keys[side], origin.expert) for side in "AB")
        return matrices(self.path, layer, a, b)

    def summand(self, name: str) -> Factors:
        return self.factors(name)

    def tensor(self, key: str) -> Tensor:
        return self._file.read(key)

    def close(self) -> None:
        self._file.close()

    def _sort_out(self) -> None:
        pairs: dict[str, dict[str, str]] = defaultdict(dict)
        styles: dict[str, KeyStyle] = {}
        alphas: dict[str, str] = {}
        for key in sorted(self._file.stored):
            require_short(self.path, key)
            if key.startswith(PREFIX):
                raise AdapterError(
                    f"{self.path} is the weights of a PEFT folder (tensor {shown(key)}), whose "
                    "adapter_config.json says their scale; give the folder"
                )
            found = next(((s, p) for s in STYLES if (p := s.parts(key)) is not None), None)
            if found is not None:
                style, (stem, side) = found
                if side in pairs[stem]:
                    raise twice(self.path, f"layer {stem}")
                pairs[stem][side], styles[stem] = key, style
            elif key.endswith(ALPHA):
                alphas[key.removesuffix(ALPHA)] = key
            else:
                raise unsupported(self.path, variant(key))
        if not pairs:
            raise AdapterError(f"{self.path} holds no LoRA tensors; give an adapter")
        for stem in sorted(alphas.keys() - pairs.keys()):
            raise AdapterError(f"{self.path} has {alphas[stem]} of no layer; save it again")
        for stem in sorted(pairs):
            self._add(stem, styles[stem], pairs[stem], alphas.get(stem))
        self.layers = dict(sorted(self.layers.items()))

    def _add(self, stem: str, style: KeyStyle, keys: Mapping[str, str], alpha: str | None) -> None:
        sides = sides_of(self.path, stem, keys, self._file.stored)
        a, b = (side.shape for side in sides)
        if 0 in a + b:
            raise AdapterError(
                f"layer {stem} in {self.path} is empty, of shapes {a} and {b}; save it again"
            )
        stacked, experts = _stacked(a, b), 1
        if stacked:
            experts, sides = a[0], (sides[0].part(0), sides[1].part(0))
            a, b = (side.shape for side in sides)
        kind = kind_of(self.path, stem, keys["A"], a, b)
        scale = self._scale(stem, alpha, a[0])
        layer = stored_layer("", kind, a[0], scale, keys, sides)
        for expert in range(experts):
            name = expert_name(plain_name(stem), expert) if stacked else plain_name(stem)
            if name in self.layers:
                raise twice(self.path, f"layer {name}")
            self.layers[name] = replace(layer, name=name)
            at = expert if stacked else None
            self.origins[name] = Origin(stem, style, keys, at, experts, alpha)

    def _scale(self, stem: str, key: str | None, rank: int) -> float:
        if key is None:
            return self._noted.scale(stem, rank)
        stored = self._file.stored[key]
        alpha = math.nan
        if math.prod(stored.shape) == 1 and stored.dtype in DTYPES:
            alpha = float(self._file.read(key).float().reshape(()))
        if not math.isfinite(alpha):
            raise AdapterError(f"{key} in {self.path} is no finite number; correct it")
        return alpha / rank


def _stacked(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Experts in one tensor, and no convolution, whose B ends in 1."""
    convolution = len(a) == 3 and set(b[2:]) == {1} and a[0] == b[1]
    return len(a) == len(b) == 3 and a[0] == b[0] and a[1] == b[2] and not convolution
