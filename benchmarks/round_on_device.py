"""A whole round's algebra on a GPU, without files.

Factors are brought there in batches of layers of one shape, timed apart, and truncated one by one.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from flexlora.adapters import Factors, LayerSpec, factors_of
from flexlora.lowrank import LowRank, truncate
from measuring import peak_of, seconds
from one_layer import Replies, examples_of
from procedures import moved
from whole_round import Model, Plan, Row, about, in_dtype, planned


def round_on_device(model: Model, options: argparse.Namespace, folder: Path) -> Row:
    """Layers of one shape in batches: factors to the device, then cut and read out.

    The first batch of each shape is done once more beforehand: libraries load on first use.
    """
    plan, device = planned(model, options, folder), options.device
    plan.train()
    moving = combining = 0.0
    kinds, peak, met = Counter[str](), 0, set[LayerSpec]()
    for batch in _batches(plan, options.batch):
        samples = [Replies(plan.sample(index)) for index in batch]
        turned = [plan.turned(index, device) for index in batch]
        host = [[in_dtype(x.factors(k), plan.dtype) for k in range(plan.clients)] for x in samples]
        kind = replace(plan.layers[batch[0]], name=plan.layers[batch[0]].kind)
        for warming in (True, False) if kind not in met else (False,):
            took, sent = seconds(
                lambda: [[moved(x, device) for x in layer] for layer in host],  # noqa: B023
                device,
            )
            factors = [list(map(x.factors, layer)) for x, layer in zip(turned, sent, strict=True)]
            del sent
            work = partial(_combined, plan, batch, factors)
            timed: list[tuple[float, list[str]]] = []
            grew = peak_of(lambda: timed.append(seconds(work, device)), device)  # noqa: B023
            if not warming:
                (spent, found), peak = timed[0], max(peak, grew)
                moving, combining = moving + took, combining + spent
                kinds.update(found)
        met.add(kind)
    ours = {
        "transfer_seconds": moving,
        "combine_seconds": combining,
        "combine_extra_bytes": peak,
        "certificates": dict(kinds),
    }
    return about(plan, device) | {"batch": options.batch, "ours": ours}


def _batches(plan: Plan, largest: int) -> Iterator[list[int]]:
    """Places of layers of one shape and kind, at most so many at a time."""
    alike: dict[tuple[str, int, int], list[int]] = {}
    for index, layer in enumerate(plan.layers):
        alike.setdefault((layer.kind, layer.m, layer.n), []).append(index)
    for places in alike.values():
        for begin in range(0, len(places), largest):
            yield places[begin : begin + largest]


def _combined(plan: Plan, batch: list[int], factors: list[list[Factors]]) -> list[str]:
    """The kinds of certificate; what was combined and read out is dropped."""
    examples = examples_of(plan.clients)
    weights = [count / sum(examples) for count in examples]
    layer = plan.layers[batch[0]]
    sums = [LowRank.weighted_sum([x.product() for x in each], weights) for each in factors]
    generator = torch.Generator().manual_seed(plan.seed)
    highest = plan.spec.highest[layer.name]
    cuts = [truncate(whole, highest, generator) for whole in sums]
    for cut in cuts:
        for rank in plan.distinct(layer):
            factors_of(cut.kept, rank, plan.spec.scale(rank))
    return [cut.certificate.kind for cut in cuts]
