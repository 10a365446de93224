"""Real processes of Flower on loopback: the run is that of one process, bit for bit."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora
from flexlora.config.config import Config
from flexlora.federation.ground import Ground
from flexlora.federation.session import Session
from flexlora.flower.app_folder import write_app
from flexlora.flower.server_settings import ServerSettings
from flexlora.runs.events import Failed, Noted
from flexlora.runs.run_directory import Run
from flower.states import assert_same_state
from flower.trainers import client_tables, networked

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from flexlora.flower.begun import free_port
from flexlora.flower.keys import certificates, node_key
from flower.processes import Loopback, command, processes
from flower.proxies import nginx, proxy

pytestmark = pytest.mark.whole

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


def config(rule: str, names: list[str], rounds: int = 3) -> Config:
    ranks = dict(zip(names, RANKS[rule], strict=True))
    return networked(
        data=DATA,
        rule={"name": rule},
        clients={"ranks": ranks},
        federation={"clients_per_round": 2, "rounds": rounds},
        evaluation=NONE,
    )


def test_it_ends_at_the_bits_of_one_process_and_lets_no_stranger_in(
    names: list[str], network: Loopback, flexlora: Flexlora, tmp_path: Path
) -> None:
    """One test, so that one federation serves it all."""
    stranger, _ = node_key(tmp_path, "stranger")
    without = network.stranger("unregistered", network.certificates.authority, stranger)
    known = network.made.folder / f"{names[1]}.key"
    _require_checks(flexlora, network, names[1], known, stranger, tmp_path)
    _require_that_a_node_gives_its_messages_to_nobody_else(network, names[1])
    _require_same_bits("flexlora", names, network, tmp_path, rounds=2)
    assert without.wait(timeout=60) != 0
    assert "Failed to activate SuperNode" in network.made.log("node-unregistered")


def _require_that_a_node_gives_its_messages_to_nobody_else(network: Loopback, name: str) -> None:
    """Another user of the machine can reach the port, and asks as Flower's own programs do."""
    given: Any = network.made.running[f"node-{name}"].args
    address = f"127.0.0.1:{given[given.index('--port') + 1]}"
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))


def _require_checks(
    flexlora: Flexlora, network: Loopback, name: str, known: Path, stranger: Path, folder: Path
) -> None:
    """What `--check` says of the very files of a client that takes part, and of others."""
    (folder / "other").mkdir()
    other = certificates(folder / "other").authority
    ours = network.certificates.authority
    file = network.made.folder / f"{name}.toml"
    for authority, key, wrong in (
        (ours, known, {}),
        (ours, stranger, {"server": "does not know this key"}),
        (ours, None, {"server": "lets in registered keys alone"}),
        (other, known, {"certificate": "does not vouch", "server": "certificate right first"}),
    ):
        keys = () if key is None else ("--key", key)
        done = flexlora(
            *("flower", "client", file, "--check", "--superlink", f"127.0.0.1:{network.port}"),
            *("--root-certificates", authority, *keys, "--port", free_port()),
        )
        assert done.code == (2 if wrong else 0), done
        told = [line for line in done.out.splitlines() if line.startswith("✗")]
        assert len(told) == len(wrong), done
        for line, (what, words) in zip(told, wrong.items(), strict=True):
            assert line.startswith(f"✗ {what}: ")
            assert words in line


@pytest.mark.soak
@pytest.mark.parametrize("rule", ["flexlora", "flora"])
def test_three_rounds_end_at_the_bits_of_one_process(
    rule: str, names: list[str], network: Loopback, tmp_path: Path
) -> None:
    _require_same_bits(rule, names, network, tmp_path)


@pytest.mark.soak
def test_a_node_of_another_authority_or_without_a_key_never_comes(
    network: Loopback, tmp_path: Path
) -> None:
    """The first takes the SuperLink for somebody else, and sends it nothing."""
    other = certificates(tmp_path).authority
    private, _ = node_key(tmp_path, "somebody")
    keyless = network.stranger("keyless", network.certificates.authority, None)
    process = network.stranger("elsewhere", other, private, "--max-retries", "1")
    assert process.wait(timeout=120) != 0
    assert "CERTIFICATE_VERIFY_FAILED" in network.made.log("node-elsewhere")
    assert keyless.wait(timeout=120) != 0
    assert "authentication is enabled" in network.made.log("node-keyless")


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["python", "nginx"])
def test_behind_a_proxy_nodes_take_part_and_nobody_registers_keys_or_begins_runs(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    """Who reaches the SuperLink itself can do both with nothing but the certificate."""
    if kind == "nginx" and shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    tables = client_tables(names[0], tmp_path / "c")
    one = networked(federation={"rounds": 1, "clients_per_round": 1}, evaluation=NONE)
    app = write_app(tmp_path / "app", one, ServerSettings())
    with processes(tmp_path / "p") as made:
        network = Loopback.begin(made)
        with (
            proxy(network.certificates, network.port)
            if kind == "python"
            else nginx(tmp_path / "n", network.certificates, network.port)
        ) as port:
            place = made.folder / "home" / "config.toml"
            before = place.read_text()
            place.write_text(before.replace(f":{network.port}", f":{port}"))
            _, public = node_key(tmp_path, "stranger")
            for name, words in (
                ("register", ("supernode", "register", str(public), "here")),
                ("run", ("run", str(app), "here")),
            ):
                process = made.start(f"{name}-by-proxy", command("flwr"), *words)
                assert process.wait(timeout=60) != 0
                assert "403" in made.log(f"{name}-by-proxy")
            place.write_text(before)
            network.trainer(names[0], tables)
            key = network.register(names[0])
            network.port, known = port, network.port
            network.node(names[0], tables, key)
            network.ready(names[:1])
            network.port = known
            settings = ServerSettings(run=str(tmp_path / "run"), clients=1, wait=60.0)
            network.run("run", one, settings, seconds=150)
            assert Run.open(tmp_path / "run").ended() is not None, network.told()


def _require_same_bits(
    rule: str, names: list[str], network: Loopback, folder: Path, rounds: int = 3
) -> None:
    asked = config(rule, names, rounds)
    settings = ServerSettings(run=str(folder / "there"), clients=2, wait=60.0, deadline=60.0)
    network.run(rule, asked, settings, seconds=150)
    assert (folder / "there").is_dir(), network.told()
    Session.of(asked).play(folder / "here")
    assert_same_state(folder / "there", folder / "here")
    there, here = Run.open(folder / "there"), Run.open(folder / "here")
    assert len(there.records()) == rounds
    for mine, wanted in zip(there.records(), here.records(), strict=True):
        assert mine.failures == 0
        assert mine.wire_seconds is not None
        assert wanted.wire_seconds is None
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
    # Quick rounds, many of them without a node that the server does not let in again for a minute.
    federation = {"rounds": 70, "clients_per_round": 2, "rest_after": 0}
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

    until(lambda run: 2 in clients(run))
    network.kill_node_of(names[0])
    until(lambda run: 1 in clients(run))
    missed = clients(Run.open(folder)).index(1)
    until(lambda run: 2 in clients(run)[missed:])
    came_back = len(clients(Run.open(folder)))
    network.made.end(f"trainer-{names[1]}")
    until(lambda run: 1 in clients(run)[came_back:])
    network.trainer(names[1], network.tables[names[1]])
    until(lambda run: clients(run)[-1] == 2 and len(clients(run)) > came_back + 1)
    network.made.running["run-faults"].wait(timeout=300)
    run = Run.open(folder)
    assert len(run.records()) == 70
    assert names[0] in {name for record in run.records() for name in record.back}
    notes = [event.text for event in run.events(Noted)]
    assert f"client {names[0]} is back" in notes
    reasons = {event.reason for event in run.events(Failed) if event.client == names[1]}
    assert all("no trainer answers at" in reason for reason in reasons)
    assert reasons
