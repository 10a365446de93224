"""Simulated time: by profiles alone, said in every round, and a deadline that cuts stragglers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devices import CLIENTS, DEVICES, device_file, on_devices
from flexlora.engines.jobs import Train
from flexlora.federation.clock import Clock, clock_of
from flexlora.federation.sending import Sender
from flexlora.federation.session import Session
from flexlora.federation.setup import Setup, prepare
from flexlora.planning.traffic import traffic
from flexlora.rules import make_rule
from flexlora.runs.events import Failed, Replied
from flexlora.runs.overview import overview
from flexlora.runs.records import RoundRecord, Simulated
from flexlora.runs.run_directory import Run

RULE = make_rule("flexlora")
SLOW = (
    f'[slow]\nclients = ["{CLIENTS[0]}"]\nmemory = "1 GB"\nflops = {{float32 = "1 GFLOPS"}}\n'
    'bandwidth = "1 GB/s"\nuplink = "1 kbit/s"\ndownlink = "1 Mbit/s"\n'
)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    file = device_file(tmp_path_factory.mktemp("devices"), SLOW + DEVICES)
    return prepare(on_devices(file, federation={"rounds": 2}), outline=True)


def jobs_of(setup: Setup) -> list[Train]:
    sender = Sender(RULE, setup.settings.schedule, setup.streams)
    return sender.training(sender.begin(setup.spec), setup.roster.fresh_store()).jobs


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_a_coarse_wire_is_as_fast_as_it_is_small(setup: Setup, wire: str) -> None:
    """What a client returns is as large as what it is sent."""
    assert setup.fleet is not None
    config = setup.config
    federation = config.federation.model_copy(update={"wire": wire})
    made = prepare(config.model_copy(update={"federation": federation}), setup, outline=True)
    found = clock_of(made, RULE)
    assert found is not None
    store, exact = made.roster.fresh_store(), clock(setup)
    for job in jobs_of(made):
        device, ranks = setup.fleet.device(job.client), store.ranks[job.client]
        parts = made.foresight.parts(RULE, job.client)
        busy = sum(n * made.foresight.seconds(ranks, setting, device) for setting, n in parts)
        busy += job.bytes_down / device.downlink + job.bytes_down / device.uplink
        took = found.seconds(job, ranks)
        assert took == pytest.approx(busy / device.availability, rel=1e-9)
        assert took < exact.seconds(job, ranks)


@pytest.mark.parametrize("name", ["rolora", "lora-a2"])
def test_sides_that_take_turns_take_their_own_time(setup: Setup, name: str) -> None:
    """The link is so slow that nearly all of it is what is returned."""
    rule = make_rule(name)
    found, store = clock_of(setup, rule), setup.roster.fresh_store()
    assert found is not None
    assert setup.fleet is not None
    for job in jobs_of(setup):
        device, ranks = setup.fleet.device(job.client), store.ranks[job.client]
        took = {r: found.seconds(replace(job, round=r), ranks) for r in (1, 2, 3)}
        assert took[1] == took[3] != took[2]
        up = {
            r: traffic(rule, setup.foresight.shape.layers, {"": ranks}, {}, rounds=(r,))[""].up
            for r in (1, 2)
        }
        more = (up[2] - up[1]) / device.uplink / device.availability
        assert took[2] - took[1] == pytest.approx(more)


def test_a_coarse_wire_leaves_room_for_rank_under_a_limit_of_bytes(
    tmp_path: Path, setup: Setup
) -> None:
    file = device_file(tmp_path, DEVICES)
    tops = []
    for wire in ("exact", "bfloat16", "int8"):
        asked = on_devices(file, clients={"traffic": "60 kB"}, federation={"wire": wire})
        found = prepare(asked, setup, outline=True)
        tops.append(max(max(held.values()) for held in found.roster.ranks.values()))
    exact, half, quarter = tops
    assert exact < half < quarter


def clock(setup: Setup, deadline: float | None = None) -> Clock:
    assert setup.fleet is not None
    return Clock(setup.fleet, setup.foresight, RULE, deadline)


def test_a_clients_time_is_computing_and_both_links_over_the_time_that_it_is_there(
    setup: Setup,
) -> None:
    assert setup.fleet is not None
    store = setup.roster.fresh_store()
    for job in jobs_of(setup):
        device, ranks = setup.fleet.device(job.client), store.ranks[job.client]
        ((usual, steps),) = setup.foresight.parts(RULE, job.client)
        assert steps == 2  # max_steps.
        busy = steps * setup.foresight.seconds(ranks, usual, device)
        # What it returns is as large as what it is sent.
        busy += job.bytes_down / device.downlink + job.bytes_down / device.uplink
        took = clock(setup).seconds(job, ranks)
        assert took == pytest.approx(busy / device.availability, rel=1e-9)
        less = dict.fromkeys(ranks, 1)
        assert clock(setup).seconds(job, less) < took
        behind = replace(job, bytes_down=job.bytes_down + 10**6)  # It lacks much of Δ.
        more = clock(setup).seconds(behind, ranks) - took
        assert more == pytest.approx(1e6 / device.downlink / device.availability)


def test_a_round_lasts_as_long_as_its_slowest_and_no_longer_than_its_deadline(
    setup: Setup,
) -> None:
    store, jobs = setup.roster.fresh_store(), jobs_of(setup)
    each = clock(setup).each(jobs, store.ranks)
    free = clock(setup).round(each)
    assert (free.slowest, free.device, free.late) == (CLIENTS[0], "slow", ())
    assert free.seconds == free.slowest_seconds
    took = {job.client: clock(setup).seconds(job, store.ranks[job.client]) for job in jobs}
    assert each == took
    limit = (sorted(took.values())[-1] + sorted(took.values())[-2]) / 2
    cut = clock(setup, limit).round(took)
    assert cut == replace(free, seconds=limit, late=(CLIENTS[0],))
    assert Simulated.from_json(cut.to_json()) == cut
    early = sorted(took, key=took.__getitem__)[:2]
    assert clock(setup, limit).round(took, early).seconds == took[early[1]] < limit
    (slow,) = (job for job in jobs if job.client == CLIENTS[0])
    assert clock(setup, limit).late(slow, store.ranks[CLIENTS[0]]).startswith("late: ")
    assert not clock(setup, 1e9).late(slow, store.ranks[CLIENTS[0]])


def test_a_straggler_is_asked_trains_nothing_and_is_said_to_be_late(tmp_path: Path) -> None:
    """And the same rounds take the same time again, to the bit."""
    file = device_file(tmp_path, SLOW + DEVICES)
    config = on_devices(
        file, federation={"rounds": 2, "deadline": "15 s"}, evaluation={"unseen": False}
    )
    folders = [Session.of(config).play(tmp_path / n).folder for n in "ab"]
    run, again = map(Run.open, folders)
    records: list[RoundRecord] = run.records()
    for record in records:
        assert record.simulated is not None
        assert record.simulated.late == (CLIENTS[0],)
        assert record.simulated.seconds == 15.0
        assert record.clients == tuple(sorted(set(CLIENTS) - {CLIENTS[0]}))
        assert record.failures == 1
    assert [x.simulated for x in again.records()] == [x.simulated for x in records]
    late = run.events(Failed)
    assert {(x.client, x.kind) for x in late} == {(CLIENTS[0], "late")}
    assert late[0].reason.endswith("on its device (slow), the deadline is 15 s")
    assert CLIENTS[0] not in {x.client for x in run.events(Replied)}
    told = overview(folders[0])
    assert told["clients"][CLIENTS[0]]["failures"]["late"] == 2


def test_of_more_clients_than_are_needed_the_first_on_the_simulated_clock_count(
    tmp_path: Path,
) -> None:
    """The slow one is never among them, and the round is over before it would have answered."""
    config = on_devices(
        device_file(tmp_path, SLOW + DEVICES),
        federation={"rounds": 3, "clients_per_round": 2, "over_sample": 2.0},
        evaluation={"unseen": False, "on_clients": "off"},
    )
    run = Run.open(Session.of(config).play(tmp_path / "r").folder)
    setup = prepare(config, outline=True)
    for record in run.records():
        told = record.simulated
        assert told is not None
        assert (told.slowest, told.late) == (CLIENTS[0], ())
        assert len(record.clients) == 2
        assert set(record.spare) == set(CLIENTS) - set(record.clients)
        assert CLIENTS[0] in record.spare
        assert (record.failures, record.attempts) == (0, 1)
        assert told.seconds < told.slowest_seconds
    took = clock(setup).each(jobs_of(setup), setup.roster.fresh_store().ranks)
    first = run.records()[0]
    assert set(first.clients) == set(sorted(took, key=took.__getitem__)[:2])
    assert first.simulated is not None
    assert first.simulated.seconds == pytest.approx(max(took[x] for x in first.clients))


def test_without_devices_there_is_no_clock_and_none_for_who_trains_in_one_place(
    setup: Setup,
) -> None:
    assert clock_of(replace(setup, fleet=None), RULE) is None
    config = setup.config.model_copy(
        update={"federation": setup.config.federation.model_copy(update={"mode": "centralised"})}
    )
    assert clock_of(replace(setup, config=config), RULE) is None
    assert clock_of(setup, RULE) is not None
