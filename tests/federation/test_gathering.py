"""Who is asked, how often, and who counts: quorum, spares, attempts, rests, and a stop anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from federation.test_loop import RANKS, assert_same, federation, logged, noise, play, told
from flexlora.adapters import Adapter, Factors
from flexlora.config.faults import FaultsConfig
from flexlora.engines.faulty import Faulty
from flexlora.engines.jobs import Failure, Job, Outcome, Reply, Transport
from flexlora.errors import RoundError, TooFewError
from flexlora.federation.collector import Plain
from flexlora.federation.loop import Federation
from flexlora.federation.screening import Passed
from flexlora.federation.stages import AdapterStage
from flexlora.rules import Rule
from flexlora.runs.events import Failed, Repeated, Rested, RoundBegun, RoundEnded, Spare
from flexlora.screens.multi_krum import MultiKrum
from same_run import happened
from small import Noise, read, reply_to


class Fails:
    """Noise of which some clients fail: (round, attempt) → these; in time: in which order come."""

    def __init__(self, rule: Rule, when: dict[tuple[int, int], str], order: str = "") -> None:
        self.inner = Noise(rule)
        self.when = when
        self.order = order
        self.closed: list[str] = []

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        asked = sorted(jobs, key=lambda job: self.order.find(job.client))
        given = [job.client for job in asked]
        try:
            for job in asked:
                lost = self.when.get((job.round, getattr(job, "attempt", 1)), "")
                given.remove(job.client)
                if job.client in lost:
                    yield Failure(job.id, job.client, "its disk is full")
                else:
                    yield from self.inner.exchange([job])
        finally:
            self.closed += given

    def close(self) -> None: ...


def failing(
    folder: Path, when: dict[tuple[int, int], str], order: str = "", **schedule: Any
) -> Federation:
    made = federation(folder, **schedule)
    made.transport = cast(Transport, Fails(made.rule, when, order))
    return made


def begun(made: Federation) -> list[RoundBegun]:
    return [event for event in told(made) if isinstance(event, RoundBegun)]


def test_a_round_below_the_quorum_is_tried_again_with_others(tmp_path: Path) -> None:
    whole = federation(tmp_path / "whole", rounds=1)
    first = play(whole)[0].clients
    lost = "".join(first[:2])
    made = failing(tmp_path / "r", {(1, 1): lost}, rounds=1, min_clients=2, attempts=2)
    (record,) = play(made)
    one, two = begun(made)
    assert (one.attempt, two.attempt) == (1, 2)
    assert one.clients == first
    others = set(RANKS) - set(first)
    assert others < set(two.clients)
    assert record.clients == two.clients
    assert record.missing == (tuple(first[:2]), ())
    assert (record.attempts, record.failures) == (2, 2)
    sent = {job.client: job.bytes_down for job in cast(Fails, made.transport).inner.jobs}
    assert record.bytes_down > sum(sent[client] for client in two.clients)
    (again,) = made.run.events(Repeated)
    assert (again.came, again.asked, again.needed) == (1, 3, 2)
    assert made.run.records() == [record]


def test_a_share_of_those_asked_is_a_quorum_too(tmp_path: Path) -> None:
    when = {(1, 1): "ab"}
    made = failing(tmp_path / "r", when, clients=5, rounds=1, min_share=0.61)
    with pytest.raises(RoundError, match=r"round 1: 3 of 5 clients .* expected 4 by"):
        made.play()
    assert play(failing(tmp_path / "s", when, clients=5, rounds=1, min_share=0.6))


def test_too_few_in_every_attempt_end_the_run_with_what_is_committed(tmp_path: Path) -> None:
    when = {(2, attempt): "abcde" for attempt in (1, 2)}
    asked: dict[str, Any] = {"rounds": 3, "min_clients": 2, "attempts": 2}
    made = failing(tmp_path / "r", when, **asked)
    made.play()
    with pytest.raises(RoundError, match=r"round 2, attempt 2: none of 3 clients") as error:
        made.play()
    assert "its disk is full" in str(error.value)
    assert "resume" in str(error.value)
    assert made.run.checkpoints() == [1]
    assert [record.round for record in made.run.records()] == [1]
    again = failing(tmp_path / "r", {}, values=[-1.0, -2.0], **asked)
    play(again)
    whole = failing(tmp_path / "whole", {}, **asked)
    play(whole)
    assert_same(again, whole)
    assert happened(again.run) == happened(whole.run)


def test_an_answer_to_an_earlier_attempt_is_refused(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", clients=5, rounds=1, min_clients=5, attempts=2)
    inner, kept = noise(made), list[Reply]()

    class Again:
        def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            yield from kept
            for outcome in inner.exchange(jobs):
                assert isinstance(outcome, Reply)
                if outcome.client == "c" and not kept:
                    kept.append(replace(outcome, examples=9))
                else:
                    yield outcome

        def close(self) -> None: ...

    made.transport = Again()
    (record,) = play(made)
    assert record.examples == 15
    assert record.missing == (("c",), ())
    refused = [event for event in made.run.events(Failed) if event.kind == "stray"]
    assert [event.client for event in refused] == ["c"]
    assert "'1-2', which is not open" in refused[0].reason


def test_more_are_asked_and_the_first_drawn_count(tmp_path: Path) -> None:
    """Where nobody fails, the bits are those without; where one does, a spare one counts."""
    plain = federation(tmp_path / "plain", rounds=2)
    play(plain)
    made = failing(tmp_path / "more", {}, rounds=2, over_sample=1.5)
    records = play(made)
    assert_same(made, replace_held(plain, made))
    assert [len(event.clients) for event in begun(made)] == [5, 5]
    assert [r.clients for r in records] == [r.clients for r in plain.run.records()]
    for record in records:
        assert set(record.spare) == set(RANKS) - set(record.clients)
        assert (record.failures, record.missing) == (0, ())
    late = [(event.round, event.client) for event in made.run.events(Spare)]
    assert sorted(late) == sorted((r.round, x) for r in records for x in r.spare)
    gone = records[0].clients[0]
    spared = failing(tmp_path / "spared", {(1, 1): gone}, rounds=1, over_sample=1.5)
    (record,) = play(spared)
    assert len(record.clients) == 3
    assert record.missing == ((gone,),)
    assert len(record.spare) == 1


def replace_held(plain: Federation, other: Federation) -> Federation:
    """Who is late was sent Δ, too."""
    plain.store.held |= other.store.held
    return plain


def test_over_a_network_the_first_in_time_count_and_the_round_closes(tmp_path: Path) -> None:
    made = failing(tmp_path / "r", {}, "edcba", rounds=1, clients=2, over_sample=2.5)
    made.in_time = True
    (record,) = play(made)
    assert record.clients == ("d", "e")
    assert record.spare == ("a", "b", "c")
    assert record.failures == 0
    assert cast(Fails, made.transport).closed == ["c", "b", "a"]
    slow = failing(tmp_path / "s", {(1, 1): "e"}, "edcba", rounds=1, clients=2, over_sample=2.5)
    slow.in_time = True
    assert play(slow)[0].clients == ("c", "d")


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_who_fails_again_and_again_rests_and_is_back(tmp_path: Path, stop: int) -> None:
    """Also over a stop: who rests is in the checkpoint."""
    when = {(round, 1): "c" for round in range(1, 8)}
    asked: dict[str, Any] = {"rounds": 8, "clients": 4, "rest_after": 2, "rest_rounds": 2}
    made = failing(tmp_path / "r", when, **asked)
    records = play(made)
    rested = made.run.events(Rested)
    assert rested
    assert {event.client for event in rested} == {"c"}
    assert rested[0].failures == 2
    for event in rested:
        for record in records[event.round : event.until]:
            assert record.resting == ("c",)
            assert "c" not in begun(made)[record.round - 1].clients
    assert rested[1].round == next(
        r.round for r in records[rested[0].until :] if any("c" in x for x in r.missing)
    )
    folder = tmp_path / "stopped"
    first = failing(folder, when, **asked)
    for _ in range(stop):
        first.play()
    second = failing(folder, when, values=[-float(i) for i in range(stop, 100)], **asked)
    play(second)
    assert_same(second, made)
    assert logged(second.run) == logged(made.run)
    assert second.run.events(Rested) == rested


def test_a_good_answer_ends_the_row_and_no_rest_takes_the_quorum(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"clients": 5, "rest_after": 2, "rest_rounds": 9}
    when = {(1, 1): "a", (3, 1): "a"}
    made = failing(tmp_path / "r", when, rounds=4, **asked)
    play(made)
    assert made.run.events(Rested) == []
    assert made.store.failed == {}
    lost = {(1, 1): "abc", (2, 1): "abc"}
    whole = failing(tmp_path / "whole", lost, rounds=3, **asked)
    play(whole)
    assert [len(event.clients) for event in begun(whole)] == [5, 5, 2]
    needy = failing(tmp_path / "needy", {**lost, (3, 1): "d"}, rounds=3, **asked, min_clients=2)
    with pytest.raises(RoundError, match="round 3: 1 of 2 clients"):
        play(needy)
    patient = {**lost, (3, 1): "d"}
    made = failing(tmp_path / "p", patient, rounds=3, **asked, min_clients=2, attempts=2)
    record = play(made)[-1]
    assert [set(event.clients) for event in begun(made)[2:]] == [{"d", "e"}, set(RANKS)]
    assert (record.resting, made.store.resting) == ((), {})
    never = failing(tmp_path / "never", lost, rounds=3, **{**asked, "rest_after": 0})
    play(never)
    assert [len(event.clients) for event in begun(never)] == [5, 5, 5]
    assert never.store.failed == {}


def test_an_update_out_of_proportion_is_quarantined_before_the_quorum(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", rounds=1, clients=5, norm_limit=100.0, min_clients=5)
    inner = noise(made)

    class Loud:
        def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            asked = {job.id: job for job in jobs}
            for outcome in inner.exchange(jobs):
                if isinstance(outcome, Reply) and outcome.client == "b":
                    adapter = read(outcome.payload)
                    loud = {n: Factors(1e6 * f.b, f.a, f.scale) for n, f in adapter.items()}
                    outcome = reply_to(asked[outcome.job], Adapter(loud))
                yield outcome

        def close(self) -> None: ...

    made.transport = Loud()
    with pytest.raises(RoundError, match="round 1: 4 of 5 clients"):
        made.play()
    (failed,) = made.run.events(Failed)
    assert (failed.client, failed.kind) == ("b", "quarantine")
    assert "times the median of the round" in failed.reason


def test_who_says_that_it_trained_on_nothing_counts_for_nothing(tmp_path: Path) -> None:
    """Its weight would be zero: alone in a round, it would end a run that has attempts left."""
    made = federation(tmp_path / "r", rounds=8, clients=1, attempts=2)
    inner = noise(made)

    class Nothing:
        def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            for outcome in inner.exchange(jobs):
                if isinstance(outcome, Reply) and outcome.client == "c":
                    yield replace(outcome, examples=0)
                else:
                    yield outcome

        def close(self) -> None: ...

    made.transport = Nothing()
    assert ["c" in record.clients for record in play(made)] == [False] * 8
    lost = made.run.events(Failed)
    assert {(x.client, x.kind, x.reason) for x in lost} == {
        ("c", "quarantine", "a malformed answer: it is of no example, expected at least one")
    }


def test_screens_that_leave_nobody_make_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = federation(tmp_path / "r", rounds=1, attempts=2)
    weigh, tries = made.adapters.weigh, list[Passed]()

    def strict(state: Any, asked: Any, collected: Any) -> Passed:
        everybody = dict.fromkeys(collected.replies, "screen x: no")
        tries.append(weigh(state, asked, collected) if tries else Passed({}, left_out=everybody))
        return tries[-1]

    monkeypatch.setattr(made.adapters, "weigh", strict)
    (record,) = play(made)
    assert [len(x) for x in record.missing] == [3, 0]
    (again,) = made.run.events(Repeated)
    assert (again.came, again.needed) == (0, 1)
    assert {event.kind for event in made.run.events(Failed)} == {"screen"}
    assert made.store.failed == {}
    tries.clear()
    alone = federation(tmp_path / "alone", rounds=1)
    monkeypatch.setattr(alone.adapters, "weigh", strict)
    with pytest.raises(RoundError, match="the screens left no client; loosen"):
        alone.play()


def test_too_few_for_a_screen_make_another_attempt(tmp_path: Path) -> None:
    """Multi-Krum needs five clients, and says so in the last attempt."""

    def screened(place: str, **schedule: Any) -> Federation:
        lost = {(1, 1): "b"}
        made = failing(tmp_path / place, lost, rounds=1, clients=5, min_clients=2, **schedule)
        collector = Plain(made.run.spool, made.rule)
        made.adapters = AdapterStage(made.sender, collector, [MultiKrum()], made.run)
        return made

    made = screened("r", attempts=2)
    (record,) = play(made)
    assert [len(x) for x in record.missing] == [1, 1]  # Whom the screen left out, then.
    (again,) = made.run.events(Repeated)
    assert (again.attempt, again.came, again.needed) == (1, 4, 5)
    with pytest.raises(TooFewError, match=r"screen multi_krum: 4 clients are left .* it needs 5"):
        screened("alone").play()


FAULTS = FaultsConfig(drop=0.15, delay=0.15, duplicate=0.15, corrupt=0.15, crash=0.15, seed=3)


def rehearsal(folder: Path, **changes: Any) -> Federation:
    asked: dict[str, Any] = {"rounds": 8, "clients": 4, "min_clients": 2, "attempts": 20}
    asked |= {"over_sample": 1.25, "rest_after": 2, "rest_rounds": 2} | changes
    made = federation(folder, **asked)
    made.transport = Faulty(made.transport, FAULTS)
    return made


@pytest.mark.parametrize("stop", [1, 2, 5, 7])
def test_with_faults_of_all_kinds_a_stop_ends_at_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole = rehearsal(tmp_path / "whole")
    records = play(whole)
    assert all(len(record.clients) >= 2 for record in records)
    kinds = {event.kind for event in whole.run.events(Failed)}
    assert kinds == {"train", "quarantine", "stray"}
    assert any(record.attempts > 1 for record in records)
    assert whole.run.events(Rested)
    first = rehearsal(tmp_path / "stopped")
    for _ in range(stop):
        first.play()
    second = rehearsal(tmp_path / "stopped", values=[-float(i) for i in range(stop, 100)])
    play(second)
    assert_same(second, whole)
    assert logged(second.run) == logged(whole.run)


class Stops:
    """Hands on so many outcomes, and then the process ends."""

    def __init__(self, inner: Transport, after: int) -> None:
        self.inner = inner
        self.left = after

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for outcome in self.inner.exchange(jobs):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield outcome

    def close(self) -> None: ...


@pytest.mark.parametrize("after", [3, 11, 23, 37])
def test_a_stop_within_an_attempt_ends_at_the_same_bits(tmp_path: Path, after: int) -> None:
    whole = rehearsal(tmp_path / "whole")
    play(whole)
    first = rehearsal(tmp_path / "stopped")
    first.transport = Stops(first.transport, after)
    with pytest.raises(KeyboardInterrupt):
        play(first)
    done = len(first.run.records())
    second = rehearsal(tmp_path / "stopped", values=[-float(i) for i in range(done, 100)])
    play(second)
    assert_same(second, whole)
    assert logged(second.run) == logged(whole.run)


def test_strays_are_told_and_are_no_failures_of_a_round(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", rounds=2, clients=5)
    made.transport = Faulty(made.transport, FaultsConfig(duplicate=1.0))
    plain = federation(tmp_path / "plain", rounds=2, clients=5)
    play(made)
    play(plain)
    assert_same(made, plain)
    assert logged(made.run) == logged(plain.run)
    assert {event.kind for event in made.run.events(Failed)} == {"stray"}
    assert len(made.run.events(Failed)) == 10
    assert len(made.run.events(RoundEnded)) == 2
