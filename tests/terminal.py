"""The command line as a process of its own whose stdout is a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

from warm import Warm

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(
    warm: Warm, *arguments: object, width: int, stderr: int | None = None, **environment: str
) -> tuple[int, str]:
    """(exit code, all that was written) of `flexlora …`. stderr: None for the terminal too."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    with subprocess.Popen(
        ["flexlora", *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave if stderr is None else stderr,
        env={**kept, **warm.environment, "TERM": "xterm-256color", **environment},
    ) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # Linux: the other side is closed.
                break
            if not part:
                break
            written += part
    os.close(master)
    return process.returncode, written.decode()


def lines_on_a_terminal(warm: Warm, *arguments: object, width: int) -> list[str]:
    """The lines of stdout alone, without colours, of a command that ends well."""
    code, written = on_a_terminal(
        warm, *arguments, width=width, stderr=subprocess.DEVNULL, NO_COLOR="1"
    )
    assert code == 0, written
    return [line.rstrip() for line in ESCAPE.sub("", written).splitlines()]
