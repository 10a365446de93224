"""Faults that are made on purpose: what each does, how often, and that a resume meets the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from flexlora.config.faults import KINDS, FaultsConfig
from flexlora.engines.faulty import Faulty, damaged, rehearsed
from flexlora.engines.jobs import Evaluate, Failure, Job, Outcome, Reply, Scored
from flexlora.errors import AdapterError
from flexlora.evaluation import ClientScore
from flexlora.federation.outcomes import NOTHING, opened
from flexlora.formats.payloads import from_bytes
from flexlora.rules import make_rule
from reference import generator
from small import LAYERS, reply_to, spec, train_job

RULE = make_rule("flexlora")
SENT = RULE.send(RULE.init(spec(2), generator(0)), {x.name: 2 for x in LAYERS}, generator(1))


class Echo:
    """Answers every job with what it was sent."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = False

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.asked.append(job.id)
            if isinstance(job, Evaluate):
                yield Scored(job.id, job.client, ClientScore(job.client, "x", 1, {"loss": 1.0}))
            else:
                yield reply_to(job, SENT)

    def close(self) -> None:
        self.closed = True


def jobs(round: int = 1, count: int = 4, attempt: int = 1) -> list[Job]:
    return [
        train_job(f"c{i}", b"x", id=f"{round}-{i}", round=round, attempt=attempt)
        for i in range(count)
    ]


def met(kind: str, rate: float = 1.0) -> tuple[Echo, Faulty]:
    inner = Echo()
    return inner, Faulty(inner, FaultsConfig.model_validate({kind: rate}))


def ids(outcomes: Iterator[Outcome]) -> list[str]:
    return [outcome.job for outcome in outcomes]


def test_nothing_is_between_where_no_fault_is_asked_for() -> None:
    inner = Echo()
    assert rehearsed(inner, FaultsConfig()) is inner
    made = rehearsed(inner, FaultsConfig(drop=0.1))
    assert isinstance(made, Faulty)
    made.close()
    assert inner.closed


def test_an_answer_is_dropped_after_the_work_and_who_crashes_has_done_none() -> None:
    inner, dropping = met("drop")
    assert list(dropping.exchange(jobs())) == []
    assert len(inner.asked) == 4
    inner, crashing = met("crash")
    found = list(crashing.exchange(jobs()))
    assert inner.asked == []
    assert all(isinstance(x, Failure) and "a fault made on purpose" in x.reason for x in found)


def test_an_answer_comes_twice_or_when_clients_train_next_without_its_bytes() -> None:
    assert ids(met("duplicate")[1].exchange(jobs(count=2))) == ["1-0", "1-0", "1-1", "1-1"]
    delaying = met("delay")[1]
    assert list(delaying.exchange(jobs(count=2))) == []
    scoring = Evaluate("1-evaluate-0", 1, "c0", b"", ("loss",))
    assert list(delaying.exchange([scoring])) == []
    late = list(delaying.exchange(jobs(2, 2)))
    assert [x.job for x in late] == ["1-0", "1-1", "1-evaluate-0"]
    assert [x.payload for x in late if isinstance(x, Reply)] == [b"", b""]


def test_damage_is_always_noticed() -> None:
    reply = reply_to(train_job("a", b""), SENT)
    for place in range(100):
        broken = damaged(reply, place / 100)
        assert isinstance(broken, Reply)
        assert sum(x != y for x, y in zip(broken.payload, reply.payload, strict=True)) == 1
        with pytest.raises(AdapterError):
            from_bytes(broken.payload)
    (scored,) = met("corrupt")[1].exchange([Evaluate("1", 1, "a", b"", ("loss",))])
    assert isinstance(opened(scored, NOTHING, {"1", "a"}), Failure)


def test_each_fault_is_as_frequent_as_asked_and_no_client_meets_two() -> None:
    rates = dict(zip(KINDS, (0.05, 0.1, 0.15, 0.2, 0.25), strict=True))
    made = Faulty(Echo(), FaultsConfig.model_validate(rates))
    asked = jobs(count=4000)
    counts = dict.fromkeys(("", *KINDS), 0)
    for job in asked:
        counts[made._meets(job)[0]] += 1
    for kind, rate in {"": 0.25, **rates}.items():
        # Five standard deviations of a binomial count.
        assert abs(counts[kind] - 4000 * rate) < 5 * (4000 * rate * (1 - rate)) ** 0.5


def test_faults_are_drawn_by_seed_round_client_and_attempt_alone() -> None:
    half = FaultsConfig(drop=0.5)
    asked = jobs(count=60)
    one = ids(Faulty(Echo(), half).exchange(asked))
    made = Faulty(Echo(), half)
    list(made.exchange(jobs(7, 9)))
    assert ids(made.exchange(asked[::-1])) == one[::-1]
    second = jobs(count=60, attempt=2)
    others = (
        ids(Faulty(Echo(), half).exchange(second)),
        [x.replace("2-", "1-") for x in ids(Faulty(Echo(), half).exchange(jobs(2, 60)))],
        ids(Faulty(Echo(), FaultsConfig(drop=0.5, seed=1)).exchange(asked)),
    )
    assert all(other != one for other in others)
