"""Adapters of one .safetensors file written, under the keys that their layers came in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.errors import AdapterError
from flexlora.formats.as_written import as_written, filled_up
from flexlora.formats.atomic import atomic_file, require_free, scratch_file
from flexlora.formats.single_file import ALPHA, Origin, SingleFileReader
from flexlora.formats.stored_layer import StoredLayer
from flexlora.formats.tensor_file import TensorFile, TensorReader

# What metadata says of the base; the rest (training, hashes) is no longer true of a sum.
_KEPT: Final = ("format", "ss_base_model_version", "ss_network_module", "modelspec.architecture")


@final
class SingleFileWriter:
    """Layers written under the keys that they have in the files that they come from."""

    def __init__(
        self, path: Path, origins: Mapping[str, Origin], file: TensorFile, *, compact: bool
    ) -> None:
        self._path = path
        self._origins, self._file, self._compact = origins, file, compact
        self._layers: dict[str, int] = {}
        self._written: set[int] = set()

    @property
    def keeps_scales(self) -> bool:
        return False

    @property
    def one_rank(self) -> int | None:
        return next(iter(self._written)) if len(self._written) == 1 else None

    def add_like(self, layer: StoredLayer, factors: Factors) -> None:
        """Scale 1, the scale in B; rank 0 as zeros."""
        factors = as_written(f"layer {layer.name} of {self._path}", factors, None)
        b, a = factors.b, factors.a
        if factors.rank == 0:
            b, a = b.new_zeros(b.shape[0], 1), a.new_zeros(1, a.shape[1])
        if layer.kind == "convolution":
            a = a.reshape(-1, *layer.a_shape[1:])
            b = b.reshape(*b.shape, *(1 for _ in layer.a_shape[2:]))
        self._file.add(f"A {layer.name}", a)
        self._file.add(f"B {layer.name}", b)
        self._layers[layer.name] = a.shape[0]

    def whole(self, key: str, tensor: Tensor) -> None:
        raise AssertionError(key)  # Such files hold nothing whole.

    def assemble(self, given: TensorReader, out: TensorFile) -> None:
        """From a tensor for each side of a layer to the keys of the format."""
        stems: dict[str, list[str]] = defaultdict(list)
        ranks: dict[str, int] = {}
        for name, rank in self._layers.items():
            stems[self._origins[name].stem].append(name)
            group = self._group(name)
            ranks[group] = max(rank, ranks.get(group, 1))
        for stem, names in stems.items():
            names.sort(key=lambda name: self._origins[name].expert or 0)
            origin, rank = self._origins[names[0]], ranks[self._group(names[0])]
            if len(names) != origin.experts:
                raise AdapterError(
                    f"layer {stem} has {origin.experts} experts in one adapter and {len(names)} in "
                    "all; they are of different models"
                )
            self._written.add(rank)
            for dimension, side in ((0, "A"), (1, "B")):
                tensors = [filled_up(given.read(f"{side} {x}"), dimension, rank) for x in names]
                tensor = tensors[0] if origin.expert is None else torch.stack(tensors)
                out.add(origin.keys[side], tensor)
            if origin.has_alpha:
                out.add(origin.alpha or stem + ALPHA, torch.tensor(float(rank)))

    def _group(self, name: str) -> str:
        """Layers of one group are written at one rank: all that have no alpha, as their readers
        take α from one layer of them; else the experts of one tensor.
        """
        origin = self._origins[name]
        return origin.stem if origin.has_alpha or self._compact else ""


@contextmanager
def single_file(
    path: Path | str, readers: Sequence[SingleFileReader], *, compact: bool
) -> Iterator[SingleFileWriter]:
    """Yield a writer of a new file, which appears whole when the body ends, or not at all.

    Keys are those of the first reader that has a layer. compact: layers without an alpha keep their
    own ranks. Memory is one tensor's; the file is written twice, as ranks are known at the end.
    Raises RunError when the file exists.
    """
    target = Path(path)
    require_free(target)
    origins = {name: x for r in reversed(readers) for name, x in r.origins.items()}
    metadata = {key: x for key, x in readers[0].metadata.items() if key in _KEPT}
    with atomic_file(target) as aside, scratch_file(target) as narrow:
        with TensorFile(narrow, [f"{side} {x}" for x in origins for side in "AB"]) as file:
            writer = SingleFileWriter(target, origins, file, compact=compact)
            yield writer
        keys = {key for x in origins.values() for key in (*x.keys.values(), x.stem + ALPHA)}
        keys |= {x.alpha for x in origins.values() if x.alpha}
        with (
            TensorReader(narrow) as given,
            TensorFile(aside, keys, metadata or {"format": "pt"}) as out,
        ):
            writer.assemble(given, out)
        require_free(target)
