"""PEFT LoRA folders written one layer at a time, so that every reader computes the same update."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from flexlora.adapters import About, Factors
from flexlora.errors import AdapterError, shown
from flexlora.formats.as_written import as_written, filled_up
from flexlora.formats.atomic import atomic_folder
from flexlora.formats.parameters import Parameter, joined
from flexlora.formats.peft_config import CONFIG, EXTRA, LARGEST_NUMBER, LONGEST_NAME, WEIGHTS
from flexlora.formats.peft_form import ALIKE, Form
from flexlora.formats.peft_keys import Kind, pair_keys
from flexlora.formats.peft_written import Target, config_about, ranks, scales
from flexlora.formats.peft_written import config as config_of
from flexlora.formats.stored_layer import StoredLayer
from flexlora.formats.tensor_file import TensorFile, TensorReader


@final
class PeftWriter:
    """A PEFT folder being written; `peft_folder` makes one."""

    def __init__(
        self,
        path: Path,
        tensors: TensorFile,
        form: Form,
        dtype: torch.dtype | None,
        wrappers: Mapping[str, str],
    ) -> None:
        self._path = path
        self._dtype = dtype
        self._tensors = tensors
        self._form = form
        self._wrappers = wrappers
        self.targets: list[Target] = []
        # Layer of a parameter whose experts are coming → expert → its layer and factors.
        self._experts: dict[str, dict[int, tuple[str, Factors]]] = {}

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
        written = self._as_written(name, factors, kind)
        a, b = (filled_up(x, i, max(1, factors.rank)) for i, x in enumerate((written.a, written.b)))
        if kind == "convolution":
            a = a.reshape(-1, *kernel)
            b = b.reshape(*b.shape, *(1 for _ in kernel[1:]))
        keys = pair_keys(name, kind)
        self._add(a, b, Target.of(name, keys, a.shape[0], written.scale, {name: factors.rank}))

    @property
    def keeps_scales(self) -> bool:
        return self._form.compact

    @property
    def one_rank(self) -> int | None:
        return self._form.one_rank([target.rank for target in self.targets])

    def add_like(self, layer: StoredLayer, factors: Factors) -> None:
        """Write a layer of the name, the kind and the kernel of one that was read.

        Experts of a parameter come one after another, and are held until all are there.
        """
        if layer.expert is None:
            self.add(layer.name, factors, layer.kind, layer.a_shape[1:])
            return
        written = self._as_written(layer.name, factors, layer.kind)
        parameter = layer.expert.parameter
        come = self._experts.setdefault(parameter.layer, {})
        come[layer.expert.expert] = (layer.name, written)
        if len(come) == layer.expert.experts:
            del self._experts[parameter.layer]
            self._add_parameter(parameter, [come[place] for place in sorted(come)])

    def _add_parameter(self, parameter: Parameter, experts: list[tuple[str, Factors]]) -> None:
        """Experts of different ranks are filled up to one, which PEFT has of them."""
        rank = max(1, *(factors.rank for _, factors in experts))
        a, b = joined([(filled_up(x.a, 0, rank), filled_up(x.b, 1, rank)) for _, x in experts])
        (scale,) = {factors.scale for _, factors in experts}
        keys = pair_keys(self._wrappers[parameter.layer])
        own = {name: factors.rank for name, factors in experts}
        self._add(a, b, Target.of(parameter.layer, keys, rank, scale, own, parameter))

    def whole(self, key: str, tensor: Tensor) -> None:
        """Write a tensor that stands beside LoRA, under the key that it had.

        Raises AdapterError where the server does not take it.
        """
        if self._form.server is not None:
            self._form.server.require_beside(key)
        self._tensors.add(key, tensor)

    def fill_up(self, weights: Path) -> None:
        """Give every layer of the file that was written one rank, as the form has it."""
        rank = self.one_rank
        if rank is None or {target.rank for target in self.targets} == {rank}:
            return
        sides = {key: (i, target) for target in self.targets for i, key in enumerate(target.keys)}
        aside = weights.with_suffix(".narrow")
        weights.rename(aside)
        with TensorReader(aside) as given, TensorFile(weights, given.stored) as filled:
            for key in given.stored:
                tensor = given.read(key)
                if key in sides:
                    dimension, target = sides[key]
                    tensor = filled_up(tensor, dimension, rank, len(target.own))
                filled.add(key, tensor)
        aside.unlink()
        self.targets = [target.filled_up(rank) for target in self.targets]

    def _as_written(self, name: str, factors: Factors, kind: Kind) -> Factors:
        if factors.sides != "both":
            raise AdapterError(
                f"layer {name} of the adapter holds {factors.sides} alone; fill the other side "
                "before it is saved"
            )
        if self._form.server is not None:
            self._form.server.require_layer(name, kind)
            self._form.one_rank([factors.rank])
        where = f"layer {name} of {self._path}"
        return as_written(where, factors, self._dtype, keep_scale=self._form.compact)

    def _add(self, a: Tensor, b: Tensor, target: Target) -> None:
        if abs(target.alpha) > LARGEST_NUMBER:
            raise AdapterError(
                f"layer {target.name} of {self._path} has a scale of {target.scale:g}, for which "
                f"lora_alpha would be above {LARGEST_NUMBER:g}; leave compact out"
            )
        for key, side in zip(target.keys, (a, b), strict=True):
            self._tensors.add(key, side)
        self.targets.append(target)


@contextmanager
def peft_folder(
    folder: Path | str,
    keys: Iterable[str],
    about: About,
    *,
    modules_to_save: Sequence[str] = (),
    form: Form = ALIKE,
    dtype: torch.dtype | None = None,
    wrappers: Mapping[str, str] | None = None,
    target_parameters: Sequence[str] = (),
    beside: Mapping[str, bytes] | None = None,
) -> Iterator[PeftWriter]:
    """Yield a writer of a new folder, which appears whole when the body ends, or not at all.

    keys: of all tensors that may be written (`pair_keys`). dtype: of A and B in the file (None: as
    they come). wrappers: what holds each parameter's tensors (`nested`); target_parameters: what
    the config says of them, none for their full names. beside: further files, by their names.
    Memory is one tensor's, or that of a parameter with all of its experts, though ranks that differ
    are filled up to one that is known at the end: the file is then written twice.
    Raises RunError when the folder exists, RankError for ranks that the form's server refuses.
    """
    if len(about.base) > LONGEST_NAME or about.base != about.base.encode(errors="replace").decode():
        raise AdapterError(
            f"the base model's name is {shown(about.base)}, of {len(about.base)} characters; give "
            f"one of {LONGEST_NAME} at most, of characters that UTF-8 has"
        )
    if form.server is not None:
        for name in modules_to_save:
            form.server.require_beside(name)
    with atomic_folder(folder) as aside:
        with TensorFile(aside / WEIGHTS, keys) as tensors:
            writer = PeftWriter(Path(folder), tensors, form, dtype, wrappers or {})
            yield writer
        writer.fill_up(aside / WEIGHTS)
        config = config_of(writer.targets, target_parameters) | config_about(about, writer.targets)
        if modules_to_save:
            config["modules_to_save"] = list(modules_to_save)
        extra: dict[str, Any] = {"ranks": ranks(writer.targets), "scales": scales(writer.targets)}
        if about.base_fingerprint:
            extra["base_fingerprint"] = about.base_fingerprint
        (aside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for name, content in (beside or {}).items():
            (aside / name).write_bytes(content)
        if any(extra.values()):
            (aside / EXTRA).write_text(json.dumps(extra, indent=2, sort_keys=True) + "\n")
