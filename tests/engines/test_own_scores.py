"""Clients that score together get what each scores alone, and fail alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, Delta, factors_payload
from flexlora.engines import own_scores
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Evaluate, Failure, Job, Outcome, Reply, Scored, Train
from flexlora.evaluation import METRICS, ClientScore, EvalClient, Metric, evaluate, evaluate_each
from flexlora.federation import prepare
from flexlora.federation.setup import Setup
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import to_bytes
from flexlora.rules import make_rule
from reference import rule_with
from small import moved, read, small, train_job

PLAIN = rule_with(delta="none", compares="product")
TUNED = ("loss", "rouge_l")
CONFIG = small(evaluation={"metric": "rouge_l"})


@pytest.fixture(scope="module")
def setup() -> Setup:
    """Four clients of ranks 2 and 4; the third holds nothing out."""
    made = prepare(CONFIG)
    third = sorted(made.examples.train)[2]
    held_out = {k: v for k, v in made.examples.held_out.items() if k != third}
    examples = replace(made.examples, held_out=held_out)
    return replace(made, examples=examples)


@dataclass(frozen=True)
class Case:
    """A rule in the middle of a run: its Δ and what it sends are not zero."""

    setup: Setup
    rule: str

    def jobs(self) -> list[Train]:
        rule, streams = make_rule(self.rule), Streams(0)
        state = rule.init(self.setup.spec, streams.generator("init"))
        ranks = self.setup.roster.ranks
        full = rule.send(state, ranks["high"], streams.generator("send"))
        trained = moved(full, 3, 0.05)
        layers = {name: f.product() for name, f in trained.items()} if rule.traits.origin else {}
        delta, sent = Delta(1, layers), {}
        for name in ranks:
            rank = ranks[name][self.setup.spec.layers[0].name]
            cut = {layer: f.cut(rank) for layer, f in trained.items()}
            sent[name] = to_bytes(factors_payload(Adapter(cut)))
        recipe = self.setup.settings.schedule.recipe_for(1)
        return [
            train_job(
                client,
                sent[self.setup.roster.types[client]],
                id=str(k),
                recipe=recipe,
                origin=rule.traits.origin,
                delta=delta,
                seed=k,
                metrics=TUNED,
            )
            for k, client in enumerate(sorted(self.setup.examples.train))
        ]

    def evaluations(self) -> list[Evaluate]:
        return [Evaluate(x.id, x.round, x.client, x.payload, x.metrics) for x in self.jobs()]

    def asked(self, kind: str) -> list[Any]:
        return self.jobs() if kind == "train" else self.evaluations()

    def exchange(self, jobs: Sequence[Job], cohort: int = 4) -> list[Outcome]:
        engine = InProcess(
            self.setup.model,
            self.setup.examples.train,
            make_rule(self.rule),
            self.setup.examples.held_out,
            self.setup.settings.validation,
            cohort=cohort,
        )
        found = {outcome.job: outcome for outcome in engine.exchange(jobs)}
        assert len(found) == len(jobs)
        return [found[job.id] for job in jobs]

    def by_hand(self, job: Train, reply: Reply) -> ClientScore:
        """With all merged into the weights."""
        trained, sent = read(reply.payload), read(job.payload)
        whole = {}
        for name, f in trained.items():
            whole[name] = f.product()
            if job.origin:
                whole[name] = job.delta.layers[name] + whole[name] - sent[name].product()
        self.setup.model.set_delta(whole)
        examples = tuple(self.setup.examples.held_out[job.client])
        settings = replace(self.setup.settings.validation, metrics=job.metrics)
        return evaluate(self.setup.model, [EvalClient(job.client, examples)], settings).clients[0]


@pytest.fixture(params=[PLAIN, rule_with(delta="origin")])
def case(setup: Setup, request: pytest.FixtureRequest) -> Case:
    return Case(setup, request.param)


@pytest.fixture
def plain(setup: Setup) -> Case:
    return Case(setup, PLAIN)


def assert_same(found: ClientScore | None, wanted: ClientScore | None) -> None:
    assert found is not None
    assert wanted is not None
    assert (found.client, found.examples) == (wanted.client, wanted.examples)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
    assert found["rouge_l"] == pytest.approx(wanted["rouge_l"])


def scores_of(outcomes: Sequence[Outcome]) -> list[ClientScore | None]:
    assert all(isinstance(outcome, Reply | Scored) for outcome in outcomes)
    return [outcome.score for outcome in outcomes if isinstance(outcome, Reply | Scored)]


def test_a_cohort_scores_what_each_tuned_as_by_hand(case: Case) -> None:
    jobs = case.jobs()
    assert len({len(job.payload) for job in jobs}) == 2
    outcomes = case.exchange(jobs)
    scores = scores_of(outcomes)
    assert scores[2] is None
    for job, outcome, score, alone in zip(
        jobs, outcomes, scores, scores_of(case.exchange(jobs, cohort=1)), strict=True
    ):
        if score is not None and isinstance(outcome, Reply):
            assert_same(score, case.by_hand(job, outcome))
            assert_same(score, alone)


def test_long_prompts_score_alone_beside_short_ones(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = case.jobs()
    held_out = case.setup.examples.held_out
    prompts = {c: sum(len(x.prompt) for x in held_out[c]) for c in held_out}
    monkeypatch.setattr(own_scores, "_ENOUGH", sorted(prompts.values())[1])
    calls: list[int] = []

    def counted(model, clients, updates, settings):  # type: ignore[no-untyped-def]
        calls.append(len(clients))
        return evaluate_each(model, clients, updates, settings)

    monkeypatch.setattr(own_scores, "evaluate_each", counted)
    outcomes = case.exchange(jobs)
    assert calls == [1]  # Of three who hold something out, the one with the shortest prompts.
    for job, outcome, score in zip(jobs, outcomes, scores_of(outcomes), strict=True):
        if score is not None and isinstance(outcome, Reply):
            assert_same(score, case.by_hand(job, outcome))


def test_nobody_scores_where_nothing_is_asked(plain: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_scores, "evaluate_each", None)
    jobs = [replace(job, metrics=()) for job in plain.jobs()]
    assert scores_of(plain.exchange(jobs)) == [None] * 4


def test_what_is_sent_to_several_is_scored_at_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = case.evaluations()
    alone = [case.exchange([job])[0] for job in jobs]
    calls: list[int] = []

    def counted(model, clients, settings):  # type: ignore[no-untyped-def]
        calls.append(len(clients))
        return evaluate(model, clients, settings)

    monkeypatch.setattr(own_scores, "evaluate", counted)
    together = case.exchange(jobs)
    assert sorted(calls) == [1, 2]  # Two ranks, and one client that holds nothing out.
    for k, (found, wanted) in enumerate(zip(together, alone, strict=True)):
        if k == 2:
            reason = "it has no held-out examples to score"
            assert found == wanted == Failure("2", jobs[2].client, reason)
            continue
        assert isinstance(found, Scored)
        assert isinstance(wanted, Scored)
        assert_same(found.score, wanted.score)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_client_whose_score_fails_fails_alone(
    plain: Case, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [replace(job, payload=plain.jobs()[0].payload) for job in plain.asked(kind)]
    wrong = plain.setup.examples.held_out[jobs[1].client][0]

    def picky(example, loss):  # type: ignore[no-untyped-def]
        return 1 / (example is not wrong) if loss else 0.0

    monkeypatch.setitem(METRICS, "picky", Metric("picky", "loss", False, picky))
    jobs = [replace(job, metrics=("loss", "picky")) for job in jobs]
    outcomes = plain.exchange(jobs)
    assert isinstance(outcomes[1], Failure)
    assert f"client {jobs[1].client!r}" in outcomes[1].reason
    for k in (0, 3):
        assert isinstance(outcomes[k], Reply | Scored)
        assert outcomes[k].score["picky"] == 1.0  # type: ignore[union-attr, index]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("alone", [False, True])
def test_out_of_memory_they_score_one_by_one(
    plain: Case, kind: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that runs out of memory alone is a failure."""
    jobs = [replace(job, payload=plain.jobs()[0].payload) for job in plain.asked(kind)]
    wanted = plain.exchange(jobs)
    inner = evaluate_each if kind == "train" else evaluate

    def short(model, clients, *rest):  # type: ignore[no-untyped-def]
        if len(clients) > 1 or (alone and clients[0].id == jobs[0].client):
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")
        return inner(model, clients, *rest)

    monkeypatch.setattr(own_scores, inner.__name__, short)
    outcomes = plain.exchange(jobs)
    for k in (0, 1, 3):
        if alone and k == 0:
            assert outcomes[0] == Failure("0", jobs[0].client, "tried to allocate 3 GiB")
            continue
        found, other = outcomes[k], wanted[k]
        assert isinstance(found, Reply | Scored)
        assert isinstance(other, Reply | Scored)
        assert_same(found.score, other.score)


def test_bytes_that_are_no_adapter_fail_those_who_got_them(plain: Case) -> None:
    jobs = plain.evaluations()
    jobs = [replace(job, payload=b"nonsense") if k < 2 else job for k, job in enumerate(jobs)]
    kinds = [type(outcome) for outcome in plain.exchange(jobs)]
    assert kinds == [Failure, Failure, Failure, Scored]


def test_a_fault_of_ours_is_raised(plain: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_) -> None:  # type: ignore[no-untyped-def]
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(own_scores, "evaluate_each", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        plain.exchange(plain.jobs())
