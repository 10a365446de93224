"""Evaluation on clients: who scores what, what counts, and what a false answer does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Evaluate, Failure, Job, Outcome, Scored
from flexlora.errors import ConfigError, DataError, RoundError
from flexlora.evaluation import ClientScore, EvalClient, MeanScore, evaluate
from flexlora.federation import Setup, prepare, run
from flexlora.federation.on_clients import collect_scores, summary
from flexlora.federation.sending import Sender
from flexlora.federation.streams import Streams
from flexlora.rules import make_rule
from flexlora.runs import load_adapter
from flexlora.runs.committed import Committed
from flexlora.runs.deciding import decide
from flexlora.runs.events import Failed
from flexlora.runs.readout import load_state
from flexlora.runs.records import ClientScores, OnClients, Spread
from flexlora.runs.run_directory import Run
from reference import assert_close, rule_with
from small import read, reply_to, round_record, small, train_job


def score(client: str, loss: float, examples: int = 1, **values: float) -> ClientScore:
    return ClientScore(client, "x", examples, {"loss": loss, **values})


# --- the numbers ---------------------------------------------------------------------------------


def test_mean_worst_and_spread_by_hand() -> None:
    scores = [
        score(f"c{i:02}", float(i), examples=1 + (i == 0), rouge_l=10.0 * i) for i in range(20)
    ]
    found = summary(scores)
    assert (found.clients, found.examples) == (20, 21)
    loss, rouge = found.metrics["loss"], found.metrics["rouge_l"]
    assert loss.mean == pytest.approx(sum(range(20)) / 21)  # by examples
    assert loss.worst == pytest.approx(18.5)  # the two highest losses
    assert rouge.worst == pytest.approx(5.0)  # the two lowest ROUGE-L
    assert loss.spread == pytest.approx(math.sqrt((20**2 - 1) / 12))


def test_a_sum_over_clients_is_no_mean() -> None:
    bits = summary([score(f"c{i}", 0.0, examples=9 - i, bits=10.0 * i) for i in range(5)])
    assert bits.metrics["bits"].mean == pytest.approx(100.0)
    assert bits.metrics["bits"].worst == pytest.approx(0.0)


def test_one_client_is_its_own_worst() -> None:
    found = summary([score("a", 2.0)])
    assert found.metrics["loss"] == Spread(mean=2.0, worst=2.0, spread=0.0)


def test_nobody_has_no_metric() -> None:
    assert summary([]) == ClientScores(0, 0, {})


# --- the answers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small())


@pytest.fixture(scope="module")
def folder(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(), tmp_path_factory.mktemp("runs") / "r", setup=setup).folder


@pytest.fixture(scope="module")
def jobs(setup: Setup, folder: Path) -> list[Evaluate]:
    opened = Run.open(folder)
    stands = Committed.of(opened, opened.load_checkpoint("last") or pytest.fail("no checkpoint"))
    schedule = replace(setup.settings.schedule, metrics=("loss",))
    sender = Sender(make_rule("flexlora"), schedule, Streams(0))
    return sender.evaluation(stands.state, stands.store, stands.store.clients)


def answers(jobs: Sequence[Evaluate]) -> list[Outcome]:
    return [Scored(job.id, job.client, score(job.client, 1.0)) for job in jobs]


def test_good_answers_count_in_order_of_client(jobs: list[Evaluate]) -> None:
    scores, failures = collect_scores(jobs, reversed(answers(jobs)))
    assert [s.client for s in scores] == sorted(job.client for job in jobs)
    assert failures == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score": score("?", math.nan)}, "its score by loss is nan, expected a finite number"),
        ({"score": ClientScore("?", "x", 1, {})}, "no value by 'loss'; expected just loss"),
        ({"score": score("?", 1.0, examples=0)}, "of 0 examples, expected at least one"),
        ({"score": ClientScore("?", "x", 1, {"loss": 1.0, "mine": 1.0})}, "a value by 'mine'"),
        ({"score": score("?", -0.5)}, "score by loss is -0.5, but loss is at least 0"),
        ({"client": "somebody"}, "not open for this client"),
        ({"job": "1-evaluate-99"}, "not open for this client"),
    ],
)
def test_a_false_answer_is_a_failure_and_changes_nothing_else(
    jobs: list[Evaluate], change: dict[str, Any], reason: str
) -> None:
    given = answers(jobs)
    first = given[0]
    assert isinstance(first, Scored)
    if "score" in change:
        change = {"score": replace(change["score"], client=first.client)}
    given[0] = replace(first, **change)
    scores, failures = collect_scores(jobs, given)
    assert len(scores) == len(jobs) - 1
    assert any(reason in failure.reason for failure in failures)


def test_an_adapter_in_place_of_a_score_is_a_failure(jobs: list[Evaluate]) -> None:
    given = [reply_to(jobs[0], read(jobs[0].payload)), *answers(jobs)[1:]]
    scores, failures = collect_scores(jobs, given)
    assert len(scores) == len(jobs) - 1
    assert [failure.client for failure in failures] == [jobs[0].client]


def test_silence_is_a_failure(jobs: list[Evaluate]) -> None:
    scores, failures = collect_scores(jobs, answers(jobs)[1:])
    assert [failure.reason for failure in failures] == ["no reply"]
    assert len(scores) == len(jobs) - 1


# --- a whole run ---------------------------------------------------------------------------------


def test_each_client_scores_the_adapter_of_its_own_rank(
    setup: Setup, folder: Path, jobs: list[Evaluate]
) -> None:
    """What the record says is what an export of each client's rank scores on its held-out part."""
    last = Run.open(folder).read_metrics()[-1]
    own: list[ClientScore] = []
    for client, examples in sorted(setup.examples.held_out.items()):
        rank = {"low": 2, "high": 4}[setup.roster.types[client]]
        adapter = load_adapter(folder, rank, "last")
        setup.model.set_delta({name: f.product() for name, f in adapter.items()})
        own += evaluate(
            setup.model, [EvalClient(client, tuple(examples))], setup.settings.validation
        ).clients
    wanted = summary(own)
    found = last["on_clients"]["global"]
    assert found["clients"] == len(setup.examples.train)
    for key, value in asdict(wanted.metrics["loss"]).items():
        assert found["metrics"]["loss"][key] == pytest.approx(value, rel=1e-5)
    assert last["on_clients"]["bytes_down"] == sum(job.bytes_down for job in jobs)


@pytest.mark.parametrize("delta", ["none", "origin"])
def test_what_a_client_fine_tuned_is_scored_with_its_base(
    setup: Setup, tmp_path: Path, delta: str
) -> None:
    """A job that asks for it is scored as W₀ + Δ + trained − origin, by hand."""
    rule = rule_with(delta=delta, compares="product")
    config = small(rule={"name": rule})
    folder = run(config, tmp_path / "r", setup=setup).folder
    state, made = load_state(Run.open(folder), "last"), make_rule(rule)
    client = sorted(setup.examples.train)[0]
    from flexlora.adapters import factors_payload
    from flexlora.formats.payloads import to_bytes

    sent = made.send(
        state, setup.roster.ranks[setup.roster.types[client]], Streams(0).generator("x")
    )
    payload = to_bytes(factors_payload(sent))
    job = train_job(
        client,
        payload,
        round=4,
        recipe=setup.settings.schedule.recipe_for(1),
        origin=made.traits.origin,
        delta=state.delta,
        metrics=("loss",),
    )
    transport = InProcess(
        setup.model, setup.examples.train, made, setup.examples.held_out, setup.settings.validation
    )
    (reply,) = transport.exchange([job])
    trained = read(reply.payload)  # type: ignore[union-attr]
    update = {
        name: f.product()
        if not made.traits.origin
        else state.delta.layers[name] + f.product() - sent[name].product()
        for name, f in trained.items()
    }
    setup.model.set_delta(update)
    (wanted,) = evaluate(
        setup.model,
        [EvalClient(client, tuple(setup.examples.held_out[client]))],
        setup.settings.validation,
    ).clients
    found = reply.score  # type: ignore[union-attr]
    assert found is not None
    assert found.values["loss"] == pytest.approx(wanted.values["loss"], rel=1e-5)


def test_those_that_trained_are_those_that_score_what_they_tuned(folder: Path) -> None:
    for record in Run.open(folder).read_metrics():
        tuned = record["on_clients"]["tuned"]
        assert tuned["clients"] == len(record["clients"])
        assert tuned["metrics"]["loss"]["mean"] > 0.0


def test_clients_are_not_asked_where_the_config_does_not_ask(setup: Setup, tmp_path: Path) -> None:
    config = small(evaluation={"on_clients": "off"})
    done = run(config, tmp_path / "r", setup=setup)
    assert all("on_clients" not in r for r in Run.open(done.folder).read_metrics())


def test_asking_clients_changes_nothing_that_is_trained(
    setup: Setup, folder: Path, tmp_path: Path
) -> None:
    config = small(evaluation={"on_clients": "off"})
    done = run(config, tmp_path / "r", setup=setup)
    ours, theirs = (load_state(Run.open(f), "last") for f in (folder, done.folder))
    for name, layer in ours.layers.items():
        for key in layer:
            assert_close(layer[key], theirs.layers[name][key], 0.0)


def test_a_part_of_the_clients_evaluates(setup: Setup, tmp_path: Path) -> None:
    config = small(evaluation={"clients": 3, "on_clients": "global"})
    done = run(config, tmp_path / "r", setup=setup)
    for record in Run.open(done.folder).read_metrics():
        assert record["on_clients"]["global"]["clients"] == 3
        assert "tuned" not in record["on_clients"]


# Some clients hold a single example, and so nothing to score on.
UNEVEN: dict[str, Any] = {
    "data": {"examples_per_task": 12},
    "partition": {"by": "dirichlet", "clients": 5, "alpha": 0.1, "min_examples": 1},
}


@pytest.mark.parametrize("clients", [1.0, 1])
def test_only_clients_that_hold_what_to_score_on_are_asked(
    tmp_path: Path, clients: float | int
) -> None:
    config = small(
        **UNEVEN,
        evaluation={"clients": clients, "decide_by": "clients", "unseen": False},
        federation={"rounds": 2},
    )
    setup = prepare(config)
    scorers = setup.examples.scorers
    assert 1 < len(scorers) < len(setup.examples.train)
    sender = Sender(make_rule("flexlora"), setup.settings.schedule, Streams(0), scorers)
    state, store = sender.begin(setup.spec), setup.roster.fresh_store()
    asked = [sender.evaluation(replace(state, round=round), store) for round in range(1, 30)]
    assert {job.client for jobs in asked for job in jobs} == set(scorers)
    most = len(scorers) if isinstance(clients, float) else 1
    assert {len(jobs) for jobs in asked} == {most}
    for record in Run.open(run(config, tmp_path / "r", setup=setup).folder).records():
        assert record.on_clients is not None
        assert record.on_clients.failures == 0
        assert record.on_clients.shared.clients == len(asked[0])


def test_more_scorers_than_hold_anything_are_refused() -> None:
    there = len(prepare(small(**UNEVEN)).examples.scorers)
    words = rf"is {there + 1} but there are {there} clients that hold validation examples; lower it"
    with pytest.raises(ConfigError, match=words):
        prepare(small(**UNEVEN, evaluation={"clients": there + 1}))


class Deaf(InProcess):
    """Trains, but answers no question for a score."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            if isinstance(job, Evaluate):
                yield Failure(job.id, job.client, "it is asleep")
            else:
                yield from super().exchange([job])


def test_clients_decide_when_to_stop_and_which_round_is_best(setup: Setup, tmp_path: Path) -> None:
    config = small(evaluation={"decide_by": "clients"})
    done = run(config, tmp_path / "r", setup=setup)
    records = Run.open(done.folder).read_metrics()
    figures = [r["on_clients"]["decisive"] for r in records]
    assert done.scored_round == 1 + figures.index(min(figures))


def test_patience_counts_the_deciders_rounds() -> None:
    shared = ClientScores(1, 1, {"loss": Spread(2.0, 2.0, 0.0)})
    record = round_record(
        1, validation=MeanScore(1, 1, {"loss": 3.0}), on_clients=OnClients(shared, None, 0, 9, 2.5)
    )
    assert decide("loss", False, "clients", record) == 2.5
    assert decide("loss", False, "server", record) == 3.0
    nobody = replace(record, on_clients=OnClients(ClientScores(0, 0, {}), None, 1, 9))
    with pytest.raises(RoundError, match="round 1: no client gave a usable score"):
        decide("loss", False, "clients", nobody)


def test_a_failed_evaluation_is_recorded_with_its_reason(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexlora.federation import engine

    monkeypatch.setattr(engine, "InProcess", Deaf)
    config = small(federation={"rounds": 1})
    done = run(config, tmp_path / "r", setup=setup)
    (record,) = Run.open(done.folder).read_metrics()
    assert record["on_clients"]["global"]["clients"] == 0
    assert record["on_clients"]["failures"] == len(setup.examples.train)
    events = Run.open(done.folder).events(Failed)
    assert {(e.kind, e.reason) for e in events} == {("evaluate", "it is asleep")}


# --- clients on which the server validates -------------------------------------------------------


def test_validation_clients_do_not_train(setup: Setup) -> None:
    made = prepare(small(evaluation={"validation_clients": 2, "validation_examples": 100}))
    kept_out = {client.id for client in made.examples.validation}
    assert len(kept_out) == 2
    assert kept_out.isdisjoint(made.examples.train)
    assert kept_out | set(made.examples.train) == set(setup.examples.train)
    assert all(len(client.examples) == 6 for client in made.examples.validation)


def test_all_clients_validating_leaves_nobody_to_train() -> None:
    with pytest.raises(DataError, match="validation_clients is 4, but there are 4 clients"):
        prepare(small(evaluation={"validation_clients": 4}))


def test_the_server_may_hold_no_validation_examples(tmp_path: Path) -> None:
    config = small(evaluation={"validation_examples": 0, "decide_by": "clients"})
    done = run(config, tmp_path / "r")
    assert all("validation" not in r for r in Run.open(done.folder).read_metrics())


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"on_clients": "off", "decide_by": "clients"}, "on_clients is 'off'"),
        ({"validation_examples": 0}, "decide_by is 'server'"),
        ({"every": 0}, "on_clients is 'tuned' but every is 0"),
        ({"clients": 99}, "evaluation.clients is 99 but there are 4"),
        ({"clients": 1.5}, "evaluation.clients is 1.5, expected 1 or less"),
    ],
)
def test_wrong_settings(evaluation: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run(small(evaluation=evaluation), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []
