"""The engine in process: one client's misfortune is its own, and bytes are what they would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from flexlora.adapters import Adapter, Delta, Factors, factors_payload
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Failure, Offer, Outcome, Reply, Train
from flexlora.errors import TrainingError
from flexlora.federation import prepare
from flexlora.federation.setup import Setup
from flexlora.formats.payloads import to_bytes
from flexlora.models.trainable import Live
from flexlora.rules import Memory, Rule, make_rule
from flexlora.rules.flexlora import FlexLoRA
from flexlora.tasks.prompts import Encoded
from flexlora.training import train_cohort
from small import first_jobs, read, small

RULE = make_rule("flexlora")


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small())


@pytest.fixture(scope="module")
def jobs(setup: Setup) -> list[Train]:
    return first_jobs(setup, RULE)


def exchange(
    setup: Setup,
    jobs: list[Train],
    cohort: int = 1,
    data: Mapping[str, Sequence[Encoded]] | None = None,
) -> list[Outcome]:
    """The outcomes in the order of the jobs."""
    transport = InProcess(
        setup.model, {**setup.examples.train, **(data or {})}, RULE, cohort=cohort
    )
    found = {outcome.job: outcome for outcome in transport.exchange(jobs)}
    assert len(found) == len(jobs)
    return [found[job.id] for job in jobs]


def test_replies_carry_what_was_trained(setup: Setup, jobs: list[Train]) -> None:
    replies = exchange(setup, jobs)
    for job, reply in zip(jobs, replies, strict=True):
        assert isinstance(reply, Reply)
        assert (reply.job, reply.client) == (job.id, job.client)
        assert reply.examples == len(setup.examples.train[job.client])
        assert reply.steps == 2
        lengths = [len(x.prompt) + len(x.response) for x in setup.examples.train[job.client]]
        assert 0 < reply.tokens <= 2 * sum(lengths)
        sent, trained = read(job.payload), read(reply.payload)
        assert trained.ranks == sent.ranks
        for name, factors in trained.items():
            assert factors.b.abs().max() > 0.0
            assert factors.scale == sent[name].scale


def test_replies_say_what_their_pass_took_and_who_shared_it(
    setup: Setup, jobs: list[Train]
) -> None:
    """At least weights, gradients and moments; two in one pass take more than one alone."""

    def peak(reply: Outcome, cohort: int) -> int:
        assert isinstance(reply, Reply)
        assert reply.cohort == cohort
        if reply.peak_bytes is None:
            pytest.skip("this system does not tell the peak of a process")
        return reply.peak_bytes

    def trained(job: Train) -> int:
        return sum(f.a.numel() + f.b.numel() for f in read(job.payload).values())

    same = sorted(jobs, key=trained)[-2:]
    alone = [peak(reply, 1) for reply in exchange(setup, same)]
    together = {peak(reply, 2) for reply in exchange(setup, same, cohort=2)}
    assert len(together) == 1
    assert together.pop() > max(alone) > 4 * 4 * trained(same[1])


def test_payloads_round_trip_bit_for_bit(jobs: list[Train]) -> None:
    assert to_bytes(factors_payload(read(jobs[0].payload))) == jobs[0].payload


def test_a_client_does_not_depend_on_who_trained_before_it(setup: Setup, jobs: list[Train]) -> None:
    forwards = exchange(setup, jobs)
    backwards = exchange(setup, jobs[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert isinstance(one, Reply)
        assert isinstance(other, Reply)
        assert one.payload == other.payload
        assert one.loss == other.loss


def test_a_client_that_diverges_fails_alone(setup: Setup, jobs: list[Train]) -> None:
    wild = replace(jobs[1], recipe=replace(jobs[1].recipe, learning_rate=1e30, clip_norm=None))
    outcomes = exchange(setup, [jobs[0], wild, *jobs[2:]])
    assert isinstance(outcomes[1], Failure)
    assert outcomes[1].client == jobs[1].client
    assert "became NaN or infinite at step" in outcomes[1].reason
    wanted = exchange(setup, jobs)
    for place in (0, 2, 3):
        one, other = outcomes[place], wanted[place]
        assert isinstance(one, Reply)
        assert isinstance(other, Reply)
        assert one.payload == other.payload


def test_a_client_without_data_fails_alone(setup: Setup, jobs: list[Train]) -> None:
    stranger = replace(jobs[1], client="who")
    outcomes = exchange(setup, [jobs[0], stranger, *jobs[2:]], data={jobs[0].client: ()})
    for outcome in outcomes[:2]:
        assert isinstance(outcome, Failure)
        assert "no training examples" in outcome.reason
    assert [type(outcome) for outcome in outcomes[2:]] == [Reply, Reply]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried to allocate 3 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 3 GiB"),
        MemoryError("3 GiB"),
    ],
    ids=["accelerator", "cpu", "python"],
)
def test_a_client_out_of_memory_offers_half_its_ranks_alone(
    setup: Setup, jobs: list[Train], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from flexlora.engines import in_process as transport

    def short(model, visits, **options):  # type: ignore[no-untyped-def]
        if any(visit.data is setup.examples.train[jobs[0].client] for visit in visits):
            raise error
        return train_cohort(model, visits, **options)

    monkeypatch.setattr(transport, "train_cohort", short)
    outcomes = exchange(setup, jobs, cohort=4)
    half = {name: rank // 2 for name, rank in read(jobs[0].payload).ranks.items()}
    assert outcomes[0] == Offer("1-0", jobs[0].client, half, str(error))
    assert all(isinstance(outcome, Reply) for outcome in outcomes[1:])
    least = Adapter({x.name: least_factors(x.m, x.n) for x in setup.model.layers})
    (outcome, *_) = exchange(setup, [replace(jobs[0], payload=to_bytes(factors_payload(least)))])
    assert outcome == Failure("1-0", jobs[0].client, str(error))


def least_factors(m: int, n: int) -> Factors:
    """Of the least rank."""
    return Factors(torch.zeros(m, 1), torch.ones(1, n), 1.0)


def test_a_fault_of_ours_is_no_failure_of_the_client(
    setup: Setup, jobs: list[Train], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexlora.engines import in_process as transport

    def broken(*_, **__) -> None:  # type: ignore[no-untyped-def]
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(transport, "train_cohort", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        exchange(setup, jobs)


def test_an_adapter_for_another_model_is_a_failure(setup: Setup, jobs: list[Train]) -> None:
    other = Adapter({"x.q_proj": Factors(torch.zeros(3, 1), torch.zeros(1, 3), 1.0)})
    strange = replace(jobs[0], payload=to_bytes(factors_payload(other)))
    outcomes = exchange(setup, [strange, jobs[1]])
    assert isinstance(outcomes[0], Failure)
    assert "x.q_proj" in outcomes[0].reason
    assert isinstance(outcomes[1], Reply)


def test_what_delta_holds_already_is_not_counted_twice(setup: Setup, jobs: list[Train]) -> None:
    """W₀ + Δ + trainable − origin is W₀ + trainable where Δ is what was sent."""
    (trained,) = exchange(setup, jobs[:1])
    assert isinstance(trained, Reply)
    sent = read(trained.payload)
    still = replace(jobs[0].recipe, learning_rate=1e-12, dropout=0.0)
    plain = replace(jobs[0], payload=trained.payload, recipe=still)
    held = Delta(1, {name: factors.product() for name, factors in sent.items()})
    losses = [
        reply.loss
        for reply in exchange(
            setup,
            [
                plain,
                replace(plain, id="held", delta=held, origin=True),
                replace(plain, id="twice", delta=held),
            ],
        )
        if isinstance(reply, Reply)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


class Penal(FlexLoRA):  # type: ignore[misc]
    """Its penalty fails for a client of rank 4."""

    def penalty(self, live: Live, sent: Live) -> torch.Tensor | None:
        if any(b.shape[1] == 4 for b, _ in live.values()):
            raise TrainingError("no penalty for it")
        return None


class Narrow(FlexLoRA):  # type: ignore[misc]
    """It runs out of memory over what a client of rank 4 is sent."""

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        if max(sent.ranks.values()) == 4:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 3 GiB")
        return super().receive(sent, memory)


@pytest.mark.parametrize("rule", [Penal(), Narrow()], ids=["p", "n"])
def test_what_the_rule_cannot_do_for_a_client_is_that_clients_alone(
    setup: Setup, jobs: list[Train], rule: Rule
) -> None:
    high = {job.id for job in jobs if setup.roster.types[job.client] == "high"}
    assert 0 < len(high) < len(jobs)
    wanted = {x.job: x for x in InProcess(setup.model, setup.examples.train, RULE).exchange(jobs)}
    engine = InProcess(setup.model, setup.examples.train, rule, cohort=4)
    found = {x.job: x for x in engine.exchange(jobs)}
    assert {job for job, x in found.items() if isinstance(x, Failure | Offer)} == high
    for job, reply in found.items():
        one = wanted[job]
        if isinstance(reply, Reply) and isinstance(one, Reply):
            assert reply.loss == pytest.approx(one.loss, rel=1e-4)
            assert reply.tokens == one.tokens
