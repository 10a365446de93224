"""Less for whoever runs out of memory, in the same round; nothing for whoever would be late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from flexlora.config.config import Config
from flexlora.config.schedule import Schedule
from flexlora.engines.jobs import Failure, Job, Offer, Outcome, Train, Transport
from flexlora.errors import RoundError
from flexlora.federation.collector import Plain
from flexlora.federation.loop import Federation, last
from flexlora.federation.observers import Recorder, Silent
from flexlora.federation.sending import Sender
from flexlora.federation.streams import Streams
from flexlora.rules import RULES, Rule, make_rule
from flexlora.runs.committed import Committed
from flexlora.runs.events import Failed, Lowered
from flexlora.runs.progress import Progress
from flexlora.runs.run_directory import Run
from flexlora.runs.store import ClientStore
from flexlora.training import Recipe
from small import LAYERS, Noise, read, spec

RANKS = {"a": 2, "b": 4, "c": 3}
MIXED = sorted(name for name, rule in RULES.items() if rule.traits.mixed_ranks)
FRESH = sorted(name for name in MIXED if not RULES[name].traits.memory)


class Modest(Noise):
    """Clients whose memory holds no rank above `most`; they offer half, or what `offers` says."""

    def __init__(self, rule: Rule, most: Mapping[str, int], offers: object = None) -> None:
        super().__init__(rule)
        self.most, self.offers = most, offers

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            assert isinstance(job, Train)
            ranks = read(job.payload).ranks
            if max(ranks.values()) <= self.most.get(job.client, 99):
                yield from super().exchange([job])
                continue
            half = {name: max(1, rank // 2) for name, rank in ranks.items()}
            offered = half if self.offers is None else self.offers
            self.jobs.append(job)
            yield Offer(job.id, job.client, offered, "out of memory")  # type: ignore[arg-type]


def federation(
    folder: Path, name: str, most: Mapping[str, int], offers: object = None
) -> Federation:
    rule = make_rule(name)
    run = Run.open(folder) if folder.exists() else Run.create(Config(), folder)
    ranks = {client: {x.name: rank for x in LAYERS} for client, rank in RANKS.items()}
    store = ClientStore(dict.fromkeys(RANKS, "any"), ranks)
    recipe = Recipe("adamw", 0.8, 4)
    sender = Sender(rule, Schedule(rounds=2, clients=3, recipe=recipe), Streams(0))
    return Federation(
        sender=sender,
        stands=last(run) or Committed(sender.begin(spec(*RANKS.values())), store, Progress()),
        transport=cast(Transport, Modest(rule, most, offers)),
        collector=Plain(run.spool, rule),
        run=run,
        validate=lambda _: None,
        decide=lambda _: 0.0,
        observer=Recorder(run, Silent()),
    )


@pytest.mark.parametrize("name", FRESH)
def test_a_client_out_of_memory_counts_in_its_round_at_half_its_rank_and_keeps_it(
    name: str, tmp_path: Path
) -> None:
    """Also one that falls below the lowest rank of the federation, and after a stop."""
    made = federation(tmp_path / "run", name, {"b": 2, "a": 1})
    record = made.play()
    assert record.clients == ("a", "b", "c")
    assert record.failures == 0
    assert {c: max(r.values()) for c, r in made.store.ranks.items()} == {"a": 1, "b": 2, "c": 3}
    first = [job for job in cast(Modest, made.transport).jobs if job.round == 1]
    assert [job.client for job in first] == ["a", "b", "c", "a", "b"]
    assert record.bytes_down == first[2].bytes_down + first[3].bytes_down + first[4].bytes_down
    assert first[4].bytes_down > first[1].bytes_down
    told = made.run.events(Lowered)
    assert [(x.client, x.before, x.after) for x in told] == [("a", "2", "1"), ("b", "4", "2")]
    again = federation(tmp_path / "run", name, {"b": 2, "a": 1})
    again.play()
    second = [job for job in cast(Modest, again.transport).jobs if job.round == 2]
    assert len(second) == 3
    assert again.run.events(Lowered) == told


def test_several_halves_in_one_round(tmp_path: Path) -> None:
    made = federation(tmp_path / "run", "flexlora", {"b": 1})
    assert made.play().failures == 0
    assert max(made.store.ranks["b"].values()) == 1
    assert [x.after for x in made.run.events(Lowered)] == ["2", "1"]


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        ({"x.q_proj": 9, "x.up_proj": 4}, "out of memory; it offers no lower rank"),
        ({"x.q_proj": 0, "x.up_proj": 1}, "out of memory; it offers no lower rank"),
        ({"x.q_proj": True}, "out of memory; it offers no lower rank"),
        ({"elsewhere": 1}, "out of memory; it offers no lower rank"),
        ([1, 2], "out of memory; it offers no lower rank"),
    ],
)
def test_what_is_no_offer_is_a_failure(offers: object, words: str, tmp_path: Path) -> None:
    made = federation(tmp_path / "run", "flexlora", {"b": 1}, offers)
    assert made.play().failures == 1
    assert max(made.store.ranks["b"].values()) == 4
    (failed,) = made.run.events(Failed)
    assert (failed.client, failed.reason) == ("b", words)


def test_an_offer_for_a_job_that_there_is_not_is_a_failure(tmp_path: Path) -> None:
    made = federation(tmp_path / "run", "flexlora", {})

    class Strange(Noise):
        def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            yield Offer("1-9", "b", {"x.q_proj": 1}, "no room")
            yield Offer("1-0", "b", {"x.q_proj": 1}, "no room")
            yield from super().exchange(jobs)

    made.transport = cast(Transport, Strange(made.rule))
    record = made.play()
    assert (record.clients, record.failures) == (("a", "b", "c"), 0)
    assert "a reply to job '1-9', which is not open" in made.run.events(Failed)[0].reason


def test_a_rule_of_one_rank_and_one_whose_clients_remember_theirs_cannot_help(
    tmp_path: Path,
) -> None:
    made = federation(tmp_path / "one", "fedit", {"b": 1})
    assert made.play().failures == 1
    assert "rule fedit trains all at one rank; lower that" in made.run.events(Failed)[0].reason
    for name in sorted(set(MIXED) - set(FRESH)):
        made = federation(tmp_path / name, name, {})
        made.play()
        cast(Modest, made.transport).most = {"b": 1}
        assert made.play().failures == 1
        assert "it remembers what has its rank" in made.run.events(Failed)[0].reason


def test_a_round_of_offers_that_lead_to_nothing_is_over(tmp_path: Path) -> None:
    """Whoever offers one rank less each time is not asked for ever."""
    made = federation(tmp_path / "run", "flexlora", {})

    class Endless(Noise):
        def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            for job in jobs:
                assert isinstance(job, Train)
                made.store.ranks[job.client] = dict.fromkeys(made.store.ranks[job.client], 4)
                yield Offer(job.id, job.client, dict.fromkeys(read(job.payload).ranks, 3), "full")

    made.transport = cast(Transport, Endless(made.rule))
    with pytest.raises(RoundError, match="the first reason, of client a: out of memory 11 times"):
        made.play()


def test_a_failure_is_no_offer(tmp_path: Path) -> None:
    made = federation(tmp_path / "run", "flexlora", {})
    made.transport = cast(Transport, Noise(made.rule, ["b"]))
    assert made.play().failures == 1
    assert made.run.events(Failed)[0].kind == "train"
    assert Failure("1-0", "b", "x").kind == "train"
