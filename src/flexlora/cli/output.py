"""What a command prints: for people, for machines as JSON, or nothing but where the run lies."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, final

import typer

from flexlora.errors import ConfigError, RunError

if TYPE_CHECKING:
    from flexlora.engines.jobs import Failure, Reply
    from flexlora.evaluation import Scores
    from flexlora.federation.loop import Observer, Record
    from flexlora.federation.preview import Preview
    from flexlora.federation.setup import Setup
    from flexlora.runs.results import Result
    from flexlora.runs.run_directory import Run

QuietOption = Annotated[
    bool,
    typer.Option("--quiet", help="Print the run directory's path at the end, and nothing else."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines, one for each event.")]

EVENTS = "\n\n".join(
    (
        'With --json, stdout has one JSON object a line; "event" says what it tells:',
        "started: run (the directory), rule, model, rounds, round (the last one already played), "
        "clients (type: count), trackers.",
        "round: a line of metrics.jsonl, as soon as the round is committed.",
        "failure: round, client, reason.",
        "scoring: state (base, start, full or a client type), which is scored next.",
        "result: run, and what results.json holds.",
        "Notes and errors go to stderr; with --quiet, errors alone. A dry run with --json prints "
        "one document: config, data, forecast, layers, parent.",
    )
)


class Output(Protocol):
    """Everything that a command that trains has to say."""

    def describe(self, setup: Setup) -> None: ...
    def plan(self, preview: Preview) -> None: ...
    def say(self, text: str) -> None: ...
    def observer(self) -> AbstractContextManager[Observer]: ...
    def results(self, results: Sequence[Result]) -> None: ...


def output(*, quiet: bool, json: bool) -> Output:
    """Where a command's words go. Raises ConfigError when asked for silence and for JSON."""
    if quiet and json:
        raise ConfigError("--quiet and --json exclude each other; give one of them")
    if quiet:
        return Quiet()
    return Json() if json else People()


def require_free(out: Path | None) -> None:
    """Raise RunError, before anything is loaded, for a run directory that is there already."""
    if out is not None and os.path.lexists(out):
        raise RunError(f"{out} exists; choose another --out or remove it")


@final
class People:
    """Tables and a live view, or plain lines where stdout is no terminal."""

    def describe(self, setup: Setup) -> None:
        from flexlora.cli.tables import describe

        describe(setup)

    def plan(self, preview: Preview) -> None:
        from flexlora.cli.partition_view import draw_partition
        from flexlora.cli.tables import describe, origin

        describe(preview.setup, preview.forecast)
        if preview.parent is not None:
            self.say(f"starts from {origin(preview.parent)}")
        draw_partition(preview.setup.census)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def observer(self) -> AbstractContextManager[Observer]:
        from flexlora.cli.progress import observer

        return observer()

    def results(self, results: Sequence[Result]) -> None:
        from flexlora.cli.tables import results_table

        self.say("")
        results_table(results)
        for result in results:
            self.say(f"run directory: {result.folder}")


@final
class Quiet:
    """Nothing, then the path of each run directory."""

    def describe(self, setup: Setup) -> None: ...
    def plan(self, preview: Preview) -> None: ...
    def say(self, text: str) -> None: ...

    def observer(self) -> AbstractContextManager[Observer]:
        from flexlora.federation.observers import Silent

        return nullcontext(Silent())

    def results(self, results: Sequence[Result]) -> None:
        for result in results:
            print(result.folder, flush=True)


@final
class Json:
    """Events (`EVENTS`) on stdout, notes on stderr."""

    def describe(self, setup: Setup) -> None:
        for note in setup.examples.notes:
            self.say(f"note: {note}")

    def plan(self, preview: Preview) -> None:
        print_json(plan_json(preview), indent=2)

    def say(self, text: str) -> None:
        print(text.strip(), file=sys.stderr, flush=True)

    def observer(self) -> AbstractContextManager[Observer]:
        return nullcontext(Events())

    def results(self, results: Sequence[Result]) -> None: ...


@final
class Events:
    """An observer that prints every event as a line of JSON, at once."""

    def __init__(self) -> None:
        self.run = ""
        self.round = 0

    def started(self, run: Run) -> None:
        played = run.read_metrics()
        self.run = str(run.folder)
        self._print(
            "started",
            run=self.run,
            rule=run.config.rule.name,
            model=run.config.model.name,
            rounds=run.config.federation.rounds,
            round=played[-1]["round"] if played else run.start_round or 0,
            clients=run.resolved.get("clients", {}),
            trackers=list(run.config.run.trackers),
        )

    def round_started(self, round: int, clients: int) -> None:
        self.round = round

    def replied(self, outcome: Reply | Failure) -> None:
        reason = getattr(outcome, "reason", None)
        if reason is not None:
            self._print("failure", round=self.round, client=outcome.client, reason=reason)

    def round_ended(self, record: Record) -> None:
        self._print("round", **record)

    def scoring(self, state: str) -> None:
        self._print("scoring", state=state)

    def noted(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def ended(self, result: Result) -> None:
        self._print("result", run=self.run, **result.to_json())

    def _print(self, event: str, **values: Any) -> None:
        print_json({"event": event, **values})


def print_json(value: object, *, indent: int | None = None) -> None:
    """One JSON document on stdout; NaN and infinity are null."""
    from flexlora.formats.json_text import json_text

    print(json_text(value, indent=indent), flush=True)


def plan_json(preview: Preview) -> dict[str, Any]:
    """What a dry run finds out: config, data as in data.json, types and bytes, the start."""
    setup, parent = preview.setup, preview.parent
    return {
        "config": setup.config.document(),
        "data": setup.describe(),
        "forecast": preview.forecast.to_json(),
        "layers": len(setup.model.layers),
        "parent": None if parent is None else dict(parent),
    }


def scores_json(scores: Scores, model: str, adapter: str | None) -> dict[str, Any]:
    """`flexlora eval` as one document: as in results.json, and what was scored."""
    return {
        "model": model,
        "adapter": adapter,
        "left_out": scores.left_out,
        **scores.to_json(),
    }
