"""One worker process: a model of its own, and the jobs that come down a pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from flexlora.adapters import Delta, DeltaUpdate
from flexlora.config.base import load_base
from flexlora.config.config import ModelConfig
from flexlora.engines.cohorts import Examples
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Job, Outcome, Train
from flexlora.errors import FlexLoRAError
from flexlora.evaluation import EvalSettings
from flexlora.evaluation.metric_file import SentMetric, take_metric
from flexlora.formats.delta import payload_update, update_payload
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.models import AdaptedModel
from flexlora.rules import Rule
from flexlora.screens import Screen
from flexlora.training.memory import return_what_is_freed


@dataclass(frozen=True, eq=False)
class Equipment:
    """What a worker is made with. threads: CPU threads of each; frugal: memory before speed;
    memory: the folder for what clients remember, the same for all workers; metrics: those that
    jobs may name, for a worker knows only what it imports.
    """

    model: ModelConfig
    device: str
    rule: Rule
    settings: EvalSettings
    threads: int
    frugal: bool = False
    memory: Path | None = None
    screens: Sequence[Screen] = ()
    metrics: tuple[SentMetric, ...] = ()


@dataclass(frozen=True, eq=False)
class Order:
    """Jobs to do together, with their clients' examples; Δ as bytes, None where it has it already.

    The jobs' own Δ is left out on the way.
    """

    jobs: tuple[Job, ...]
    delta: bytes | None
    train: Examples
    held_out: Examples
    cohort: int


@dataclass(frozen=True)
class Begun:
    """A worker has been told what it is made with."""


@dataclass(frozen=True)
class Ready:
    """A worker holds its model: what happens from now on has to do with its orders."""


@dataclass(frozen=True, eq=False)
class Done:
    """The outcomes of an order, and how many clients still train at once."""

    outcomes: tuple[Outcome, ...]
    cohort: int


@dataclass(frozen=True, eq=False)
class Broken:
    """Why a worker ends: an error that says so itself, or the traceback of a fault of ours."""

    error: FlexLoRAError | str


Message = Begun | Ready | Done | Broken


def work(pipe: Connection, equipment: Equipment, environment: Mapping[str, str]) -> None:
    """Do orders until the pipe closes or the parent ends; runs in a process of its own, in the
    environment that its parent has now."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides when it is over.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(equipment.threads)
    if equipment.frugal:
        return_what_is_freed()
    try:
        pipe.send(Begun())
        for metric in equipment.metrics:
            take_metric(metric)
        model = AdaptedModel(load_base(equipment.model, equipment.device), equipment.model.targets)
        pipe.send(Ready())
        delta = Delta()
        while True:
            order: Order = pipe.recv()
            if order.delta is not None:
                delta = unpack_delta(order.delta)
            engine = InProcess(
                model,
                order.train,
                equipment.rule,
                order.held_out,
                equipment.settings,
                cohort=order.cohort,
                memory=equipment.memory,
                screens=equipment.screens,
            )
            jobs = [replace(x, delta=delta) if isinstance(x, Train) else x for x in order.jobs]
            outcomes = tuple(engine.exchange(jobs))
            pipe.send(Done(outcomes, engine.cohort))
    except EOFError:
        return
    except FlexLoRAError as error:
        _tell(pipe, Broken(_sendable(error)))
    except Exception:
        _tell(pipe, Broken(traceback.format_exc()))


def _tell(pipe: Connection, broken: Broken) -> None:
    with suppress(OSError):  # The parent may be gone.
        pipe.send(broken)


def _sendable(error: FlexLoRAError) -> FlexLoRAError:
    """The same words in the nearest class that the parent knows, with where it came from."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == FlexLoRAError.__module__)
    same: FlexLoRAError = kind(str(error))
    same.add_note("".join(traceback.format_exception(error)))
    return same


def _end_with_parent() -> None:
    """In the middle of a client too: a parent that was killed cannot end its workers itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def pack_delta(delta: Delta) -> bytes:
    """All of Δ, as it would be sent; patches stay with the server."""
    return to_bytes(update_payload(DeltaUpdate(delta.version, None, delta.layers)))


def unpack_delta(data: bytes) -> Delta:
    return Delta().updated(payload_update(from_bytes(data)))
