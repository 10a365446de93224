"""How a command ends before its time: by a signal, or because nobody reads it any more.

The first signal unwinds as Ctrl-C does: files close, the terminal gets its cursor back, workers
end. What it became on its way (a library may take it for a broken file) is told as the stop that
it was. A second one ends the process at once; nothing is lost by that, for a run goes on after
any stop. Nothing heavy is imported here: signals are listened to before anything else is loaded.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, final

_SIGNALS = [  # Windows has no SIGHUP.
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_SHOW_CURSOR = b"\x1b[?25h"
UNREAD = 141  # As a shell tells of a process that SIGPIPE has ended.


@final
class Ends:
    """What has stopped this process, and which run goes on from where it is.

    comparing: the command that goes on with a comparison, to which the run belongs, if it does.
    at_work: whether more was asked for than what is printed, so that its end is worth a word.
    """

    def __init__(self) -> None:
        self.stopped: signal.Signals | None = None
        self.playing: str | None = None
        self.comparing: str | None = None
        self.at_work = False
        self._told = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C, SIGTERM and SIGHUP; those that whoever started this has ignored stay so.

        Once stopped, it listens until the process has gone: a second signal ends that at once.
        """
        self.stopped, self.playing, self.comparing = None, None, None
        self.at_work, self._told = False, False
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {x: signal.getsignal(x) for x in _SIGNALS}
            before = {x: handler for x, handler in before.items() if handler != signal.SIG_IGN}
            for number in before:
                signal.signal(number, self._stop)
        try:
            yield
        finally:
            if self.stopped is None:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def words(self) -> str:
        """How it was stopped, and how to go on."""
        by = self.stopped
        how = "stopped" if by is None or by == signal.SIGINT else f"stopped by {by.name}"
        return f"{how}{self.go_on()}"

    def go_on(self) -> str:
        """What to type to go on with the run that was played; "" where none was."""
        if self.comparing is not None:
            return f"; go on with: {self.comparing}"
        if self.playing is None:
            return ""
        from flexlora.cli.program import program

        return f"; go on with: {program()} resume {shlex.quote(self.playing)}"

    def leave(self) -> NoReturn:
        """End with a sentence about the stop, once."""
        if not self._told:
            self._told = True
            from flexlora.cli.console import complain

            complain(f"flexlora: {self.words()}")
        sys.exit(self.code)

    @property
    def code(self) -> int:
        """As shells have it."""
        return 128 + int(self.stopped or signal.SIGINT)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.stopped is None:
            self.stopped = signal.Signals(number)
            raise KeyboardInterrupt
        # A third one would come in between, and tell it again. One that does so before all are deaf
        # ends the process itself, and nothing was told yet.
        for each in _SIGNALS:
            signal.signal(each, _nothing)
        if not self._told:
            os.write(2, f"flexlora: {self.words()}\n".encode(errors="backslashreplace"))
        for stream in (1, 2):
            if os.isatty(stream):
                os.write(stream, _SHOW_CURSOR)
        os._exit(self.code)


def _nothing(_: int, __: FrameType | None) -> None:
    """Not SIG_IGN: of what has arrived already Python would tell that it was lost."""


ends = Ends()
