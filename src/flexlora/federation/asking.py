"""A round's exchange: who would be late is asked for nothing, who runs out of memory for less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from flexlora.adapters import ranks_in_words
from flexlora.engines.jobs import Failure, Offer, Outcome, Train, TrainSparse, Transport
from flexlora.errors import cut_short
from flexlora.federation.admission import Collected
from flexlora.federation.clock import Clock
from flexlora.federation.observers import Observer
from flexlora.federation.stages import S, Stage
from flexlora.formats.visible import visible
from flexlora.rules import State
from flexlora.runs.events import Lowered
from flexlora.runs.records import Simulated
from flexlora.runs.store import ClientStore

_TRIES = 10  # Halving a rank of a thousand ends before.
_REASON = 500  # Characters.


@final
class Asking:
    """What stands between the loop and a transport. clock: None without devices."""

    def __init__(self, observer: Observer, clock: Clock | None = None) -> None:
        self._observer, self._clock = observer, clock

    def answers(
        self,
        transport: Transport,
        stage: Stage[S],
        state: State,
        store: ClientStore,
        asked: S,
    ) -> Iterator[Outcome]:
        """What comes back for a round's jobs.

        Whoever would miss the deadline is a failure that is late, and trains nothing here. A client
        that offers lower ranks gets a new job at those, which stands in the place of the one before
        in what was asked, and the store keeps them: that is where its next rounds begin.
        """
        waiting, tries = list(asked.jobs), 0
        while waiting:
            late = {job.client: why for job in waiting if (why := self._late(stage, asked, job))}
            for job in waiting:
                if job.client in late:
                    yield Failure(job.id, job.client, late[job.client], "late")
            in_time = [job for job in waiting if job.client not in late]
            waiting, tries = [], tries + 1
            for outcome in transport.exchange(in_time) if in_time else ():
                if not isinstance(outcome, Offer):
                    yield outcome
                elif tries > _TRIES:
                    yield Failure(outcome.job, outcome.client, f"out of memory {tries} times")
                else:
                    found = self._again(stage, state, store, asked, outcome)
                    if isinstance(found, Failure):
                        yield found
                    else:
                        waiting.append(found)

    def seconds(self, stage: Stage[S], asked: S) -> dict[str, float]:
        """Client → seconds until its answer would be there; nobody without devices."""
        if self._clock is None:
            return {}
        ranks = {job.client: stage.ranks(asked, job.client) for job in asked.jobs}
        return self._clock.each(asked.jobs, ranks)

    def simulated(self, took: Mapping[str, float], collected: Collected) -> Simulated | None:
        """How long the round would have taken, which is over once enough are there: where somebody
        is needed no more, with the last of those who counted. None without devices."""
        if self._clock is None:
            return None
        return self._clock.round(took, list(collected.replies) if collected.spare else ())

    def _late(self, stage: Stage[S], asked: S, job: Train | TrainSparse) -> str:
        if self._clock is None:
            return ""
        return self._clock.late(job, stage.ranks(asked, job.client))

    def _again(
        self, stage: Stage[S], state: State, store: ClientStore, asked: S, offer: Offer
    ) -> Train | TrainSparse | Failure:
        before = store.ranks.get(offer.client, {})
        found = stage.smaller(state, store, asked, offer)
        if not isinstance(found, Failure):
            self._observer.told(
                Lowered(
                    round=state.round + 1,
                    client=found.client,
                    before=ranks_in_words(before),
                    after=ranks_in_words(store.ranks[found.client]),
                    reason=cut_short(visible(offer.reason[:_REASON]), _REASON),
                )
            )
        return found
