"""One worker process as its parent holds it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler

from flexlora.adapters import Delta
from flexlora.engines.worker import Begun, Equipment, Message, Order, Ready, work
from flexlora.errors import RunError


class WorkerProcess:
    """A process, the pipe to it, how far it has come, and the Δ that it holds."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.last: type[Begun | Ready] | None = None
        self.delta: Delta | None = None

    @staticmethod
    def start(equipment: Equipment) -> WorkerProcess:
        context = _context(equipment.device)
        ours, theirs = context.Pipe()
        given = theirs, equipment, dict(os.environ)
        process = context.Process(target=work, args=given, daemon=True)  # type: ignore[attr-defined]
        try:
            with deaf_to_ctrl_c():
                _begin(process)
        except Exception:
            _require_sendable(equipment)
            raise
        theirs.close()
        return WorkerProcess(process, ours)

    def send(self, order: Order) -> None:
        with suppress(OSError):  # It is dead: `receive` will say so.
            self.pipe.send(order)

    def receive(self) -> Message | None:
        """What it gave; None if it died."""
        try:
            given: Message = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(given, Begun | Ready):
            self.last = type(given)
        return given

    def end(self, patience: float = 0.2) -> int | None:
        """Stop it, after so many seconds by force; its exit code."""
        self.pipe.close()
        self.process.join(timeout=patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _context(device: str) -> BaseContext:
    """How a worker begins: knowing nothing of this process but what it is given.

    On Linux and a CPU as a fork of one process that has imported what all of them need and done
    nothing else: without that, each imports for seconds, into memory of its own. Not where it uses
    a GPU, of which a fork may know nothing once an import has asked for it.
    """
    if sys.platform != "linux" or device != "cpu":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    models = [name for name in sys.modules if name.startswith("transformers.models.")]
    context.set_forkserver_preload([work.__module__, "transformers.modeling_utils", *models])
    return context


def _begin(process: BaseProcess) -> None:
    for pause in (0.01, 0.1, 1.0):
        try:
            process.start()
        except (EOFError, ConnectionError):  # What it is to be a fork of is just being killed.
            time.sleep(pause)
        else:
            return
    process.start()


def _require_sendable(equipment: Equipment) -> None:
    """Raise RunError naming the part that no other process can be given."""
    for kind, things in (
        ("rule", [equipment.rule]),
        ("screen", equipment.screens),
        ("metric", equipment.metrics),
    ):
        for thing in things:
            try:
                ForkingPickler.dumps(thing)
            except Exception as error:  # Whatever a part of it does when it is asked.
                raise RunError(
                    f"{kind} {thing.name!r} cannot be sent to a worker process ({error}); define "
                    "all of it at the top level of a module, or set run.workers to 1"
                ) from error


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes begun within never hear Ctrl-C, which a terminal sends to all; we hear it after.

    Not only from `work` on: before it, a worker imports for seconds, and would end in a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # Else the first process begins it, which unblocks Ctrl-C.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
