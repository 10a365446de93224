"""How long a round would have taken on the clients' devices: by their profiles alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import final

from flexlora.adapters import Sides, Wire
from flexlora.engines.jobs import Train, TrainSparse
from flexlora.federation.fleet import Fleet
from flexlora.federation.foresight import Foresight
from flexlora.federation.setup import Setup
from flexlora.planning.allotment import seconds_of_links
from flexlora.planning.traffic import traffic
from flexlora.planning.words import duration
from flexlora.rules import Rule
from flexlora.runs.records import Simulated


@final
class Clock:
    """Seconds of a client's part of a round: computing by the cost model, what it is sent and sends
    over its link, and all that divided by the share of the time that it works on a round.

    Nothing is measured: the same jobs take the same time, on any machine. deadline: seconds after
    which a round is over; None: when the last one has answered. wire: of adapters, as they come
    back; what a job sends it counts itself.
    """

    def __init__(
        self,
        fleet: Fleet,
        foresight: Foresight,
        rule: Rule,
        deadline: float | None = None,
        wire: Wire = "exact",
    ) -> None:
        self.fleet, self.foresight, self.rule, self.deadline = fleet, foresight, rule, deadline
        self.wire: Wire = wire
        self._up: dict[tuple[Sides, tuple[tuple[str, int], ...]], int] = {}
        self._busy: dict[tuple[str, tuple[tuple[str, int], ...]], float] = {}

    def seconds(self, job: Train | TrainSparse, ranks: Mapping[str, int]) -> float:
        """ranks: layer → rank at which this client trains. Single weights take as long as an
        adapter of as many numbers."""
        device, pattern = self.fleet.device(job.client), tuple(ranks.items())
        key = job.client, pattern
        if key not in self._busy:
            parts = self.foresight.parts(self.rule, job.client)
            self._busy[key] = sum(
                count * self.foresight.seconds(ranks, setting, device) for setting, count in parts
            )
        busy = self._busy[key]
        busy += seconds_of_links(job.bytes_down, self._bytes_up(job.round, pattern), device)
        return busy / device.availability

    def late(self, job: Train | TrainSparse, ranks: Mapping[str, int]) -> str:
        """In words, why its answer would come too late; "" where it comes in time."""
        took = self.seconds(job, ranks)
        if self.deadline is None or took <= self.deadline:
            return ""
        return (
            f"late: {duration(took)} on its device ({self.fleet.of[job.client]}), the deadline is "
            f"{duration(self.deadline)}"
        )

    def each(
        self, jobs: Sequence[Train | TrainSparse], ranks: Mapping[str, Mapping[str, int]]
    ) -> dict[str, float]:
        """Client → seconds until its answer is there. ranks: client → layer → rank."""
        return {job.client: self.seconds(job, ranks[job.client]) for job in jobs}

    def round(self, took: Mapping[str, float], closed: Collection[str] = ()) -> Simulated:
        """Of a whole round of which `each` has told. closed: whose answers were enough, so that it
        was over when the last of them came; none: all were waited for."""
        slowest = max(sorted(took), key=took.__getitem__)
        limit = self.deadline
        late = [client for client in sorted(took) if limit is not None and took[client] > limit]
        return Simulated(
            seconds=_over(took, closed, limit if late else None),
            slowest=slowest,
            device=self.fleet.of[slowest],
            slowest_seconds=took[slowest],
            late=tuple(late),
        )

    def _bytes_up(self, round: int, pattern: tuple[tuple[str, int], ...]) -> int:
        key = self.rule.returns(round), pattern
        if key not in self._up:
            layers, alone = self.foresight.shape.layers, {"": dict(pattern)}
            sent = traffic(self.rule, layers, alone, {}, self.wire, rounds=(round,))
            self._up[key] = sent[""].up
        return self._up[key]


def _over(took: Mapping[str, float], closed: Collection[str], limit: float | None) -> float:
    if closed:
        return max(took[client] for client in closed)
    return max(took.values()) if limit is None else limit


def clock_of(setup: Setup, rule: Rule) -> Clock | None:
    """None without devices, and for a centralised run, whose one client has none."""
    if setup.fleet is None or setup.config.federation.mode == "centralised":
        return None
    deadline = setup.config.federation.deadline_seconds
    return Clock(setup.fleet, setup.foresight, rule, deadline, setup.config.federation.wire)
