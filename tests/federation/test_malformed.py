"""No answer, however malformed, ends a round, changes anybody else's part, or breaks a log."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.malformed import BAD, BAD_SCORES, GOOD, SCORE, SCORED, Hostile
from flexlora.adapters import Adapter, Factors, factors_payload
from flexlora.config.config import Config
from flexlora.config.schedule import MOST_EXAMPLES, Schedule
from flexlora.engines.jobs import Evaluate, Failure, Job, Outcome, Reply, Scored
from flexlora.evaluation import ClientScore, MeanScore
from flexlora.federation.collector import Plain
from flexlora.federation.loop import Federation
from flexlora.federation.observers import Recorder, Silent
from flexlora.federation.on_clients import collect_scores, summary
from flexlora.federation.outcomes import Known
from flexlora.federation.sending import Sender
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import to_bytes
from flexlora.rules import make_rule
from flexlora.runs.committed import Committed
from flexlora.runs.events import Event, Failed
from flexlora.runs.progress import Progress
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from flexlora.runs.store import ClientStore
from flexlora.training import Recipe
from small import LAYERS, Noise, read, reply_to, spec, train_job

CLIENTS = ("a", "b", "c", "d")
RANKS = {layer.name: 3 for layer in LAYERS}


class Between(Noise):
    """Noise, and what is given in place of client a's answer, or beside it where that is told."""

    def __init__(self, given: Sequence[object], *, beside: bool) -> None:
        super().__init__(make_rule("flexlora"))
        self.given = given
        self.beside = beside

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        asked = [job for job in jobs if isinstance(job, Evaluate)]
        for at, job in enumerate(asked):
            if at == 0:
                yield from self.given  # type: ignore[misc]
            if at or self.beside:
                yield Scored(job.id, job.client, ClientScore(job.client, "x", 1, {"loss": 1.0}))
        for outcome in super().exchange([job for job in jobs if not isinstance(job, Evaluate)]):
            if outcome.client == "a":
                yield from self.given  # type: ignore[misc]
            if outcome.client != "a" or self.beside:
                yield outcome


def played(folder: Path, given: Sequence[object], *, beside: bool, **schedule: Any) -> Federation:
    """Two rounds of four clients, which all train and evaluate."""
    rule = make_rule("flexlora")
    asked = {"rounds": 2, "clients": 4, "recipe": Recipe("adamw", 0.8, 4), "evaluating_clients": 4}
    sender = Sender(rule, Schedule(**{**asked, **schedule}), Streams(0), CLIENTS)
    told = {"metric": "loss", "higher_is_better": {"loss": False}}
    run = Run.create(Config(), folder, resolved=told)
    store = ClientStore(dict.fromkeys(CLIENTS, "any"), {c: dict(RANKS) for c in CLIENTS})
    known = Known(dict.fromkeys(CLIENTS, 3), dict.fromkeys(CLIENTS, 1))
    made = Federation(
        sender=sender,
        stands=Committed(sender.begin(spec(3)), store, Progress()),
        transport=Between(given, beside=beside),
        collector=Plain(run.spool, rule, known),
        run=run,
        validate=lambda _: MeanScore(1, 1, {"loss": 1.0}),
        decide=lambda _: 1.0,
        observer=Recorder(run, Silent()),
        known=known,
    )
    list(made.rounds())
    return made


def bits(made: Federation) -> list[torch.Tensor]:
    return [t for layer in made.state.layers.values() for t in layer.values()]


def same(one: Federation, other: Federation) -> bool:
    return all(torch.equal(x, y) for x, y in zip(bits(one), bits(other), strict=True))


def require_readable(made: Federation) -> None:
    """As whoever looks at the run reads it."""
    run = Run.open(made.run.folder)
    events = run.events(Event)
    for event in events:
        str(event.to_json()).encode()
    records = run.records()
    assert [record.round for record in records] == [1, 2]
    assert all(math.isfinite(record.train_loss) for record in records)
    assert Standing.of(run).last is not None


@pytest.fixture(scope="module")
def without_a(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return played(tmp_path_factory.mktemp("w") / "r", [Failure("?", "?", "x")], beside=False)


@pytest.fixture(scope="module")
def with_all(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return played(tmp_path_factory.mktemp("a") / "r", [], beside=True)


# Values of every kind, good ones among them; the good ones are those of client a's jobs.
numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 5),
    st.sampled_from((10**6, 2**53 + 1, 2**64, 10**400, -(10**400))),
    st.floats(),
    st.sampled_from((True, None, "1", b"1", 1j, torch.tensor(1.0), [], Hostile())),
)
words: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(("1-0", "2-0", "1-evaluate-0", "a", "b", "x", "", None, 3, ("a",), ["a"], {})),
    st.text(st.characters(codec=None, categories=None), max_size=4),
    st.sampled_from(("\ud800", "\x1b[2J", "\u2028", "x" * 5000)),
)
tables = st.one_of(
    st.just({"loss": 1.0}),
    st.dictionaries(words.filter(lambda x: x.__hash__ is not None), numbers, max_size=2),
    numbers,
)
pools: st.SearchStrategy[Any] = st.one_of(st.just({}), tables)
scores = st.one_of(
    st.none(), st.builds(ClientScore, words, words, numbers, tables, pools, pools), numbers
)
payloads = st.one_of(st.sampled_from(("good", "cut", "other")), st.binary(max_size=40), numbers)
answers = st.one_of(
    st.builds(Reply, words, words, payloads, numbers, numbers, numbers, numbers, numbers, scores),
    st.builds(Scored, words, words, scores),
    st.builds(Failure, words, words, words),
    st.sampled_from((None, 3, "x", Hostile(), Reply, object())),
)

SENT = make_rule("flexlora").send(
    make_rule("flexlora").init(spec(3), torch.Generator()), RANKS, torch.Generator()
)
SERIALISED = to_bytes(factors_payload(SENT))
FEWER = to_bytes(factors_payload(Adapter({LAYERS[0].name: SENT[LAYERS[0].name]})))
PAYLOADS = {"good": SERIALISED, "cut": SERIALISED[:-9], "other": FEWER}
TRAIN = [train_job(client, SERIALISED, id=f"1-{i}") for i, client in enumerate(CLIENTS)]
EVALUATE = [Evaluate(f"1-evaluate-{i}", 1, c, SERIALISED, ("loss",)) for i, c in enumerate(CLIENTS)]


def written(answer: object) -> object:
    """With the payload that its word stands for."""
    if isinstance(answer, Reply) and isinstance(answer.payload, str):
        return replace(answer, payload=PAYLOADS.get(answer.payload, answer.payload))
    return answer


def collected(folder: Path, given: Sequence[object]) -> None:
    """What comes of one exchange of each kind, with these among three good answers."""
    plain, rest = Plain(folder / "spool", make_rule("flexlora")), list[Any](map(written, given))
    good = [reply_to(job, SENT) for job in TRAIN[1:]]
    *_, (_, found) = plain.collect(TRAIN, [*rest, *good], dict.fromkeys(CLIENTS, SENT))
    assert {"b", "c", "d"} <= set(found.replies) | {f.client for f in found.failures}
    assert len(found.replies) + len({f.job for f in found.failures} & {j.id for j in TRAIN}) >= 4
    for reply in found.replies.values():
        assert 0 <= reply.examples <= MOST_EXAMPLES
        assert math.isfinite(reply.loss)
    told: list[Any] = [
        Scored(job.id, job.client, ClientScore(job.client, "x", 1, {"loss": 1.0}))
        for job in EVALUATE[1:]
    ]
    scored, failures = collect_scores(EVALUATE, [*rest, *told])
    assert len(scored) + len({f.job for f in failures} & {job.id for job in EVALUATE}) >= 4
    summary(scored)
    for failure in (*found.failures, *failures):
        str(vars(Failed(1, failure.client, failure.reason))).encode()  # A lone surrogate cannot be.
    plain.clear()


@settings(max_examples=300)
@given(given=st.lists(answers, max_size=3))
def test_no_outcome_ends_an_exchange(
    tmp_path_factory: pytest.TempPathFactory, given: list[object]
) -> None:
    collected(tmp_path_factory.getbasetemp() / "outcomes", given)


@pytest.mark.soak
@settings(max_examples=30_000)
@given(given=st.lists(answers, max_size=4))
def test_no_outcome_ends_an_exchange_at_length(
    tmp_path_factory: pytest.TempPathFactory, given: list[object]
) -> None:
    collected(tmp_path_factory.getbasetemp() / "outcomes", given)


# Client a's answers, each malformed in one thing.
NAMES: list[Any] = [None, [], "\ud800", "\x1b[2J"]
WHOLE = replace(GOOD, payload=SERIALISED, score=None)
STRANGE: list[object] = [
    *(replace(WHOLE, client=name) for name in NAMES),
    None,
    Hostile(),
]
MALFORMED: list[object] = [
    *(replace(WHOLE, **change) for change, _ in BAD),
    *(replace(SCORED, score=replace(SCORE, **change)) for change, _ in BAD_SCORES),
    *(replace(WHOLE, job=name) for name in NAMES),
    *STRANGE,
]


def test_malformed_answers_leave_a_run_as_it_is_without_them(
    without_a: Federation, with_all: Federation, tmp_path: Path
) -> None:
    """All of them in one run, in place of a client's answers and beside them."""
    instead = played(tmp_path / "instead", MALFORMED, beside=False)
    require_readable(instead)
    assert same(instead, without_a)
    beside = played(tmp_path / "beside", STRANGE, beside=True)
    require_readable(beside)
    assert same(beside, with_all)
    assert not same(instead, beside)


def huge(size: float) -> Reply:
    adapter = {n: Factors(size * (f.b + 1.0), f.a, f.scale) for n, f in SENT.items()}
    return reply_to(TRAIN[0], Adapter(adapter))


@pytest.mark.parametrize("size", [1e6, 1e15, 1e30])
def test_one_update_out_of_all_proportion_is_left_out(
    tmp_path: Path, without_a: Federation, size: float
) -> None:
    """And not the run's end: the state is that without the client."""
    second = replace(huge(size), job="2-0")
    made = played(tmp_path / "r", [huge(size), second], beside=False)
    assert same(made, without_a)
    reasons = {e.reason for e in Run.open(tmp_path / "r").events(Failed) if e.client == "a"}
    said = {reason for reason in reasons if "not open" not in reason and reason != "no reply"}
    assert said
    assert all("norm" in reason for reason in said)


def test_the_limit_is_the_schedules(tmp_path: Path) -> None:
    loose = played(tmp_path / "loose", [huge(1e4)], beside=False, norm_limit=1e9, rounds=1)
    assert "a" in loose.run.records()[0].clients
    strict = played(tmp_path / "strict", [huge(1e4)], beside=False, norm_limit=1.5, rounds=1)
    assert "a" not in strict.run.records()[0].clients


def test_a_client_that_says_it_holds_a_million_weighs_what_it_holds(tmp_path: Path) -> None:
    plain = reply_to(TRAIN[0], read(SERIALISED))
    honest = played(tmp_path / "honest", [plain], beside=False, rounds=1)
    greedy = played(tmp_path / "greedy", [replace(plain, examples=10**6)], beside=False, rounds=1)
    assert same(honest, greedy)
    assert greedy.run.records()[0].examples == 12
