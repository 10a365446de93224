"""Processes that help one `flexlora compare` to play its folder, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def helpers(out: Path, count: int, since: float) -> Iterator[None]:
    """So many play in OUT while the block lasts. since: when the comparison was started.

    Each holds the other end of a pipe: it ends when this process does, however that ends. What one
    that died has left is taken over by those that live.
    """
    from flexlora.comparing.comparison import FILE

    command = [sys.executable, "-m", "flexlora", "compare", str(out / FILE), "--out", str(out)]
    begun = [
        subprocess.Popen([*command, f"--helps={since!r}"], stdin=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        yield
    except BaseException:
        for process in begun:
            process.terminate()
        raise
    finally:
        for process in begun:
            assert process.stdin is not None
            process.wait()
            process.stdin.close()


def end_with_parent() -> None:
    """Take the end of this process's stdin for a SIGTERM."""

    def watch() -> None:
        while os.read(0, 1):  # Nobody writes. Not through sys.stdin, which locks at the end.
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
