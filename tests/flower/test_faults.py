"""Faults of a network between real processes: rounds go on, and whoever was lost comes back."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flexlora.federation.ground import Ground
from flexlora.flower.server_settings import ServerSettings
from flexlora.runs.run_directory import Run
from flower.pipes import Pipe, pipe
from flower.test_loopback import DATA, NONE
from flower.trainers import client_tables, networked

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)

from flower.processes import Loopback, processes

MESSAGES = "flexlora.flower.messages"  # What forks them.

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def names() -> list[str]:
    return sorted(Ground.of(networked(data=DATA)).examples.train)


@pytest.fixture(scope="module")
def network(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Loopback, Pipe]]:
    """Two clients, of which the first reaches the SuperLink through a pipe."""
    folder = tmp_path_factory.mktemp("f")
    with processes(folder) as made:
        found = Loopback.begin(made)
        with pipe(found.port) as through:
            direct = found.port
            for name, port in zip(names, (through.port, direct), strict=True):
                tables = client_tables(name, folder / f"c-{name}")
                tables["data"] |= DATA
                found.trainer(name, tables)
                key = found.register(name)
                found.port = port
                found.node(name, tables, key)
                found.port = direct
            found.ready(names)
            yield found, through


class Going:
    """A run of many rounds, each of which ends after 20 seconds at the latest."""

    def __init__(self, network: Loopback, names: list[str], folder: Path, rounds: int) -> None:
        plan = networked(
            data=DATA,
            clients={"ranks": dict.fromkeys(names, 2)},
            federation={"rounds": rounds, "clients_per_round": 2, "rest_after": 99},
            evaluation=NONE,
        )
        self.network, self.folder = network, folder
        self.name = folder.parent.name
        settings = ServerSettings(run=str(folder), clients=2, wait=120.0, deadline=20.0)
        network.begin_run(self.name, plan, settings)

    def counts(self) -> list[int]:
        """How many clients counted in each round so far."""
        there = self.folder.is_dir()
        return [len(x.clients) for x in Run.open(self.folder).records()] if there else []

    def until(self, event: Callable[[list[int]], bool]) -> None:
        limit = time.monotonic() + 200
        while not event(self.counts()):
            over = self.network.made.running[f"run-{self.name}"].poll() is not None
            assert not over, self.network.told()
            assert time.monotonic() < limit, self.network.told()
            time.sleep(0.1)

    def stop(self) -> None:
        """The rounds that are left prove nothing more."""
        link = psutil.Process(self.network.made.running["superlink"].pid)
        for process in _running(link, "flwr-serverapp"):
            process.kill()
        self.network.made.end(f"run-{self.name}")


def test_a_network_cut_for_thirty_seconds_costs_rounds_their_client_and_no_more(
    names: list[str], network: tuple[Loopback, Pipe], tmp_path: Path
) -> None:
    made, through = network
    going = Going(made, names, tmp_path / "run", rounds=40)
    going.until(lambda counts: counts == [2])
    through.cut()
    time.sleep(30)
    through.mend()
    going.until(lambda counts: 1 in counts and counts[-1] == 2)
    records = Run.open(tmp_path / "run").records()
    assert {name for record in records for names in record.missing for name in names} == {names[0]}
    print("clients by round:", going.counts())
    going.stop()


def test_a_killed_client_app_costs_rounds_their_client_and_no_more(
    names: list[str], network: tuple[Loopback, Pipe], tmp_path: Path
) -> None:
    """Flower tells of it a minute later; until then its node takes no other message."""
    made, _ = network
    going = Going(made, names, tmp_path / "run", rounds=40)
    going.until(lambda counts: counts == [2])
    node = psutil.Process(made.made.running[f"node-{names[1]}"].pid)
    trainer = psutil.Process(made.made.running[f"trainer-{names[1]}"].pid)
    trainer.suspend()  # So that its ClientApp waits for it, in the midst of a job.
    limit = time.monotonic() + 60
    while not (apps := [x for x in _messages(node) if _age(x) > 5]):
        assert time.monotonic() < limit, made.told()
        time.sleep(0.1)
    for app in apps:
        app.kill()
    trainer.resume()
    going.until(lambda counts: 1 in counts and counts[-1] == 2)
    print("clients by round:", going.counts())
    going.stop()


def _messages(node: psutil.Process) -> list[psutil.Process]:
    """The processes of its messages."""
    return next(x for x in node.children() if MESSAGES in x.cmdline()).children()


def _age(process: psutil.Process) -> float:
    """Seconds since it began."""
    return time.time() - process.create_time()


def _running(parent: psutil.Process, command: str) -> list[psutil.Process]:
    """What the parent and its own run of this command now."""
    found = []
    for process in parent.children(recursive=True):
        try:
            if any(command in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_node_that_begins_no_processes_any_more_ends(
    names: list[str], network: tuple[Loopback, Pipe]
) -> None:
    """So that `flexlora flower client` begins it again; last, since nobody does that here."""
    made = network[0].made
    node = made.running[f"node-{names[1]}"]
    next(x for x in psutil.Process(node.pid).children() if MESSAGES in x.cmdline()).kill()
    assert node.wait(timeout=30) == 0, made.log(f"node-{names[1]}")
    assert "SuperNode terminated gracefully" in made.log(f"node-{names[1]}")
