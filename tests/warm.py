"""A Python that has imported everything once: each command is a fork of it, so starts at once.

`flexlora …` and `python SCRIPT` are programs on the path that hand their arguments, environment,
folder and open files over a socket, and end with the exit code that comes back, or by SIGKILL where
none comes. Anything else that is asked of `python` is done by the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

_READY = "ready\n"


class Warm:
    """The server, and the environment in which its programs come first on the path."""

    def __init__(self) -> None:
        # Not in a test's folder: the path of a socket has about a hundred characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="warm"))
        address = str(self._folder / "socket")
        programs = self._folder / "bin"
        programs.mkdir()
        for name in ("flexlora", "python"):
            call = shlex.join([sys.executable, "-SE", __file__, address, name])
            (programs / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
            (programs / name).chmod(0o755)
        paths = [str(programs), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        self.environment = {"PATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, address],
            env={**os.environ, **self.environment, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == _READY

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)


def _ask(address: str, name: str, arguments: list[str]) -> int:
    """The client: have it done with this process's files. Returns the exit code."""
    if name == "python" and not (arguments and arguments[0].endswith(".py")):
        os.execv(sys.executable, [sys.executable, *arguments])
    asked = [name, arguments, os.getcwd(), dict(os.environ)]
    message = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as to:
        to.connect(address)
        socket.send_fds(to, [len(message).to_bytes(8, "big")], [0, 1, 2])
        to.sendall(message)
        process, answer = int.from_bytes(to.recv(8), "big"), to.recv(1)
    if not answer:  # It died without a word, and so does this, when all that it held is let go of.
        _wait_for_the_end(process)
        os.kill(os.getpid(), signal.SIGKILL)
    return answer[0]


def _wait_for_the_end(process: int) -> None:
    """Of a process that is none of ours: its files close one by one, locks after this socket."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(process, 0)
            time.sleep(0.001)


def _serve(address: str) -> None:
    import flexlora.federation  # noqa: F401
    from flexlora.models import load_model

    load_model("tiny")  # Some modules are imported on first use only.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel buries the children.
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    print(_READY, end="", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            head, files, _, _ = socket.recv_fds(connection, 8, 3)
            length, message = int.from_bytes(head, "big"), b""
            while len(message) < length:
                message += connection.recv(length - len(message))
            if os.fork() == 0:
                server.close()
                connection.sendall(os.getpid().to_bytes(8, "big"))
                name, arguments, folder, environment = json.loads(message)
                _become(name, arguments, folder, environment, files, connection)
            for file in files:
                os.close(file)


def _become(
    name: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    files: list[int],
    connection: socket.socket,
) -> None:
    """In the fork: be that command, with its files, folder and environment; never return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for target, file in enumerate(files):
        os.dup2(file, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code: Any = None
    try:
        if name == "flexlora":
            from flexlora.cli.main import main

            sys.argv = ["flexlora", *arguments]
            main()
        else:
            sys.argv = arguments
            sys.path[0] = str(Path(arguments[0]).resolve().parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    connection.sendall(bytes([int(code or 0)]))
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(sys.argv[1])
    else:
        sys.exit(_ask(sys.argv[1], sys.argv[2], sys.argv[3:]))
