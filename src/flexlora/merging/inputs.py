"""The adapters of a merge: opened, and held to what can be summed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from itertools import combinations
from numbers import Real
from pathlib import Path

import torch

from flexlora.errors import AdapterError, ConfigError, shown
from flexlora.formats.adapter_formats import open_adapter, require_fitting
from flexlora.formats.adapter_reader import AdapterReader
from flexlora.formats.home import expanded
from flexlora.formats.peft_form import Form
from flexlora.formats.peft_keys import FROZEN, is_vocabulary
from flexlora.formats.same_base import Base, difference
from flexlora.formats.stored_layer import StoredLayer, widened

Starts = Mapping[str, Path | str] | Mapping[Path, Path | str]  # Adapter → what it began from.


def checked_weights(adapters: int, weights: Sequence[float] | None) -> tuple[float, ...]:
    """One finite weight per adapter, not all zero; their mean (1/N each) where none are given."""
    if adapters == 0:
        raise ConfigError("no adapter to merge; name at least one")
    if weights is None:
        return (1.0 / adapters,) * adapters
    if not isinstance(weights, Sized) or isinstance(weights, str):
        raise ConfigError(f"weights are {weights!r}; give a list with one number for each adapter")
    if len(weights) != adapters:
        raise ConfigError(
            f"{len(weights)} weights for {adapters} adapters; give one weight for each"
        )
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise ConfigError(f"weight {weight!r} is no number; give numbers such as 0.5 or -1")
        if not math.isfinite(weight):
            raise ConfigError(f"weight {weight} is not finite; give numbers such as 0.5 or -1")
    if not any(weights):
        raise ConfigError("all weights are 0, so nothing would be left; give one that is not")
    return tuple(float(weight) for weight in weights)


def checked_initial(
    adapters: Sequence[Path | str], initial: Starts | None
) -> tuple[Path | None, ...]:
    """What each adapter began from, where that is given. Raises ConfigError for others' starts."""
    given = [] if initial is None else [*initial.items()]
    starts = {expanded(path): expanded(start) for path, start in given}
    places = [expanded(path) for path in adapters]
    for path in starts:
        if path not in places:
            raise ConfigError(
                f"initial names {path}, which is none of the adapters; name one as it is given"
            )
    return tuple(starts.get(place) for place in places)


@contextmanager
def opened(
    adapters: Sequence[Path | str],
    initial: Sequence[Path | str | None],
    out: Path | str,
    form: Form,
    *,
    force: bool,
) -> Iterator[tuple[AdapterReader, ...]]:
    """All adapters, open and fit to be summed: one format, that `out` fits, one base model and a
    layer that each shares with another (unless forced), one shape per layer, equal whole modules.
    Raises AdapterError naming the first two that do not fit.
    """
    with ExitStack() as stack:
        readers = tuple(
            stack.enter_context(open_adapter(path, start))
            for path, start in zip(adapters, initial, strict=True)
        )
        require_fitting(readers, out, form)
        if not force:
            for one, other in combinations(readers, 2):
                _require_one_base(one, other)
            _require_shared_layers(readers)
        _require_equal_modules(readers)
        _require_one_shape(readers)
        yield readers


def union(readers: Sequence[AdapterReader]) -> dict[str, StoredLayer]:
    """Name → the layer as the first adapter that has it describes it, in name order."""
    found: dict[str, StoredLayer] = {}
    for reader in readers:
        for name, layer in reader.layers.items():
            found.setdefault(name, layer)
    return dict(sorted(found.items()))


def _require_one_base(one: AdapterReader, other: AdapterReader) -> None:
    cure = "give adapters of one base model, or force the merge (--force) if they are"
    ours, theirs = one.about, other.about
    differing = difference(*(Base.of(about) for about in (ours, theirs)))
    if differing == "weights":
        raise AdapterError(
            f"{one.path} and {other.path} were made for different weights of "
            f"{ours.base or 'a model'}; {cure}"
        )
    if differing == "name":
        raise AdapterError(
            f"{one.path} was made for {ours.base}, {other.path} for {theirs.base}; {cure}"
        )
    if differing == "revision":
        raise AdapterError(
            f"{one.path} was made for {ours.base or 'a model'} as of revision "
            f"{shown(ours.revision)}, {other.path} as of {shown(theirs.revision)}; {cure}"
        )


def _require_shared_layers(readers: Sequence[AdapterReader]) -> None:
    """Names that nothing shares are mostly names of the same layers under another wrapper."""
    holders = Counter(name for reader in readers for name in reader.layers)
    for place, reader in enumerate(readers):
        if len(readers) > 1 and all(holders[name] == 1 for name in reader.layers):
            other = readers[place - 1] if place else readers[1]
            ours, theirs = (shown(next(iter(x.layers))) for x in (reader, other))
            raise AdapterError(
                f"{reader.path} and {other.path} share no layer: the first has {ours}, the second "
                f"{theirs}; give adapters of one model whose layers have the same names, or force "
                "the merge (--force) if these are different layers"
            )


def _require_one_shape(readers: Sequence[AdapterReader]) -> None:
    first: dict[str, tuple[AdapterReader, StoredLayer]] = {}
    for reader in readers:
        for name, layer in reader.layers.items():
            known_reader, known = first.setdefault(name, (reader, layer))
            if _described(known) != _described(layer):
                raise AdapterError(
                    f"layer {name} is {_described(known)} in {known_reader.path}, "
                    f"{_described(layer)} in {reader.path}; they are of different models"
                )
    flips = {reader.about.fan_in_fan_out for reader in readers}
    if len(flips) > 1:
        raise AdapterError(
            f"fan_in_fan_out is on in {_first(readers, True)} and off in {_first(readers, False)}; "
            "correct adapter_config.json where it is wrong"
        )


def _first(readers: Sequence[AdapterReader], on: bool) -> Path:
    return next(reader.path for reader in readers if reader.about.fan_in_fan_out is on)


def _described(layer: StoredLayer) -> str:
    experts = (layer.expert.experts,) if layer.expert is not None else ()
    return f"{layer.kind} {' × '.join(map(str, (*experts, layer.m, *layer.a_shape[1:])))}"


def whole(readers: Sequence[AdapterReader]) -> dict[str, AdapterReader]:
    """Key of a tensor that stands beside LoRA → a reader that holds it."""
    return {key: reader for reader in reversed(readers) for key in reader.whole}


def _require_equal_modules(readers: Sequence[AdapterReader]) -> None:
    for key, first in sorted(whole(readers).items()):
        cure = "modules saved whole cannot be summed; merge adapters that share them, or have none"
        if is_vocabulary(key):
            cure += (
                "; embeddings that are the base model's own are left out by "
                "save_pretrained(…, save_embedding_layers=False)"
            )
        for reader in readers:
            if key not in reader.whole:
                # A copy of the base model's own weight may be in one of them alone.
                if key.endswith(FROZEN):
                    continue
                raise AdapterError(f"{first.path} holds {key}, which {reader.path} lacks; {cure}")
            if reader is not first and not torch.equal(
                *(widened(x.tensor(key)) for x in (first, reader))
            ):
                raise AdapterError(f"{key} differs between {first.path} and {reader.path}; {cure}")
