"""How many clients to train at once: measured on the run's own clients, within its memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexlora.models import AdaptedModel
from flexlora.shortage import out_of_memory
from flexlora.training.cohort import train_cohort
from flexlora.training.memory import peak_bytes
from flexlora.training.sharing import LARGEST
from flexlora.training.visit import Visit

_STEPS = 2
_TURNS = 3  # Of which the quickest counts: whoever else uses the machine only slows it down.
_WORTH = 1.03  # A larger cohort must be so many times as fast as the best smaller one,
_SURE = 1.1  # and so many times as fast as one by one: less may be chance, and costs memory.
_PATIENCE = 2  # Numbers in a row that are not: one alone may have been bad luck.
_LONG_ENOUGH = 15.0  # Seconds after which nothing larger is tried.


@dataclass(frozen=True)
class Measured:
    """Of `clients` at once: times as fast as one by one, and the bytes that training took.

    speed is that of equal batches of the same clients; peak_bytes that of the longest examples,
    None where the system does not tell.
    """

    clients: int
    speed: float
    peak_bytes: int | None


@dataclass(frozen=True)
class CohortSize:
    """The number chosen, and what it was chosen from."""

    clients: int
    tried: tuple[Measured, ...]


def choose_cohort_size(
    model: AdaptedModel,
    visits: Sequence[Visit],
    *,
    origin: bool = False,
    budget_bytes: int,
) -> CohortSize:
    """The fastest number of clients, a power of two, that fits; 1 where none is a tenth faster.

    visits: of the run's clients; a few steps of each are trained and thrown away, and the visits
    themselves stay as they are. budget_bytes: for training, on top of the model. Doubles until two
    numbers in a row do not pay: each is timed in turns with clients one by one, and the quickest
    turns are compared. Where memory or a quarter of a minute runs out, nothing larger is tried.
    """
    tried: list[Measured] = []
    try:
        _measure(tried, model, visits, origin, budget_bytes)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    best = max(tried, key=lambda measured: measured.speed, default=Measured(1, 1.0, None))
    return CohortSize(best.clients if best.speed >= _SURE else 1, tuple(tried))


def _measure(
    tried: list[Measured],
    model: AdaptedModel,
    visits: Sequence[Visit],
    origin: bool,
    budget_bytes: int,
) -> None:
    """Add one client, two, four, …, up to the last that fits and that was worth trying."""
    best, in_vain = 1.0, 0
    longest = sorted(visits, key=lambda visit: max(_lengths(visit), default=0), reverse=True)
    began = time.perf_counter()
    _seconds(model, visits[:1], origin)  # Whatever is done once is done here.
    tried.append(Measured(1, 1.0, _peak(model, longest[:1], origin)))
    alone: list[float] = []
    while (clients := 2 * tried[-1].clients) <= min(len(visits), LARGEST):
        last = tried[-1]
        too_large = last.peak_bytes is not None and 2 * last.peak_bytes > budget_bytes
        if too_large or time.perf_counter() - began > _LONG_ENOUGH:
            return
        peak = _peak(model, longest[:clients], origin)
        if peak is not None and peak > budget_bytes:
            return
        tried.append(Measured(clients, _speed(alone, model, visits[:clients], origin), peak))
        in_vain = 0 if tried[-1].speed >= _WORTH * best else in_vain + 1
        best = max(best, tried[-1].speed)
        if in_vain == _PATIENCE:
            return


def _speed(alone: list[float], model: AdaptedModel, visits: Sequence[Visit], origin: bool) -> float:
    """Of these together, over one by one. alone: seconds of the first few; of all, afterwards."""
    new = visits[len(alone) :]
    by_turn: list[list[float]] = []
    together: list[float] = []
    for _ in range(_TURNS):
        by_turn.append([_seconds(model, [visit], origin) for visit in new])
        together.append(_seconds(model, visits, origin))
    alone += map(min, zip(*by_turn, strict=True))
    return sum(alone) / min(together)


def _seconds(model: AdaptedModel, visits: Sequence[Visit], origin: bool) -> float:
    """Of the first steps of these, together."""
    began = time.perf_counter()
    train_cohort(model, [_begun_anew(visit, max_steps=_STEPS) for visit in visits], origin=origin)
    return time.perf_counter() - began


def _peak(model: AdaptedModel, visits: Sequence[Visit], origin: bool) -> int | None:
    """Bytes of one step with the longest examples of each."""
    largest = []
    for visit in visits:
        lengths, size = _lengths(visit), visit.recipe.batch_size
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        batch = [visit.data[i] for i in order[:size]]
        largest.append(replace(_begun_anew(visit, max_steps=1), data=batch))
    rose = peak_bytes(lambda: train_cohort(model, largest, origin=origin), model.device)
    if rose is None:
        return None
    # Free memory of this process may hide some of it; weights and gradients are there for certain.
    numbers = sum(f.a.numel() + f.b.numel() for visit in visits for f in visit.adapter.values())
    return max(rose, 2 * 4 * numbers)


def _begun_anew(visit: Visit, max_steps: int) -> Visit:
    recipe = replace(visit.recipe, max_steps=min(max_steps, visit.recipe.max_steps or max_steps))
    return replace(visit, recipe=recipe, generator=visit.generator.clone_state())


def _lengths(visit: Visit) -> list[int]:
    return [len(x.prompt) + len(x.response) for x in visit.data]
