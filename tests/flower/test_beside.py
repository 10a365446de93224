"""A client's trainer and node begin and end together; the way to the server is safe or refused."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flexlora.cli.commands import app
from flexlora.errors import ConfigError, FlexLoRAError
from flexlora.flower import beside
from flexlora.flower.beside import Uplink, serve_client
from flexlora.flower.local import private_folder


def uplink(address: str = "127.0.0.1:8000", **given: object) -> Uplink:
    values = {"authority": None, "key": None, "insecure": True, "port": 9094, **given}
    return Uplink(address, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "given", "told"),
    [
        ("silo", {}, "address is 'silo'; give host:port"),
        ("silo:port", {}, "give host:port"),
        (":80", {}, "give host:port"),
        ("silo:99999", {}, "give host:port"),
        ("silo.example:80", {}, "without TLS nothing leaves this machine, and 'silo.example'"),
        ("10.0.0.1:80", {}, "without TLS nothing leaves this machine"),
        ("localhost:80", {"key": Path("k")}, "--insecure has no certificate and no key"),
        ("silo:80", {"insecure": False, "key": Path("/no/key")}, "the key /no/key is missing"),
        ("silo:80", {"insecure": False, "authority": Path("/no/ca")}, "certificate /no/ca is mis"),
    ],
)
def test_an_unsafe_or_wrong_way_is_refused(
    address: str, given: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        uplink(address, **given)
    assert told in str(error.value)


def test_what_a_node_is_told(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    assert uplink("[::1]:80").words()[-1] == "--insecure"
    words = uplink("silo:80", insecure=False, key=key, authority=key).words()
    assert "--insecure" not in words
    assert words[words.index("--auth-supernode-private-key") + 1] == str(key)


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node, and a python that is a trainer, which note their process and their child's."""
    script = tmp_path / "stand-in"
    script.write_text(
        "#!/bin/sh\n"
        f'cd "{tmp_path}"\n'
        "sleep 600 &\n"
        'case "$*" in\n'
        f'  *trainer_process*) echo $$ $! > trainer; touch "{tmp_path}/c/trainer.sock";;\n'
        "  *) echo $$ $! $FLWR_TELEMETRY_ENABLED > node;;\n"
        "esac\n"
        "wait\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(beside, "node_command", lambda: [str(script)])
    return tmp_path


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def assert_gone(*processes: int) -> None:
    """Soon: a process that was killed takes a moment to go."""
    until = time.monotonic() + 20
    while left := [pid for pid in processes if alive(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.02)


def noted(folder: Path, name: str) -> list[int]:
    until = time.monotonic() + 20
    while not (folder / name).is_file() or not (folder / name).read_text().endswith("\n"):
        assert time.monotonic() < until, f"no {name}"
        time.sleep(0.02)
    return [int(word) for word in (folder / name).read_text().split()]


def killing(folder: Path, *names: str) -> Callable[[], None]:
    """From outside, once they are up, one after the other."""

    def kill() -> None:
        for name in names:
            pid = noted(folder, name)[0]
            (folder / name).rename(folder / f"{name}-killed")
            os.kill(pid, signal.SIGKILL)

    return kill


def test_both_end_where_the_node_ends_again_and_again(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "_AGAIN", 0.01)
    monkeypatch.setattr(beside, "_TRIES", 1)
    folder, told = private_folder(stand_ins / "c"), list[str]()
    threading.Thread(target=killing(stand_ins, "node", "node"), daemon=True).start()
    with pytest.raises(FlexLoRAError, match=r"the client's node ended \(exit code -9\)"):
        serve_client(Path("client.toml"), folder, uplink(), told.append)
    assert told[1:] == ["the node ended (exit code -9); it begins again in 0.01 s"]
    assert_gone(*noted(stand_ins, "trainer"))


def test_both_end_where_the_trainer_ends(stand_ins: Path) -> None:
    folder = private_folder(stand_ins / "c")

    def kill() -> None:
        noted(stand_ins, "node")
        killing(stand_ins, "trainer")()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(FlexLoRAError, match=r"the client's trainer ended \(exit code -9\)"):
        serve_client(Path("client.toml"), folder, uplink(), lambda _: None)
    (stand_ins / "trainer-killed").rename(stand_ins / "trainer")
    trainer, node = noted(stand_ins, "trainer"), noted(stand_ins, "node")
    assert_gone(*trainer, *node[:2])
    assert node[2] == 0


def test_both_end_with_the_command(stand_ins: Path) -> None:
    folder = private_folder(stand_ins / "c")

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve_client(Path("client.toml"), folder, uplink(), stop)
    assert_gone(*noted(stand_ins, "trainer"))
    assert not (stand_ins / "node").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of such an end")
def test_both_end_where_the_command_is_killed(stand_ins: Path) -> None:
    folder = private_folder(stand_ins / "c")
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            serve_client(Path("client.toml"), folder, uplink(), lambda _: None)
        os._exit(0)
    begun = [noted(stand_ins, name)[0] for name in ("trainer", "node")]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert_gone(*begun)


def test_the_command_tells_what_is_wrong_before_it_begins_anything(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text('[client]\nname = "north"\nrank = 0\n')
    words = ["flower", "client", str(file), "--superlink", "silo:80"]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, ConfigError)
    assert "client.rank is 0" in str(found.exception)


def test_a_port_in_use_is_told_before_anything_begins(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text(f'[client]\nname = "north"\nfolder = "{tmp_path}/own"\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["flower", "client", str(file), "--superlink", "localhost:80", "--insecure"]
        found = CliRunner().invoke(app, [*words, "--port", str(port)])
    assert isinstance(found.exception, ConfigError)
    assert f"port {port} of this machine cannot be had" in str(found.exception)
    assert not (tmp_path / "own").exists()


def test_a_trainer_that_cannot_begin_says_why(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    file = tmp_path / "client.toml"
    file.write_text(f'[client]\nname = "north"\nfolder = "{tmp_path}/open"\n')
    words = [sys.executable, "-m", "flexlora.flower.trainer_process", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("flexlora: client folder")
    assert "chmod 700" in done.stderr
