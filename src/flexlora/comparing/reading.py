"""From finished cells to the tidy table, through the typed readers of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import median

from flexlora.comparing.cells import Cell
from flexlora.comparing.table import ENERGIES, OWN_RANK, TRAINING, TUNED, VALIDATION, Row, Tidy
from flexlora.evaluation import MeanScore
from flexlora.runs.records import RoundRecord
from flexlora.runs.results import BASE, FULL, START
from flexlora.runs.run_directory import Run
from flexlora.runs.scored import FinalScores, SingleScore, read_scores
from flexlora.runs.spectra import Layer, Spectrum, read_spectra


def tidy(cells: Sequence[Cell]) -> Tidy:
    """Read the cells, in order. No model, no data and no tensor is loaded.

    Raises RunError for a cell with damaged files.
    """
    rows: list[Row] = []
    higher: dict[str, bool] = {}
    names: dict[str, str] = {}
    for cell in cells:
        run = Run.open(cell.folder)
        rows += _rows(cell, run)
        resolved = run.resolved  # Each entry of its type where it is there.
        higher.update(resolved.get("higher_is_better", {}))
        if "metric" in resolved:
            names[run.config.evaluation.metric] = resolved["metric"]
    configs = [(cell.arm, cell.config) for cell in cells if cell.config is not None]
    return Tidy(
        tuple(rows),
        frozenset(arm for arm, config in configs if config.federation.mode == "federated"),
        frozenset(arm for arm, config in configs if config.evaluation.types_at_end),
        higher,
        names,
    )


def _rows(cell: Cell, run: Run) -> Iterator[Row]:
    scores = read_scores(run)
    bare = cell.config is None
    records = [] if bare else run.records()
    costs = dict(zip((r.round for r in records), _costs(cell, records), strict=True))
    nothing = _blank(cell)
    whole = costs[records[-1].round] if records else nothing
    for record in records:
        yield from _of_round(costs[record.round], record)
    for spectrum in () if bare else read_spectra(run):
        if spectrum.round in costs:
            yield from _of_spectrum(costs[spectrum.round], spectrum)
            for name, ranks in ({} if scores is None else _typed(scores)).items():
                yield from _truncated(costs[spectrum.round], spectrum, name, ranks)
    if scores is None:
        return
    scored = replace(whole, final=True, round=0 if bare else scores.scored_round)
    for record in records:
        if record.round == scores.scored_round:
            yield from _validated(scored, record)
    for state in scores.states:
        if bare and state.state != BASE:
            continue
        for part, found in state.parts.items():
            of = replace(scored, part=part, state=state.state, ranks=state.ranks)
            if state.state == BASE:
                of = replace(of, learning_rate=0.0, round=0, bytes_up=0, bytes_down=0, tokens=0)
                of = replace(of, simulated=0.0)
            yield from _values(of, found.mean)
            for name, mean in found.types.items():
                yield from _values(replace(of, clients=name), mean)
            for name, mean in found.categories.items():
                yield from _values(replace(of, category=name), mean)
            for single in found.clients:
                one = replace(of, client=single.client, category=single.category)
                yield from _values(one, single)


def _blank(cell: Cell) -> Row:
    rate = 0.0 if cell.config is None else cell.config.training.learning_rate
    nothing = ("",) * 6
    return Row(cell.arm, cell.seed, rate, 0, False, *nothing, 0, "", math.nan, 0, 0, 0)


def _costs(cell: Cell, records: Sequence[RoundRecord]) -> Iterator[Row]:
    """A row a round, without a value, of all that was spent up to it."""
    up, down, tokens, simulated = (
        accumulate(of)
        for of in (
            (r.bytes_up for r in records),
            (r.total_bytes_down for r in records),
            (r.tokens for r in records),
            (0.0 if r.simulated is None else r.simulated.seconds for r in records),
        )
    )
    blank = _blank(cell)
    for record, sent, received, seen, took in zip(
        records, up, down, tokens, simulated, strict=True
    ):
        yield replace(
            blank,
            round=record.round,
            bytes_up=int(sent),
            bytes_down=int(received),
            tokens=int(seen),
            simulated=took,
        )


def _of_round(of: Row, record: RoundRecord) -> Iterator[Row]:
    training = replace(of, part=TRAINING)
    yield replace(training, metric="train_loss", value=record.train_loss)
    if record.cut is not None:
        yield replace(training, state=FULL, metric="cut", value=record.cut.error)
    if record.agreement is not None:
        yield replace(training, metric="agreement", value=record.agreement)
    yield from _validated(of, record)


def _validated(of: Row, record: RoundRecord) -> Iterator[Row]:
    of = replace(of, part=VALIDATION)
    if record.validation is not None:
        yield from _values(replace(of, state=FULL, ranks="full"), record.validation)
    if record.on_clients is None:
        return
    for state, kind in ((OWN_RANK, "global"), (TUNED, "tuned")):
        scores = record.on_clients.by_kind.get(kind)
        for name, spread in ({} if scores is None else scores.metrics).items():
            yield replace(of, state=state, metric=name, value=spread.mean)


def _of_spectrum(of: Row, spectrum: Spectrum) -> Iterator[Row]:
    """Medians over the layers that learned anything: effective rank, and the share of ‖ΔW‖² in
    the largest k directions."""
    of = replace(of, part=TRAINING, state=FULL)
    held = _held(spectrum)
    if held:
        rank = median(layer.effective_rank for layer in held)
        yield replace(of, metric="effective_rank", value=rank)
    for k in ENERGIES:
        if held and k <= max(len(layer.values) for layer in held):
            shares = [sum(x * x for x in layer.values[:k]) / layer.norm**2 for layer in held]
            yield replace(of, metric=f"energy_{k}", value=min(1.0, median(shares)))


def _typed(scores: FinalScores) -> dict[str, str]:
    """Client type → its rank, of those that have one rank in all layers."""
    return {
        state.state: state.ranks
        for state in scores.states
        if state.state not in (BASE, START, FULL) and state.ranks.isdecimal()
    }


def _truncated(of: Row, spectrum: Spectrum, name: str, ranks: str) -> Iterator[Row]:
    """What a type's rank cannot hold of ΔW: ‖ΔW − its best truncation‖ / ‖ΔW‖, the median over the
    layers that learned anything."""
    rank = int(ranks)
    held = _held(spectrum)
    beyond = [x for layer in held if (x := _beyond(layer, rank)) is not None]
    if held and len(beyond) == len(held):
        shares = [x / layer.norm for x, layer in zip(beyond, held, strict=True)]
        of = replace(of, part=TRAINING, state=name, ranks=ranks)
        yield replace(of, metric="truncation", value=median(shares))


def _beyond(layer: Layer, rank: int) -> float | None:
    """‖·‖_F of the singular values after the first so many. The smallest of many are not kept: None
    where it is of some of these alone."""
    if layer.rank <= len(layer.values):
        return math.hypot(*layer.values[rank:])
    if rank > len(layer.values):
        return 0.0 if rank >= layer.rank else None
    return math.sqrt(max(0.0, layer.norm**2 - math.hypot(*layer.values[:rank]) ** 2))


def _held(spectrum: Spectrum) -> list[Layer]:
    return [layer for layer in spectrum.layers.values() if layer.norm > 0]


def _values(of: Row, scored: MeanScore | SingleScore) -> Iterator[Row]:
    for metric, value in scored.values.items():
        yield replace(of, examples=scored.examples, metric=metric, value=value)
