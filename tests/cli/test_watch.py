"""`flexlora watch`: what it refuses in one sentence, what it prints, and how it ends."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from commands import PROCESS, Flexlora, assert_one_sentence
from flexlora.watching.token import kept_token
from watching.played import Played


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Played(tmp_path / "r").run.folder


@contextmanager
def process(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and the address that it prints."""
    command = [*PROCESS, "watch", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment,
        # Whoever runs the tests in the background of a script has it ignored, children included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "watching 1 run, until Ctrl-C, at\n"
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


def test_it_serves_until_it_is_stopped(run: Path) -> None:
    with process(run) as (started, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with build_opener().open(address, timeout=20) as page:
            assert page.url == f"{address}run/r"
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 143
        assert started.stderr is not None
        assert started.stderr.read() == "flexlora: stopped by SIGTERM\n"


def test_other_machines_need_the_token_that_is_printed(run: Path) -> None:
    with process(run, "--host", "0.0.0.0") as (started, address):
        found = re.fullmatch(r"http://[^:/]+:(\d+)/\?token=([\w-]{43})", address)
        assert found is not None
        here, token = f"http://127.0.0.1:{found[1]}/", found[2]
        with pytest.raises(OSError, match="401"):
            build_opener().open(here, timeout=20)
        with build_opener(HTTPCookieProcessor()).open(f"{here}?token={token}", timeout=20) as page:
            assert page.url == f"{here}run/r"
        started.send_signal(signal.SIGINT)
        assert started.wait(20) == 130
        assert started.stdout is not None
        assert started.stderr is not None
        told = started.stdout.read() + started.stderr.read()
        assert token not in told  # Printed once, and in no log.
        assert "other machines reach this page" in told


def test_a_token_is_kept_in_a_file_for_its_owner_alone(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "token"
    token = kept_token(kept)
    assert kept_token(kept) == token == kept.read_text().strip()
    with process(run, "--token-file", kept) as (_, address):
        assert address.endswith(f"/?token={token}")
    if os.name == "posix":
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_token_file_that_cannot_be_used(flexlora: Flexlora, run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "token"

    def refused(*words: str) -> None:
        assert_one_sentence(flexlora("watch", run, "--token-file", kept), str(kept), *words)

    kept.write_text("short\n")
    kept.chmod(0o600)
    refused("holds no token", "16 letters")
    kept.write_text("a token of several words\n")
    refused("holds no token")
    kept.write_bytes(b"x" * 5000)
    refused("has more than 4096 bytes")
    kept.write_text("a-token-that-nobody-guesses\n")
    kept.chmod(0o644)
    refused("may be read by others; chmod 600")
    kept.unlink()
    kept.mkdir()
    refused("is no plain file")
    kept.rmdir()
    kept = tmp_path / "none" / "token"
    refused("cannot use --token-file", "check the path")


def test_what_is_no_run(flexlora: Flexlora, run: Path, tmp_path: Path) -> None:
    for given, *words in (
        (tmp_path / "none", "none does not exist", "give a run directory"),
        (run / "config.toml", "config.toml is a file", "give a run directory"),
        (run / "checkpoints", "is no run, no comparison and no folder of runs"),
    ):
        assert_one_sentence(flexlora("watch", given), str(given), *words)
    assert_one_sentence(flexlora("watch", run, run), "is given twice", "name each run once")
    (run / "config.toml").write_text("x")
    assert_one_sentence(flexlora("watch", run), "config.toml")


def test_an_address_that_cannot_be_had(flexlora: Flexlora, run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = flexlora("watch", run, "--port", port)
        assert_one_sentence(done, f"port {port} of 127.0.0.1 is in use", "another --port")
    done = flexlora("watch", run, "--host", "192.0.2.1", "--port", 0)
    assert_one_sentence(done, "--host '192.0.2.1' is no address of this machine", "leave it out")
    done = flexlora("watch", run, "--host", "no such host", "--port", 0)
    assert_one_sentence(done, "--host 'no such host' is no address of this machine")
    assert_one_sentence(flexlora("watch", run, "--port", 70000), "70000", "65535")


def test_the_extra_is_missing(
    flexlora: Flexlora, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "flexlora.extras.find_spec", lambda name: None if name == "uvicorn" else found(name)
    )
    assert_one_sentence(flexlora("watch", run), "uvicorn", "flexlora[watch]")
