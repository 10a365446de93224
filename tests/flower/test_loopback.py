"""Real processes of Flower on loopback: the run is that of one process, bit for bit."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexlora.config.config import Config
from flexlora.federation.ground import Ground
from flexlora.federation.session import Session
from flexlora.flower.server_settings import ServerSettings
from flexlora.runs.events import Failed, Noted
from flexlora.runs.run_directory import Run
from flower.states import assert_same_state
from flower.trainers import client_tables, networked

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)

from flower.processes import Loopback, processes

DATA = {"train_tasks": 2}
NONE = {"on_clients": "off", "every": 0, "decide_by": "server", "unseen": False}
RANKS = {"flexlora": (1, 8), "flora": (48, 80)}  # Of flora so high that Δ goes whole each round.


@pytest.fixture(scope="module")
def names() -> list[str]:
    return sorted(Ground.of(networked(data=DATA)).examples.train)


@pytest.fixture(scope="module")
def network(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """Two clients with a trainer and a node each, and a SuperLink; for all tests of this file."""
    folder = tmp_path_factory.mktemp("f")
    with processes(folder) as made:
        tables = {name: client_tables(name, folder / f"c-{name}") for name in names}
        for name in names:
            tables[name]["data"] |= DATA
        network = Loopback.begin(made)
        network.by_command(names[0], tables[names[0]])
        network.client(names[1], tables[names[1]])
        network.ready(names)
        yield network


def config(rule: str, names: list[str]) -> Config:
    ranks = dict(zip(names, RANKS[rule], strict=True))
    return networked(
        data=DATA,
        rule={"name": rule},
        clients={"ranks": ranks},
        federation={"clients_per_round": 2},
        evaluation=NONE,
    )


@pytest.mark.parametrize("rule", ["flexlora", "flora"])
def test_it_ends_at_the_bits_of_one_process(
    rule: str, names: list[str], network: Loopback, tmp_path: Path
) -> None:
    asked = config(rule, names)
    settings = ServerSettings(run=str(tmp_path / "there"), clients=2, wait=60.0, deadline=60.0)
    network.run(rule, asked, settings, seconds=150)
    assert (tmp_path / "there").is_dir(), network.told()
    Session.of(asked).play(tmp_path / "here")
    assert_same_state(tmp_path / "there", tmp_path / "here")
    there, here = Run.open(tmp_path / "there"), Run.open(tmp_path / "here")
    assert len(there.records()) == 3
    for mine, wanted in zip(there.records(), here.records(), strict=True):
        assert mine.failures == 0
        assert mine.train_loss == wanted.train_loss
        assert (mine.bytes_down, mine.bytes_up) == (wanted.bytes_down, wanted.bytes_up)


@pytest.mark.soak
def test_a_server_that_was_killed_goes_on_and_ends_at_the_same_bits(
    names: list[str], network: Loopback, tmp_path: Path
) -> None:
    """SuperLink and ServerApp by SIGKILL, in the second round; then flwr run with the same folder.

    The trainers live on and hold a Δ of the round that was lost.
    """
    asked, there = config("flora", names), tmp_path / "there"
    settings = ServerSettings(run=str(there), clients=2, wait=120.0, deadline=120.0)
    network.begin_run("killed", asked, settings)
    until = time.monotonic() + 150
    while not (there.is_dir() and Run.open(there).checkpoints()):
        assert time.monotonic() < until, network.told()
        time.sleep(0.2)
    network.made.end("superlink", "run-killed")
    assert Run.open(there).checkpoints() == [1]
    network.superlink("superlink-again")
    told = network.run("again", asked, settings, seconds=250)
    assert "goes on with the run" in told, network.told()
    Session.of(asked).play(tmp_path / "here")
    assert_same_state(there, tmp_path / "here")


@pytest.mark.soak
def test_a_killed_node_and_a_killed_trainer_are_failures_and_back_in_a_later_round(
    names: list[str], network: Loopback, tmp_path: Path
) -> None:
    """Of each round those count that answer by its deadline; the node's command begins it again."""
    federation = {"rounds": 14, "clients_per_round": 2}
    plan = networked(
        data=DATA,
        clients={"ranks": dict.fromkeys(names, 2)},
        federation=federation,
        evaluation=NONE,
    )
    folder = tmp_path / "run"
    settings = ServerSettings(run=str(folder), clients=2, wait=120.0, deadline=15.0)
    network.begin_run("faults", plan, settings)

    def until(event: Callable[[Run], bool]) -> None:
        limit = time.monotonic() + 150
        while not (folder.is_dir() and event(Run.open(folder))):
            assert time.monotonic() < limit, network.told()
            time.sleep(0.2)

    def clients(run: Run) -> list[int]:
        return [len(record.clients) for record in run.records()]

    until(lambda run: clients(run) == [2])
    time.sleep(3)  # The second round is on its way.
    network.kill_node_of(names[0])
    until(lambda run: clients(run)[1:2] == [1])
    until(lambda run: 2 in clients(run)[2:])
    came_back = len(clients(Run.open(folder)))
    network.made.end(f"trainer-{names[1]}")
    until(lambda run: 1 in clients(run)[came_back:])
    network.trainer(names[1], network.tables[names[1]])
    until(lambda run: clients(run)[-1] == 2 and len(clients(run)) > came_back + 1)
    network.made.running["run-faults"].wait(timeout=150)
    run = Run.open(folder)
    assert len(run.records()) == 14
    notes = [event.text for event in run.events(Noted)]
    assert f"client {names[0]} is back" in notes
    reasons = {event.reason for event in run.events(Failed) if event.client == names[1]}
    assert all("no trainer answers at" in reason for reason in reasons)
    assert reasons
