"""A trainer answers what comes, as in process, and stays for the next whatever came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexlora.adapters import Delta
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Evaluate, Failure, Offer, Reply, Scored, Train
from flexlora.errors import ConfigError
from flexlora.federation.ground import Ground
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup, prepare
from flexlora.flower import part
from flexlora.flower.client_file import parse_client
from flexlora.flower.described import REFUSED, Described
from flexlora.flower.jobs import Behind, job_packet
from flexlora.flower.outcomes import WITHHELD, packet_outcome
from flexlora.flower.packets import Packet
from flexlora.flower.trainer import Trainer
from flexlora.rules import make_rule
from flower.trainers import ask, client_file, client_tables, describe, networked, plan_of
from small import first_jobs, read

CONFIG = networked(rule={"name": "flora"})


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(CONFIG)


@pytest.fixture(scope="module")
def client(setup: Setup) -> str:
    return min(setup.examples.scorers)


@pytest.fixture(scope="module")
def warm(client: str, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    folder = tmp_path_factory.mktemp("client")
    made = Trainer(client_file(client, folder, labels=True), folder)
    ask(made, describe(), plan_of(CONFIG))
    return made


def job_of(setup: Setup, client: str) -> Train:
    rule = make_rule("flora")
    return next(job for job in first_jobs(setup, rule) if job.client == client)


def test_it_tells_counts_and_digests_and_no_example(
    setup: Setup, client: str, warm: Trainer
) -> None:
    found = Described.from_packet(ask(warm, describe(), plan_of(CONFIG)))
    held = next(x for x in setup.examples.census.clients if x.id == client)
    assert found.name == client
    assert (found.train, found.validation, found.test) == (held.train, held.validation, held.test)
    assert found.held_out == len(setup.examples.held_out[client])
    assert found.tokens == setup.known().tokens[client]
    assert found.labels == held.labels
    assert found.model == setup.ground.fingerprint
    assert len(found.train_digest) == 64


def test_labels_leave_a_client_only_where_its_operator_says_so(client: str, tmp_path: Path) -> None:
    quiet = Trainer(client_file(client, tmp_path), tmp_path)
    packet = ask(quiet, describe(), plan_of(CONFIG))
    assert Described.from_packet(packet).labels is None


def test_it_answers_as_the_engine_in_process_does(setup: Setup, client: str, warm: Trainer) -> None:
    job = replace(job_of(setup, client), metrics=("loss",))
    engine = InProcess(
        setup.model,
        setup.examples.train,
        make_rule("flora"),
        setup.examples.held_out,
        setup.settings.validation,
    )
    (wanted,) = engine.exchange([job])
    found = packet_outcome(ask(warm, job_packet(job, "a1", "7", None), plan_of(CONFIG)))
    assert isinstance(found, Reply)
    assert isinstance(wanted, Reply)
    assert found.score is not None
    assert found.peak_bytes is None or found.peak_bytes > 0
    ours, theirs = (replace(x, seconds=0.0, peak_bytes=None) for x in (found, wanted))
    assert ours.__dict__ == theirs.__dict__


def test_it_scores_what_it_is_sent(setup: Setup, client: str, warm: Trainer) -> None:
    job = Evaluate("1-evaluate-0", 1, client, job_of(setup, client).payload, ("loss",))
    found = packet_outcome(ask(warm, job_packet(job, "a1", "7", None), plan_of(CONFIG)))
    assert isinstance(found, Scored)
    assert found.score.client == client


def test_the_model_is_loaded_once_for_all_runs(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Trainer(client_file(client, tmp_path), tmp_path)
    ask(made, describe(), plan_of(CONFIG))
    loads: list[Any] = []
    from flexlora.federation import ground

    monkeypatch.setattr(ground, "_load", lambda *a: loads.append(a))
    other = networked(rule={"name": "flexlora"}, federation={"rounds": 9})
    assert ask(made, describe("b2"), plan_of(other, "b2")).kind == "described"
    assert loads == []


def test_delta_of_a_step_that_it_lacks_is_asked_for_whole(
    setup: Setup, client: str, warm: Trainer
) -> None:
    """As after a restart: it has forgotten Δ, and says so."""
    job = replace(job_of(setup, client), delta=_stepped(setup))
    found = packet_outcome(ask(warm, job_packet(job, "a1", "7", held=5), plan_of(CONFIG)))
    assert isinstance(found, Behind)
    whole = packet_outcome(ask(warm, job_packet(job, "a1", "8", held=found.held), plan_of(CONFIG)))
    assert isinstance(whole, Reply)
    described = Described.from_packet(ask(warm, describe(), plan_of(CONFIG)))
    assert described.held == 5
    other = Described.from_packet(ask(warm, describe("b2"), plan_of(CONFIG, "b2")))
    assert other.held is None
    ask(warm, describe(), plan_of(CONFIG))


def _stepped(setup: Setup) -> Delta:
    rule = make_rule("flora")
    sender = Sender(rule, setup.settings.schedule, setup.streams)
    state = sender.begin(setup.spec)
    adapter = rule.readout(state, next(iter(setup.roster.ranks.values())))
    return Delta(5, {name: factors.product() for name, factors in adapter.items()})


@pytest.mark.parametrize(
    ("packet", "told"),
    [
        (Packet("gossip", describe().address), "a job for client '' came to client"),
        (Packet("describe", describe().address, {"x": b"1"}), "of 1 bytes, expected at most 0"),
    ],
)
def test_what_it_cannot_use_is_a_failure_with_its_reason(
    warm: Trainer, packet: Packet, told: str
) -> None:
    found = packet_outcome(ask(warm, packet, plan_of(CONFIG)))
    assert isinstance(found, Failure)
    assert told in found.reason


def test_another_version_is_told_with_both(warm: Trainer) -> None:
    packet = replace_version(describe(), "0.0.9")
    found = packet_outcome(ask(warm, packet, plan_of(CONFIG)))
    assert isinstance(found, Failure)
    assert "other side has FlexLoRA 0.0.9" in found.reason
    assert "this one " in found.reason


def replace_version(packet: Packet, version: str) -> Packet:
    return Packet(packet.kind, packet.address, packet.parts, packet.facts, version)


def test_memory_that_runs_out_is_an_offer_of_half_the_ranks_with_its_reason(
    setup: Setup, client: str, warm: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    packet = job_packet(job_of(setup, client), "a1", "7", None)
    with monkeypatch.context() as patch:
        patch.setattr("flexlora.engines.in_process.train_cohort", too_much)
        found = packet_outcome(ask(warm, packet, plan_of(CONFIG)))
        assert isinstance(found, Offer)
        sent = read(job_of(setup, client).payload).ranks
        assert found.ranks == {name: rank // 2 for name, rank in sent.items()}
        assert "allocate memory" in found.reason
    assert isinstance(packet_outcome(ask(warm, packet, plan_of(CONFIG))), Reply)


def test_a_fault_of_ours_is_told_and_outlived(
    setup: Setup,
    client: str,
    warm: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: Any) -> Iterator[Any]:
        raise ZeroDivisionError("Jane Doe")

    with monkeypatch.context() as patch:
        patch.setattr(part.Part, "do", broken)
        packet = job_packet(job_of(setup, client), "a1", "7", None)
        found = packet_outcome(ask(warm, packet, plan_of(CONFIG)))
    assert isinstance(found, Failure)
    assert found.reason == "its trainer failed with ZeroDivisionError; its own log says more"
    assert "ZeroDivisionError: Jane Doe" in capsys.readouterr().err
    assert ask(warm, describe(), plan_of(CONFIG)).kind == "described"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"client": {"name": "nobody"}}, WITHHELD),
        ({"model": {"name": "/nowhere"}}, "/nowhere"),
        ({"data": {"train_tasks": 0}, "client": {"rows": "all"}}, WITHHELD),
    ],
)
def test_a_client_that_cannot_take_part_says_why(
    client: str, tmp_path: Path, changes: dict[str, dict[str, Any]], told: str
) -> None:
    tables = client_tables(client, tmp_path)
    file = parse_client({name: {**tables[name], **changes.get(name, {})} for name in tables})
    found = packet_outcome(ask(Trainer(file, tmp_path), describe(), plan_of(CONFIG)))
    assert isinstance(found, Failure)
    assert told in found.reason


@pytest.mark.parametrize(
    ("rows", "data", "quoted"),
    [
        (
            [{"q": "Q", "a": "no", "w": "HIV clinic"}, {"q": "Q", "a": "no", "w": "HIV Clinic"}],
            {"category": "w"},
            "'HIV Clinic' differs from",
        ),
        (
            [{"q": "Q", "c": ["yes", "no"], "a": "Jane Doe has hepatitis"}],
            {"choices": "c"},
            "a is 'Jane Doe has hepatitis'",
        ),
    ],
)
def test_what_an_error_quotes_of_the_data_stays_at_the_client(
    rows: list[dict[str, Any]], data: dict[str, str], quoted: str, tmp_path: Path
) -> None:
    path, said = tmp_path / "rows.jsonl", list[str]()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "jsonl", "path": str(path), "prompt": "q", "response": "a", **data}
    file = parse_client({"client": {"name": "north"}, "model": {"name": "tiny"}, "data": data})
    made = Trainer(file, tmp_path, say=said.append)
    found = packet_outcome(ask(made, describe(), plan_of(CONFIG)))
    assert isinstance(found, Failure)
    assert found.reason == WITHHELD
    assert quoted in said[-1]


def test_no_code_runs_because_a_server_says_so(client: str, tmp_path: Path) -> None:
    for tables in (
        {"rule": {"name": "evil.py:Rule"}},
        {"evaluation": {"metrics": ["evil.py:metric"]}},
    ):
        plan = plan_of(CONFIG)
        document = {k: {**v, **tables.get(k, {})} for k, v in plan.document.items()}
        with pytest.raises(ConfigError, match=r"evil\.py:.* no client runs code"):
            replace(plan, document=document).config_for(client_file(client, tmp_path))


def test_one_client_holds_all_rows_unless_it_is_named(tmp_path: Path) -> None:
    made = Trainer(client_file("anybody", tmp_path, rows="all"), tmp_path)
    found = Described.from_packet(ask(made, describe(), plan_of(CONFIG)))
    everything = Ground.of(CONFIG).examples.census.clients
    assert found.train == sum(holding.train for holding in everything)


def test_a_client_may_hold_the_rows_of_several(setup: Setup, tmp_path: Path) -> None:
    held = {one.id: one.train for one in setup.examples.census.clients}
    two = sorted(held)[:2]
    made = Trainer(client_file("both", tmp_path, owners=two), tmp_path)
    found = Described.from_packet(ask(made, describe(), plan_of(CONFIG)))
    assert (found.name, found.train) == ("both", sum(held[name] for name in two))


def test_what_a_server_calls_a_run_becomes_no_path(
    setup: Setup, client: str, tmp_path: Path
) -> None:
    folder = tmp_path / "there" / "client"
    config, run = networked(rule={"name": "fedsa"}), "../../away"
    trainer = Trainer(client_file(client, folder), folder)
    ask(trainer, describe(run), plan_of(config, run))
    jobs = first_jobs(setup, make_rule("fedsa"))
    job = next(job for job in jobs if job.client == client)
    found = packet_outcome(ask(trainer, job_packet(job, run, "ask", None), plan_of(config, run)))
    assert isinstance(found, Reply), found
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
    assert list((tmp_path / "there").iterdir()) == [folder]
    (memory,) = (folder / "memory").iterdir()
    assert memory.name.isalnum()


def test_its_operator_reads_why_it_does_not_take_part(client: str, tmp_path: Path) -> None:
    """The server's sentence, and its own: each once, and nothing in it moves a cursor."""
    said: list[str] = []
    made = Trainer(client_file(client, tmp_path), tmp_path, say=said.append)
    plan = plan_of(CONFIG)

    def refused(reason: object) -> Packet:
        facts = {"reason": reason}
        return ask(made, Packet(REFUSED, describe().address, {}, facts), plan)

    for _ in range(2):
        assert refused("another\x1b[2J base model").kind == REFUSED
    assert said == ["the server refuses this client: another\\x1b[2J base model"]
    assert refused(7).kind == "failure"
    assert said[1:] == [
        "cannot do what the server asks: a server refuses this client and says no reason: reason "
        "is 7, expected a text"
    ]
    lost = Trainer(client_file("nobody", tmp_path), tmp_path, say=said.append)
    told = ask(lost, describe(), plan)
    assert told.facts["reason"] == WITHHELD
    assert "no row of the data is of client nobody" in said[-1]
