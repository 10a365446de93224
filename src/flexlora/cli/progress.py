"""What a run shows while it works: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flexlora.federation.jobs import Failure, Reply
from flexlora.federation.loop import Observer, Record


@contextmanager
def observer(name: str, rounds: int) -> Iterator[Observer]:
    """An observer for this run: bars where stdout is a terminal, one line per round elsewhere."""
    console = Console()
    if not console.is_terminal:
        yield Lines(name, rounds)
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, name, rounds)


def summary(record: Record) -> str:
    """One round in words: training loss, validation, failures."""
    parts = [f"train loss {record['train_loss']:.3f}"]
    if "validation" in record:
        parts.append(f"validation {record['validation']['loss']:.3f}")
    if record["failures"]:
        parts.append(f"{record['failures']} failed")
    return ", ".join(parts)


class Lines:
    """One plain line per round, for files and pipes."""

    def __init__(self, name: str, rounds: int) -> None:
        self.name = name
        self.rounds = rounds

    def round_started(self, round: int, clients: int) -> None:
        pass

    def replied(self, outcome: Reply | Failure) -> None:
        if isinstance(outcome, Failure):
            print(f"{self.name}: client {outcome.client} left out: {outcome.reason}", flush=True)

    def round_ended(self, record: Record) -> None:
        print(f"{self.name}: round {record['round']}/{self.rounds}, {summary(record)}", flush=True)

    def scoring(self, state: str) -> None:
        print(f"{self.name}: scoring {state} on unseen clients", flush=True)


class Bars:
    """Two live bars: rounds, and clients of the round in flight."""

    def __init__(self, progress: Progress, name: str, rounds: int) -> None:
        self.progress = progress
        self.name = name
        self.overall = progress.add_task(name, total=rounds, note="")
        self.clients = progress.add_task("  clients", total=None, note="")

    def round_started(self, round: int, clients: int) -> None:
        self.progress.update(self.overall, completed=round - 1)
        self.progress.reset(self.clients, total=clients, note=f"round {round}")

    def replied(self, outcome: Reply | Failure) -> None:
        self.progress.advance(self.clients)
        if isinstance(outcome, Failure):
            self.progress.console.print(
                f"client {outcome.client} left out: {outcome.reason}",
                markup=False,
                highlight=False,
            )

    def round_ended(self, record: Record) -> None:
        self.progress.update(self.overall, completed=record["round"], note=summary(record))

    def scoring(self, state: str) -> None:
        self.progress.update(self.clients, description="  scoring", note=f"{state}, unseen clients")
