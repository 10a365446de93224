"""All tokens of a batch in one row, unpadded, and what its rows begin with alike only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import Evaluated, inference, supported
from flexlora.evaluation.reading import pristine, reading_of, trial_rows, whole_logits
from flexlora.models import AdaptedModel
from flexlora.models.branching import branching
from flexlora.models.packing import alike, can_pack, packed, told
from flexlora.models.prefixes import LEAST, Branches, Row, branches
from flexlora.models.read_rows import ReadRows
from flexlora.models.targets import output_head
from flexlora.shortage import out_of_memory


@dataclass(frozen=True, eq=False)
class Read:
    """logits[i]: (places, vocabulary), of row i from the place on that was asked for. places[i]:
    where its tokens stand in the row of all.
    """

    logits: list[Tensor]
    places: list[list[int]]


def together_of(model: Evaluated) -> bool:
    """Whether the model can be read so; tried once for each module, without Δ and adapters.

    On a CPU alone: elsewhere a call for each piece is not the faster way.
    """
    module = model.model
    if module not in _FOUND:
        reading_of(model)
        with pristine(model) as device:
            _FOUND[module] = device.type == "cpu" and _serves(model, device)
    return _FOUND[module]


# Beside the modules, which need not know; gone with them.
_FOUND: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def read_together(
    model: Evaluated,
    rows: Sequence[Row],
    firsts: Sequence[int],
    *,
    owners: Owners | None = None,
    cache: Any = None,
    least: int = LEAST,
) -> Read:
    """The logits of each row from place firsts[i] on, in one pass of the model (`together_of`).

    owners: of the rows, where the model carries adapters; only rows of one owner share anything.
    cache: empty, to keep all keys and values in, as of one row. least: see `branches`.
    """
    module = model.model
    cut = branches(rows, firsts, None if owners is None else owners.places, least=least)
    begins = cut.begins
    places = [
        [begins[s] + k for s in cut.path(end) for k in range(len(cut.segments[s].tokens))]
        for end in cut.last
    ]
    order = sorted(range(len(rows)), key=cut.last.__getitem__)
    read = [place for i in order for place in places[i][firsts[i] :]]
    tokens = [t for x in cut.segments for t in x.tokens]
    positions = [x.start + k for x in cut.segments for k in range(len(x.tokens))]
    piecewise = branching([cut.path(x.before) for x in cut.segments])
    with inference(module) as device, _shared(module, cut, order, firsts, places, owners):
        wanted = torch.tensor(read, device=device)
        options = supported(module, logits_to_keep=wanted)
        if cache is not None:
            options["past_key_values"] = cache
        with packed(module, cut.lengths, piecewise):
            found = module(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=cache is not None,
                **options,
            ).logits[0]
        kept = found if "logits_to_keep" in options else found[wanted]
        parts = torch.split(kept, [len(places[i]) - firsts[i] for i in order])
    logits = dict(zip(order, parts, strict=True))
    return Read([logits[i] for i in range(len(rows))], places)


@contextmanager
def _shared(
    module: Any,
    cut: Branches,
    order: Sequence[int],
    firsts: Sequence[int],
    places: Sequence[Sequence[int]],
    owners: Owners | None,
) -> Iterator[None]:
    """While the block runs, a client's adapter has its own tokens, and in the head those read."""
    if owners is None:
        yield
        return
    carried, head = owners.carried, output_head(module)
    whose = {s: i for i in order for s in cut.path(cut.last[i])}
    carried.share(owners.counts((whose[s], n) for s, n in enumerate(cut.lengths)), joins=False)
    counts = owners.counts((i, len(places[i]) - firsts[i]) for i in order)
    read = ReadRows(torch.empty(0, dtype=torch.long), counts, sum(cut.lengths))
    hooks = []
    if head is not None and supported(module, logits_to_keep=None):
        hooks.append(head.register_forward_pre_hook(lambda *_: carried.narrow(read)))
        hooks.append(head.register_forward_hook(lambda *_: carried.narrow(None)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        carried.narrow(None)


def _serves(model: Evaluated, device: torch.device) -> bool:
    """Whether rows that share most of themselves come out as they do alone, but for rounding."""
    module = model.model
    reading = reading_of(model)
    if not (reading.beside and reading.positions):
        return False
    if not (model.packs if isinstance(model, AdaptedModel) else can_pack(module)):
        return False
    begin, first, middle, *ends = trial_rows(model, 5, 3, 4, 2, 3, 1)
    rows = [begin + first, *(begin + middle + end for end in ends)]
    firsts = [len(begin), *[len(begin) + len(middle)] * len(ends)]
    try:
        with told():
            found = read_together(model, rows, firsts, least=1).logits
    # Whatever a model's forward cannot do: it is read padded then.
    except Exception as error:
        if out_of_memory(error):
            raise
        return False
    wanted = (whole_logits(module, row, device)[k:] for row, k in zip(rows, firsts, strict=True))
    return all(map(alike, found, wanted))
