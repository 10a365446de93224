"""PEFT LoRA folders written one layer at a time, so that every reader computes the same update."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.errors import AdapterError
from flexlora.formats.atomic import atomic_folder
from flexlora.formats.peft_config import CONFIG, EXTRA, TASK_TYPE, WEIGHTS
from flexlora.formats.peft_form import ALIKE, Form
from flexlora.formats.peft_keys import Kind, pair_keys
from flexlora.formats.stored_dtype import require_held
from flexlora.formats.stored_layer import StoredLayer
from flexlora.formats.tensor_file import TensorFile, TensorReader


class PeftWriter:
    """A PEFT folder being written; `peft_folder` makes one."""

    def __init__(
        self, path: Path, tensors: TensorFile, form: Form, dtype: torch.dtype | None
    ) -> None:
        self._path = path
        self._dtype = dtype
        self._tensors = tensors
        self._form = form
        self._ranks: dict[str, int] = {}  # As written; 1 for a layer of rank 0.
        self._alphas: dict[str, float] = {}
        self._sides: dict[str, int] = {}  # Key → the dimension along which its ranks lie.
        self.extra: dict[str, Any] = {"ranks": {}, "scales": {}}

    def add(
        self, name: str, factors: Factors, kind: Kind = "linear", kernel: Sequence[int] = ()
    ) -> None:
        """Write one layer. kernel: (inputs, *window) of a convolution, whose a is (r, n) here.

        The scale goes into B, in one rounding, or, in the compact form, into α such that PEFT's α/r
        is the scale to the last bit wherever a float64 allows it. Rank 0 is written as zeros: any
        reader loads it, and it adds nothing.
        Raises AdapterError for a layer of which one side is absent, that the server refuses, or
        that holds a value which the dtype cannot.
        """
        if factors.sides != "both":
            raise AdapterError(
                f"layer {name} of the adapter holds {factors.sides} alone; fill the other side "
                "before it is saved"
            )
        if self._form.server is not None:
            self._form.server.require_layer(name, kind)
            self._form.one_rank([factors.rank])
        where = f"layer {name} of {self._path}"
        factors = as_written(where, factors, self._dtype, keep_scale=self._form.compact)
        b, a = factors.b, factors.a
        if factors.rank == 0:
            self.extra["ranks"][name] = 0
            b, a = b.new_zeros(b.shape[0], 1), a.new_zeros(1, a.shape[1])
        rank = a.shape[0]
        if kind == "convolution":
            a = a.reshape(rank, *kernel)
            b = b.reshape(*b.shape, *(1 for _ in kernel[1:]))
        for dimension, (side, key) in enumerate(zip((a, b), pair_keys(name, kind), strict=True)):
            self._tensors.add(key, side)
            self._sides[key] = dimension
        self._ranks[name] = rank
        self._alphas[name] = _alpha(factors.scale, rank)
        if self._alphas[name] / rank != factors.scale:
            self.extra["scales"][name] = factors.scale

    @property
    def keeps_scales(self) -> bool:
        return self._form.compact

    @property
    def one_rank(self) -> int | None:
        return self._form.one_rank(self._ranks.values())

    def add_like(self, layer: StoredLayer, factors: Factors) -> None:
        """Write a layer of the name, the kind and the kernel of one that was read."""
        self.add(layer.name, factors, layer.kind, layer.a_shape[1:])

    def whole(self, key: str, tensor: Tensor) -> None:
        """Write a tensor that stands beside LoRA, under the key that it had.

        Raises AdapterError where the server does not take it.
        """
        if self._form.server is not None:
            self._form.server.require_beside(key)
        self._tensors.add(key, tensor)

    def fill_up(self, weights: Path) -> None:
        """Give every layer of the file that was written one rank, as the form has it.

        The ranks that the layers have without the zeros are noted.
        """
        rank = self._form.one_rank(self._ranks.values())
        if rank is None or set(self._ranks.values()) == {rank}:
            return
        aside = weights.with_suffix(".narrow")
        weights.rename(aside)
        with TensorReader(aside) as given, TensorFile(weights, given.stored) as filled:
            for key in given.stored:
                tensor = given.read(key)
                if key in self._sides:
                    tensor = filled_up(tensor, self._sides[key], rank)
                filled.add(key, tensor)
        aside.unlink()
        own = {name: x for name, x in self._ranks.items() if x != rank}
        self.extra["ranks"] = own | self.extra["ranks"]
        self._ranks = dict.fromkeys(self._ranks, rank)
        self._alphas = dict.fromkeys(self._ranks, float(rank))

    def config(self) -> dict[str, Any]:
        """r, α and patterns: the most common ones, every other layer pinned by its full name."""
        # PEFT matches a pattern as a regular expression at the end of a name: ^ pins it to one.
        rank = Counter(self._ranks.values()).most_common(1)[0][0]
        alpha = Counter(self._alphas.values()).most_common(1)[0][0]
        return {
            "peft_type": "LORA",
            "inference_mode": True,
            "r": rank,
            "lora_alpha": _whole(alpha),
            "lora_dropout": 0.0,
            "use_rslora": False,
            "bias": "none",
            "target_modules": list(self._ranks),
            "rank_pattern": {"^" + re.escape(n): r for n, r in self._ranks.items() if r != rank},
            "alpha_pattern": {
                "^" + re.escape(n): _whole(x) for n, x in self._alphas.items() if x != alpha
            },
        }


@contextmanager
def peft_folder(
    folder: Path | str,
    keys: Iterable[str],
    *,
    base: str,
    base_fingerprint: str = "",
    fan_in_fan_out: bool = False,
    task_type: str | None = TASK_TYPE,
    modules_to_save: Sequence[str] | None = None,
    form: Form = ALIKE,
    dtype: torch.dtype | None = None,
) -> Iterator[PeftWriter]:
    """Yield a writer of a new folder, which appears whole when the body ends, or not at all.

    keys: of all tensors that may be written (`pair_keys`). dtype: of A and B in the file (None: as
    they come). Memory is one tensor's, though ranks that differ are filled up to one that is known
    at the end: the file is then written twice.
    Raises RunError when the folder exists, RankError for ranks that the form's server refuses.
    """
    if form.server is not None:
        for name in modules_to_save or ():
            form.server.require_beside(name)
    with atomic_folder(folder) as aside:
        with TensorFile(aside / WEIGHTS, keys) as tensors:
            writer = PeftWriter(Path(folder), tensors, form, dtype)
            yield writer
        writer.fill_up(aside / WEIGHTS)
        config = writer.config() | {
            "base_model_name_or_path": base or None,
            "task_type": task_type,
            "fan_in_fan_out": fan_in_fan_out,
        }
        if modules_to_save:
            config["modules_to_save"] = list(modules_to_save)
        if base_fingerprint:
            writer.extra["base_fingerprint"] = base_fingerprint
        (aside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if any(writer.extra.values()):
            (aside / EXTRA).write_text(json.dumps(writer.extra, indent=2, sort_keys=True) + "\n")


def as_written(
    where: str, factors: Factors, dtype: torch.dtype | None, *, keep_scale: bool = False
) -> Factors:
    """The same update in this dtype (None: each side's own), rounded once, with the scale in B.

    keep_scale: leave the scale where it is. where: what is written, for errors.
    Raises AdapterError where the dtype cannot hold a value.
    """
    scale = 1.0 if keep_scale else factors.scale
    sides = []
    for side, by in ((factors.b, scale), (factors.a, 1.0)):
        stored = dtype or side.dtype
        if by == 1.0 and stored == side.dtype:
            sides.append(side)
            continue
        exact, why = side.double() * by, ""
        cures: tuple[str, ...] = ()
        if by != 1.0:
            why = f" once its scale of {by:.4g} is in B"
            cures = ("write it compact (PEFT folders keep scales then)",)
        require_held(where, [exact], stored, *cures, why=why)
        sides.append(exact.to(stored))
    return Factors(sides[0], sides[1], factors.scale if keep_scale else 1.0)


def filled_up(tensor: Tensor, dimension: int, rank: int) -> Tensor:
    """Zeros behind the ranks that are there, along this dimension."""
    shape = list(tensor.shape)
    shape[dimension] = rank - shape[dimension]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=dimension)


def _alpha(scale: float, rank: int) -> float:
    """The α for which α / rank is `scale` to the last bit, or as near as a float64 comes."""
    alpha = scale * rank
    for candidate in (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, -math.inf)):
        if candidate / rank == scale:
            return candidate
    return alpha


def _whole(number: float) -> float | int:
    """Whole numbers as integers, as PEFT writes them."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
