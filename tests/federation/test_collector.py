"""Replies become contributions: each once, in order of client, spooled under the server's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors, Sides, factors_payload
from flexlora.engines.jobs import Failure, Reply
from flexlora.federation.admission import Collected
from flexlora.federation.collector import Plain
from flexlora.federation.spool import Spool
from flexlora.formats.payloads import to_bytes
from flexlora.rules import Rule, Traits, make_rule
from flexlora.rules.flexlora import FlexLoRA
from reference import generator, rule_with
from small import LAYERS, moved, reply_to, spec, train_job

CLIENTS = ("c", "../../x", "a")
RULE = make_rule(rule_with(delta="origin"))
STATE = RULE.init(spec(3), generator(1))
# Of origins that are something, which are subtracted.
SENT = {
    client: moved(RULE.send(STATE, {layer.name: 3 for layer in LAYERS}, generator(2)), 7)
    for client in CLIENTS
}
JOBS = [
    train_job(
        client, to_bytes(factors_payload(SENT[client])), id=f"1-{index}", origin=True, seed=index
    )
    for index, client in enumerate(CLIENTS)
]
GOOD = [reply_to(job, moved(SENT[job.client], index)) for index, job in enumerate(JOBS)]


def collect(
    plain: Plain, replies: Iterable[Reply | Failure]
) -> tuple[list[Reply | Failure], Collected]:
    outcomes, collected = [], Collected()
    for outcome, so_far in plain.collect(JOBS, replies, SENT):
        outcomes.append(outcome)
        collected = so_far
    return outcomes, collected


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    return Plain(tmp_path / "run" / "spool", RULE)


def test_good_replies_are_all_kept(plain: Plain) -> None:
    outcomes, collected = collect(plain, GOOD)
    assert outcomes == GOOD
    assert collected.failures == []
    assert set(collected.replies) == set(CLIENTS)
    assert collected.bytes_up == sum(len(reply.payload) for reply in GOOD)
    assert collected.ranks["a"] == {layer.name: 3 for layer in LAYERS}
    update = moved(SENT["a"], 2)
    steps = [f.product() - SENT["a"][name].product() for name, f in update.items()]
    norm = sum(step.norm() ** 2 for step in steps) ** 0.5
    assert collected.summaries["a"].norm == pytest.approx(norm)
    assert collected.summaries["a"].examples == 3


def test_contributions_come_in_order_of_client_whatever_arrived_first(plain: Plain) -> None:
    weights = dict.fromkeys(CLIENTS, 1 / 3)
    seen = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        collect(plain, [GOOD[i] for i in order])
        seen.append(plain.contributions(LAYERS[0].name, weights, SENT).each())
    for contributions in seen:
        assert [c.client for c in contributions] == sorted(CLIENTS)
        for one, first in zip(contributions, seen[0], strict=True):
            wanted = moved(SENT[one.client], CLIENTS.index(one.client))[LAYERS[0].name]
            assert torch.equal(one.trained.b, wanted.b)
            assert torch.equal(one.trained.a, first.trained.a)
            assert one.origin is SENT[one.client][LAYERS[0].name]
            assert one.weight == 1 / 3


def test_nothing_is_read_until_it_is_asked_for(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, str]] = []
    tensors = Spool.tensors

    def told(self: Spool, number: int, names: Sequence[str]) -> list[Tensor]:
        read.extend((number, name) for name in names)
        return tensors(self, number, names)

    monkeypatch.setattr(Spool, "tensors", told)
    _, collected = collect(plain, GOOD)
    weights = RULE.weigh(list(collected.summaries.values()))
    found = {x.name: plain.contributions(x.name, weights, SENT).each() for x in LAYERS}
    assert [(c.rank, c.width) for c in found["x.q_proj"]] == [(3, 6)] * 3
    assert read == []
    first, _, last = found["x.up_proj"]  # Of "../../x" and of "c".
    last.read()
    assert read == [(0, f"x.up_proj.{side}") for side in "ba"]
    # Each time anew: nothing is kept.
    last.trained, first.update()
    assert [number for number, _ in read] == [0] * 4 + [1] * 2


class Remembering(FlexLoRA):  # type: ignore[misc]  # It is final.
    """Compares products, and clients that remember return both sides."""

    traits = Traits(memory=True)


class OneSided(FlexLoRA):  # type: ignore[misc]
    """Compares products of B alone, while the other side is not known."""

    def trains(self, round: int) -> Sides:
        return "b"


@pytest.mark.parametrize(("rule", "sent"), [(Remembering, "both"), (OneSided, "b")])
def test_a_shrunk_contribution_has_the_rank_that_it_says(
    tmp_path: Path, rule: type[Rule], sent: Sides
) -> None:
    plain = Plain(tmp_path, rule())
    given = {client: adapter.only(sent) for client, adapter in SENT.items()}
    returned = rule().returns(1)
    replies = [reply_to(j, moved(SENT[j.client], k).only(returned)) for k, j in enumerate(JOBS)]
    for _, collected in plain.collect(JOBS, replies, given):
        assert not collected.failures
    for contribution in plain.contributions(LAYERS[0].name, {"a": 1.0}, given, {"a": 0.5}).each():
        assert contribution.rank == contribution.trained.rank


def test_only_the_clients_with_a_weight_are_read(plain: Plain) -> None:
    collect(plain, GOOD)
    contributions = plain.contributions(LAYERS[1].name, {"c": 1.0}, SENT)
    assert [c.client for c in contributions.each()] == ["c"]


def test_a_client_never_names_a_path(plain: Plain, tmp_path: Path) -> None:
    collect(plain, GOOD)
    spooled = sorted(path.name for path in plain.folder.iterdir())
    assert spooled == ["000000.safetensors", "000001.safetensors", "000002.safetensors"]
    everything = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert everything == set(plain.folder.iterdir())


def test_a_second_reply_changes_nothing(plain: Plain) -> None:
    second = reply_to(JOBS[0], moved(SENT["c"], 99))
    outcomes, collected = collect(plain, [GOOD[0], second, GOOD[1], GOOD[2]])
    assert isinstance(outcomes[1], Failure)
    assert [f.reason for f in collected.failures] == [
        "a reply to job '1-0', which is not open for this client"
    ]
    assert vars(collected.replies["c"]) == vars(replace(GOOD[0], payload=b""))  # those lie on disk
    assert collected.bytes_up == sum(len(reply.payload) for reply in GOOD)
    kept = plain.contributions(LAYERS[0].name, {"c": 1.0}, SENT).each()[0].trained
    assert torch.equal(kept.b, moved(SENT["c"], 0)[LAYERS[0].name].b)


def test_a_second_reply_does_not_mend_a_refused_one(plain: Plain) -> None:
    broken = reply_to(JOBS[0], SENT["c"], payload=b"nonsense")
    _, collected = collect(plain, [broken, *GOOD])
    assert set(collected.replies) == {"a", "../../x"}
    assert len(collected.failures) == 2


@pytest.mark.parametrize("job", ["1-7", "0-0", "../../x", ""])
def test_a_reply_to_no_job_of_this_round_changes_nothing(plain: Plain, job: str) -> None:
    stray = reply_to(JOBS[0], moved(SENT["c"], 99), job=job)
    outcomes, collected = collect(plain, [stray, *GOOD])
    assert isinstance(outcomes[0], Failure)
    assert set(collected.replies) == set(CLIENTS)
    assert len(collected.failures) == 1


@pytest.mark.parametrize("failure", [False, True])
def test_a_client_cannot_answer_for_another(plain: Plain, failure: bool) -> None:
    """Nor shut it out: the job stays open for the client that it was given to."""
    false = reply_to(JOBS[0], moved(SENT["c"], 99), client="a")
    forged = Failure("1-0", "a", "I say so") if failure else false
    _, collected = collect(plain, [forged, *GOOD])
    assert [(f.client, f.job) for f in collected.failures] == [("a", "1-0")]
    assert vars(collected.replies["c"]) == vars(replace(GOOD[0], payload=b""))  # those lie on disk
    assert set(collected.replies) == set(CLIENTS)


def test_failures_and_silence_are_recorded_with_their_reason(plain: Plain) -> None:
    failure = Failure("1-2", "a", "out of memory")
    outcomes, collected = collect(plain, [failure])
    assert outcomes[0] is failure
    assert [(f.client, f.reason) for f in collected.failures] == [
        ("a", "out of memory"),
        ("c", "no reply"),
        ("../../x", "no reply"),
    ]
    assert (collected.replies, collected.bytes_up) == ({}, 0)


def test_a_refused_reply_is_a_failure_whose_bytes_count(plain: Plain) -> None:
    broken = reply_to(JOBS[0], SENT["c"], payload=GOOD[0].payload[:-1])
    outcomes, collected = collect(plain, [broken, GOOD[1], GOOD[2]])
    assert isinstance(outcomes[0], Failure)
    assert "truncated" in collected.failures[0].reason
    assert collected.bytes_up == sum(len(r.payload) for r in (broken, GOOD[1], GOOD[2]))
    assert len(list(plain.folder.iterdir())) == 2


@pytest.mark.parametrize(
    "rule", [RULE, make_rule(rule_with(needs="each"))], ids=lambda rule: rule.name
)
def test_finite_factors_whose_product_overflows_are_refused(tmp_path: Path, rule: Rule) -> None:
    """One client could else end the run (weights) or make the state infinite (sums)."""
    huge = {name: Factors(f.b + 1e30, f.a + 1e30, f.scale) for name, f in SENT["c"].items()}
    plain = Plain(tmp_path / "spool", rule)
    _, collected = collect(plain, [reply_to(JOBS[0], Adapter(huge)), *GOOD[1:]])
    assert set(collected.replies) == {"a", "../../x"}
    assert "the update has norm" in collected.failures[0].reason


def test_the_spool_goes_and_starts_empty(plain: Plain) -> None:
    collect(plain, GOOD)
    plain.clear()
    assert not plain.folder.exists()
    plain.folder.mkdir()
    (plain.folder / "000009.safetensors").write_bytes(b"of a round that was cut short")
    collect(plain, GOOD[:1])
    assert [path.name for path in plain.folder.iterdir()] == ["000000.safetensors"]
