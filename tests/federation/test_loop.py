"""The one loop, with a transport that needs no model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from flexlora.adapters import LayerSpec
from flexlora.config.config import Config
from flexlora.config.schedule import Schedule
from flexlora.engines.jobs import Train, Transport
from flexlora.errors import RoundError
from flexlora.evaluation import MeanScore
from flexlora.federation.collector import Plain
from flexlora.federation.loop import Federation, last
from flexlora.federation.observers import Recorder
from flexlora.federation.sending import Sender
from flexlora.federation.streams import Streams
from flexlora.formats.delta import update_payload
from flexlora.formats.payloads import to_bytes
from flexlora.rules import RULES, Combined, Rule, Spec, State, make_rule
from flexlora.runs.committed import Committed
from flexlora.runs.events import Event, Failed, Noted, Replied, RoundBegun, RoundEnded
from flexlora.runs.packed_state import pack
from flexlora.runs.progress import Progress
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Record, Run
from flexlora.runs.store import ClientStore
from flexlora.training import Recipe
from reference import dense, one_of_each
from same_run import MEASURED, happened
from small import LAYERS, Noise, moved, read

RANKS = {"a": 2, "b": 4, "c": 3, "d": 2, "e": 4}
RECIPE = Recipe("adamw", 0.8, 4)
NAMES = sorted(RULES)
KINDS = one_of_each("delta", "memory")


def sent_ranks(job: Train) -> dict[str, int]:
    return read(job.payload).ranks


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def told(self, event: Event) -> None:
        self.events.append(event)


def federation(
    folder: Path,
    name: str = "flexlora",
    *,
    options: dict[str, Any] | None = None,
    values: Sequence[float] = (),
    fails: Sequence[str] = (),
    backwards: bool = False,
    ranks: dict[str, int] = RANKS,
    layers: Sequence[LayerSpec] = LAYERS,
    seed: int = 0,
    **schedule: Any,
) -> Federation:
    """`values`: what the validations return, in order (default: all gain)."""
    rule = make_rule(name, options)
    given = iter(values or [-float(i) for i in range(100)])

    def validate(_: State) -> MeanScore:
        return MeanScore(1, 1, {"loss": next(given)})

    run = Run.open(folder) if folder.exists() else Run.create(Config(), folder)
    store = ClientStore(
        dict.fromkeys(ranks, "any"),
        {client: {layer.name: rank for layer in layers} for client, rank in ranks.items()},
    )
    of_all = Spec.of(layers, list(store.ranks.values()))
    asked = Schedule(**{"rounds": 3, "clients": 3, "recipe": RECIPE, **schedule})
    sender = Sender(rule, asked, Streams(seed))
    return Federation(
        sender=sender,
        stands=last(run) or Committed(sender.begin(of_all), store, Progress()),
        transport=cast(Transport, Noise(rule, fails, backwards=backwards)),  # Given Train alone.
        collector=Plain(run.spool, rule),
        run=run,
        validate=validate,
        decide=lambda record: record.scores["loss"],
        observer=Recorder(run, Told()),
    )


def noise(made: Federation) -> Noise:
    transport: object = made.transport
    assert isinstance(transport, Noise)
    return transport


def told(made: Federation) -> list[Event]:
    assert isinstance(made.observer, Recorder)
    assert isinstance(made.observer.observer, Told)
    return made.observer.observer.events


def play(made: Federation) -> list[RoundRecord]:
    return list(made.rounds())


def assert_same(one: Federation, other: Federation) -> None:
    ours, theirs = pack(one.state), pack(other.state)
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    for path in ours[0]:
        assert torch.equal(ours[0][path], theirs[0][path]), path
    assert one.store == other.store
    assert one.progress == other.progress


def logged(run: Run) -> list[Record]:
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in run.read_metrics()]


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_runs_and_is_the_same_after_a_stop_at_any_round(
    tmp_path: Path, name: str
) -> None:
    whole = federation(tmp_path / "whole", name)
    records = play(whole)
    assert [record.round for record in records] == [1, 2, 3]
    assert records == whole.run.records()
    assert all(len(record.clients) == 3 for record in records)
    assert whole.state.round == 3
    begun = whole.rule.init(whole.state.spec, whole.streams.generator("init"))
    moved_on = (
        not torch.equal(tensor, begun.layers[name].get(key, tensor + 1))
        for name, tensors in whole.state.layers.items()
        for key, tensor in tensors.items()
    )
    assert any(moved_on)
    assert whole.run.checkpoints() == [2, 3]
    assert not whole.run.spool.exists()
    for stop in (1, 2) if name in KINDS else (2,):
        folder = tmp_path / f"stopped-{stop}"
        first = federation(folder, name)
        for _ in range(stop):
            first.play()
        # Stopped after the next round's line was written, and before its checkpoint.
        first.run.append_metrics(replace(records[stop], examples=7))
        first.run.append_event(Failed(stop + 1, "a", "no"))
        second = federation(folder, name, values=[-float(i) for i in range(stop, 100)])
        play(second)
        assert_same(second, whole)
        assert logged(second.run) == logged(whole.run)
        assert happened(second.run) == happened(whole.run)
        assert second.run.events(Failed) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_arrival_changes_nothing(tmp_path: Path, name: str) -> None:
    one = federation(tmp_path / "one", name, rounds=2)
    other = federation(tmp_path / "other", name, rounds=2, backwards=True)
    play(one)
    play(other)
    assert_same(one, other)
    assert logged(one.run) == logged(other.run)


def test_a_record_says_what_was_cut_off_the_sum(tmp_path: Path) -> None:
    """‖Σ weight · ΔW − what the state holds‖_F over all layers, against the sum multiplied out."""
    made = federation(tmp_path / "r", rounds=1)
    (record,) = play(made)
    trained = [moved(read(job.payload), job.seed) for job in noise(made).jobs]
    learned = made.rule.learned(made.state)
    lost = {
        layer.name: sum(dense(t[layer.name].product()) for t in trained) / len(trained)
        - dense(learned[layer.name])
        for layer in LAYERS
    }
    error = math.hypot(*(float(matrix.norm()) for matrix in lost.values()))
    assert error > 0.01
    assert record.cut is not None
    assert record.cut.error == pytest.approx(error, rel=1e-5)
    assert record.cut.certificates == {"exact": len(LAYERS)}
    assert logged(made.run)[0]["cut"] == asdict(record.cut)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_cuts_nothing_records_no_cut(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Combined] = []
    combine = RULES[name].combine_layer

    def told(*arguments: Any) -> Combined:
        given.append(combine(*arguments))
        return given[-1]

    monkeypatch.setattr(RULES[name], "combine_layer", told)
    (record,) = play(federation(tmp_path / "r", name, rounds=1))
    assert len(given) == len(LAYERS)
    assert (record.cut is not None) == any(x.certificate is not None for x in given)


def test_seeds_are_told_apart(tmp_path: Path) -> None:
    one, other = (federation(tmp_path / str(seed), rounds=1, seed=seed) for seed in (0, 1))
    play(one)
    play(other)
    assert not torch.equal(one.state.layers["x.q_proj"]["s"], other.state.layers["x.q_proj"]["s"])


def test_the_learning_rate_that_is_sent_decays(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", decay_rounds=(2,), decay_factor=0.25)
    records = play(made)
    assert [record.learning_rate for record in records] == [0.8, 0.2, 0.2]
    assert [job.recipe.learning_rate for job in noise(made).jobs[::3]] == [0.8, 0.2, 0.2]


def test_it_ends_when_validation_brings_no_gain(tmp_path: Path) -> None:
    values = [3.0, 1.0, 2.0, 2.5, 9.0, 9.0]
    made = federation(tmp_path / "r", rounds=6, patience=2, values=values)
    assert [record.round for record in play(made)] == [1, 2, 3, 4]
    assert made.progress.best_round == 2
    assert made.run.checkpoints() == [2, 3, 4]
    assert made.run.load_checkpoint("best") is not None
    (told,) = made.run.events(Noted)
    assert told.text == (
        "ends after round 4 of 6: nothing better than round 2 for 2 validated rounds "
        "(federation.patience)"
    )
    again = federation(tmp_path / "r", rounds=6, patience=2, values=[0.0])
    assert again.finished
    assert play(again) == []


def test_validation_that_is_never_asked_for(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", evaluate_every=0, patience=1)
    assert not any(record.validated for record in play(made))
    assert made.progress.best_round == 0


def test_a_failure_is_recorded_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", rounds=1, clients=5, fails=("b", "d"))
    (record,) = play(made)
    assert record.clients == ("a", "c", "e")
    assert record.failures == 2
    failed = [Failed(1, client, "its disk is full") for client in ("b", "d")]
    assert made.run.events(Failed) == failed
    assert set(made.store.held) == {"a", "c", "e"}
    without = federation(tmp_path / "w", rounds=1, clients=5, fails=("b", "d"), backwards=True)
    play(without)
    assert_same(made, without)
    sizes = {job.client: len(job.payload) for job in noise(made).jobs}
    replied = {
        client: Replied(1, client, "any", 3, 20, 1.0, 0.1, size) for client, size in sizes.items()
    }
    assert told(made) == [
        RoundBegun(1, ("a", "b", "c", "d", "e")),
        replied["a"],
        failed[0],
        replied["c"],
        failed[1],
        replied["e"],
        RoundEnded(record),
    ]
    assert made.run.events(Event) == told(made)


def test_a_round_without_a_good_reply_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", rounds=2)
    made.play()
    kept = {p: p.read_bytes() for p in (tmp_path / "r" / "checkpoints").rglob("*") if p.is_file()}
    noise(made).fails = tuple(RANKS)
    with pytest.raises(RoundError, match="round 2: none of 3 clients gave a usable reply") as error:
        made.play()
    assert "its disk is full" in str(error.value)
    now = {p: p.read_bytes() for p in (tmp_path / "r" / "checkpoints").rglob("*") if p.is_file()}
    assert now == kept
    assert [r["round"] for r in made.run.read_metrics()] == [1]
    assert [event.round for event in made.run.events(Failed)] == [2, 2, 2]
    # The cause mended, it goes on to where an unbroken run would have ended.
    again = federation(tmp_path / "r", rounds=2, values=[-1.0])
    play(again)
    whole = federation(tmp_path / "whole", rounds=2)
    play(whole)
    assert_same(again, whole)
    assert again.run.events(Failed) == []
    assert happened(again.run) == happened(whole.run)


@pytest.mark.parametrize("name", [x for x in NAMES if RULES[x].traits.delta == "none"])
def test_without_delta_bytes_down_are_the_payloads(tmp_path: Path, name: str) -> None:
    made = federation(tmp_path / "r", name)
    records = play(made)
    sizes = [len(job.payload) for job in noise(made).jobs]
    for index, record in enumerate(records):
        assert record.bytes_down == sum(sizes[3 * index : 3 * index + 3])
    assert all(record.bytes_up > 0 for record in records)


@pytest.mark.parametrize("name", [x for x in NAMES if RULES[x].traits.delta != "none"])
def test_delta_counts_and_costs_less_for_a_client_that_is_up_to_date(
    tmp_path: Path, name: str
) -> None:
    # One wide client and two narrow ones, whose steps are smaller than all of Δ, in layers that
    # are large beside their names. One client alone leaves no residual.
    ranks, clients = {"a": 4, "b": 1, "c": 1}, 1 + (RULES[name].traits.delta == "residual")
    made = federation(
        tmp_path / "r",
        name,
        ranks=ranks,
        layers=[LayerSpec(x.name, 10 * x.m, 10 * x.n) for x in LAYERS],
        rounds=12,
        clients=clients,
        evaluate_every=0,
    )
    play(made)
    held: dict[str, int] = {}
    cheaper = 0
    for place, job in enumerate(noise(made).jobs):
        version = place // clients
        assert job.delta.version == version
        extra = job.bytes_down - len(job.payload)
        update = job.delta.since(held.get(job.client))
        assert job.held == held.get(job.client)
        assert extra == (0 if update is None else len(to_bytes(update_payload(update))))
        if version and held.get(job.client) != version:
            assert extra > 0
        if job.client in held and held[job.client] < version:
            everything = job.delta.since(None)
            assert everything is not None
            whole = len(to_bytes(update_payload(everything)))
            assert extra <= whole
            cheaper += extra < whole
        held[job.client] = version
    # What is shared out anew among layers every round has no step: it travels whole.
    shares_out = RULES[name].settle is not Rule.settle
    assert bool(cheaper) != shares_out, "no client was ever sent a patch: the test shows nothing"
    assert made.store.held == held


def test_what_increment_sends_is_held_by_delta(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", "flexlora-increment", options={"directions": "top"}, rounds=2)
    play(made)
    assert all(job.origin for job in noise(made).jobs)
    job = noise(made).jobs[-1]
    for name, factors in read(job.payload).items():
        held = job.delta.layers[name].dense()
        rest = torch.linalg.svdvals((held - factors.product().dense()).double())
        kept = torch.linalg.svdvals(held.double())[factors.rank :]
        assert torch.allclose(rest[: len(kept)], kept, atol=1e-5)


def test_a_pruned_rank_stays_pruned(tmp_path: Path) -> None:
    options = {"gamma": 0.5, "regulariser": 0.0}
    made = federation(tmp_path / "r", "hetlora", options=options, clients=5)

    class Shrinks(Noise):
        def exchange(self, jobs):  # type: ignore[no-untyped-def]
            from flexlora.adapters import Adapter, Factors
            from small import reply_to

            self.jobs += jobs
            for job in jobs:
                sent = read(job.payload)
                # The tail was zero when it was sent: only a smaller one is pruned, so in round 1
                # it grows, and in every later round it shrinks.
                factor = 0.5 if job.round > 1 else 1.0
                grown = 1.0 if job.round == 1 else 0.0
                trained = Adapter(
                    {name: Factors(f.b * factor + grown, f.a, f.scale) for name, f in sent.items()}
                )
                yield reply_to(job, self.rule.reply(job.round, trained, sent, {}).adapter)

    made.transport = cast(Transport, Shrinks(made.rule))
    made.play()
    assert {c: r["x.q_proj"] for c, r in made.store.ranks.items()} == RANKS
    made.play()
    pruned = {"a": 1, "b": 2, "c": 1, "d": 1, "e": 2}
    assert {c: r["x.q_proj"] for c, r in made.store.ranks.items()} == pruned
    again = federation(tmp_path / "r", "hetlora", options=options, clients=5)
    again.play()
    assert {job.client: sent_ranks(job)["x.up_proj"] for job in noise(again).jobs} == pruned


def test_a_client_is_told_the_last_round_in_which_its_reply_counted(
    tmp_path: Path,
) -> None:
    """Where the rule has it remember; a resume tells the same, and no other rule keeps it."""
    made = federation(tmp_path / "r", "fedsa", clients=5)
    made.play()
    noise(made).fails = ["b"]
    made.play()
    wanted = {"a": 2, "b": 1, "c": 2, "d": 2, "e": 2}
    for now in (made, federation(tmp_path / "r", "fedsa", clients=5)):
        now.play()
        told = {job.client: job.answered for job in noise(now).jobs if job.round == 3}
        assert told == wanted
        assert {x.answered for x in noise(now).jobs if x.round == 1} <= {None}
        shutil.rmtree(now.run.folder / "checkpoints" / "round-0003")
    other = federation(tmp_path / "other")
    other.play()
    assert other.store.held
    assert not other.store.answered


def test_a_rule_of_one_rank_trains_all_at_the_lowest(tmp_path: Path) -> None:
    made = federation(tmp_path / "r", "fedit", clients=5, rounds=1)
    play(made)
    assert {sent_ranks(job)["x.q_proj"] for job in noise(made).jobs} == {2}
    assert {read(job.payload)["x.up_proj"].rank for job in noise(made).jobs} == {2}
    mixed = federation(tmp_path / "m", "flexlora", clients=5, rounds=1)
    play(mixed)
    assert {job.client: sent_ranks(job)["x.q_proj"] for job in noise(mixed).jobs} == RANKS
