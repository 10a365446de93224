"""How commands end before their time: signals, readers that went away, disks that are full.

Real processes, whose one command loads no model.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from flexlora.cli import commands, main
from flexlora.cli.console import Screen, say
from flexlora.cli.ends import ends
from flexlora.errors import ModelError

def wait():
    say("ready")
    time.sleep(60)

def wait_():
    # Python's own end of a sleep that was interrupted.
    {body}

commands.app.command("wait")(wait_)
sys.argv = ["flexlora", "wait"]
main.main()
"""
PLAYING = "ends.playing = 'my runs/r'; wait()"
TAKEN_FOR_DAMAGE = """
    try:
        wait()
    except BaseException as error:
        raise ModelError("the model is broken") from error
"""
TAKEN_FOR_ANOTHER = TAKEN_FOR_DAMAGE.replace("ModelError", "RuntimeError")
SWALLOWED = """
    try:
        wait()
    except BaseException:
        pass
"""
SLOW_TO_CLOSE = """
    try:
        wait()
    finally:
        say("closing")
        time.sleep(60)
"""
DRAWN = """
    with Screen().status("at work"):
        wait()
"""


def _heed() -> None:
    """Who runs the tests in the background of a script has Ctrl-C ignored, and under nohup a
    hang-up, children included."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def begun(body: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """The process, which ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("{body}", body)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TERM": "xterm-256color"},
        preexec_fn=_heed,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("number", "body", "said"),
    [
        (signal.SIGINT, "wait()", "stopped"),
        (signal.SIGTERM, PLAYING, "stopped by SIGTERM; go on with: flexlora resume 'my runs/r'"),
        (signal.SIGHUP, "wait()", "stopped by SIGHUP"),
        (signal.SIGINT, TAKEN_FOR_DAMAGE, "stopped"),
        (signal.SIGTERM, TAKEN_FOR_ANOTHER, "stopped by SIGTERM"),
        (signal.SIGINT, SWALLOWED, "stopped"),
    ],
)
def test_a_signal_is_told_as_a_stop_whatever_became_of_it(
    number: signal.Signals, body: str, said: str
) -> None:
    with begun(body) as process:
        assert read(process) == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, f"flexlora: {said}\n")


def test_many_signals_end_at_once_and_with_one_sentence() -> None:
    with begun(SLOW_TO_CLOSE) as process:
        assert read(process) == "ready\n"
        process.send_signal(signal.SIGINT)
        assert read(process) == "closing\n"
        for _ in range(10):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "flexlora: stopped\n")


@pytest.mark.parametrize("again", [False, True])
def test_a_terminal_gets_its_cursor_back(again: bool) -> None:
    master, slave = pty.openpty()
    body = f"""
    with Screen().status("at work"):
        {SLOW_TO_CLOSE.replace(chr(10), chr(10) + "    ") if again else "wait()"}
    """
    with begun(body, stdout=slave) as process:
        os.close(slave)
        seen = ""

        def until(words: str) -> None:
            nonlocal seen
            while words not in seen:
                seen += os.read(master, 4096).decode(errors="replace")

        until("ready")
        process.send_signal(signal.SIGTERM)
        if again:
            until("closing")
            process.send_signal(signal.SIGTERM)
        with suppress(OSError):  # Linux: the other side is closed.
            while part := os.read(master, 4096):
                seen += part.decode(errors="replace")
        assert process.wait(timeout=30) == 143
    os.close(master)
    assert "\x1b[?25l" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[say('line') for _ in range(100_000)]", ""),
        ("[Screen().print('line') for _ in range(100_000)]", ""),
        (
            "ends.at_work = True; [say('line') for _ in range(100_000)]",
            "flexlora: stopped, for whoever read the output has closed it\n",
        ),
        (
            "ends.at_work, ends.playing = True, 'r'; [say('line') for _ in range(100_000)]",
            "flexlora: stopped, for whoever read the output has closed it; "
            "go on with: flexlora resume r\n",
        ),
    ],
)
def test_a_reader_that_goes_away(body: str, said: str) -> None:
    with begun(body) as process:
        assert read(process) == "line\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(timeout=30) == 141
    assert err == said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
@pytest.mark.parametrize("body", ["say('x')", "Screen().print('x')"])
def test_an_output_that_is_full(body: str) -> None:
    with open("/dev/full", "w") as full, begun(body, stdout=full.fileno()) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("flexlora: stdout cannot be written: No space left on device; ")
    assert err.count("\n") == 1
