"""What a command prints: for people, for machines as JSON, or nothing but where the run lies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Protocol, final

import typer

from flexlora.cli.console import complain, hand_over, say, waiting
from flexlora.cli.ends import ends
from flexlora.errors import ConfigError
from flexlora.formats.words import count

if TYPE_CHECKING:
    from flexlora.evaluation import Scores
    from flexlora.federation.observers import Observer
    from flexlora.federation.preview import Preview
    from flexlora.federation.setup import Setup
    from flexlora.rules import Rule
    from flexlora.runs.events import Ended, Event
    from flexlora.runs.results import Result

QuietOption = Annotated[
    bool,
    typer.Option("--quiet", help="Print the run directory's path at the end, and nothing else."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines, one for each event.")]

EVENTS = "\n\n".join(
    (
        "With --json, stdout has one JSON object a line, as in events.jsonl of the run directory; "
        '"event" says what it tells, "time" when, in seconds since 1970:',
        "started: run (the directory), rule, model, rounds, round (the last one already played), "
        "clients (type: count), trackers, schema (1).",
        "ranks_allotted: device, clients (that train at these ranks), ranks, why, brought (whether "
        "they told of the device themselves).",
        "round_begun: round, clients (those drawn), attempt (at this round), sparse (whether "
        "they train single weights).",
        "repeated: round, attempt, came, asked, needed: too few counted, the round is tried again.",
        "spare: round, client: its answer is needed no more.",
        "rested: round, client, failures (in a row), until: it is not asked up to this round.",
        "reply: round, client, type, examples, tokens, loss, seconds, bytes_up, peak_bytes, "
        "cohort (clients of its pass).",
        "failure: round, client, reason, kind (train; evaluate; late: its device would have taken "
        "too long; quarantine: what it gave is refused; stray: it answers nothing that is open; "
        "screen: a screen left it out).",
        "round: a line of metrics.jsonl, as soon as the round is committed.",
        "clients_at_once_halved: round, clients: memory ran out; other bits from here on.",
        "ranks_lowered: round, client, before, after, reason: it ran out of memory, and trains at "
        "lower ranks from here on.",
        "note: text.",
        "scoring: state (base, start, full or a client type), which is scored next.",
        "result: run, and results.json with the means alone, of own parts also by client type.",
        "Errors go to stderr, as what is known of the data before a run does; with --quiet, errors "
        "alone. A dry run with --json prints one document: config, data, forecast, layers, memory, "
        "parent, and with --show-example also example.",
    )
)

LOADING = "loading the libraries"
"""What takes long before the first check of a run: a second or two."""

READING = "reading the data and the model"
"""What takes long before the first words of a run."""


class Output(Protocol):
    """Everything that a command that trains has to say."""

    def describe(self, setup: Setup, rule: Rule | None = None) -> None: ...
    def plan(self, preview: Preview, *, example: bool) -> None: ...
    def say(self, text: str = "") -> None: ...
    def waiting(self, what: str) -> AbstractContextManager[object]: ...
    def observer(self) -> AbstractContextManager[Observer]: ...
    def results(self, results: Sequence[Result]) -> None: ...
    def ended(self, ended: Ended) -> None: ...


def output(*, quiet: bool, json: bool) -> Output:
    """Where the words of a command that plays runs go.

    Raises ConfigError when asked for silence and for JSON.
    """
    ends.at_work = True
    if quiet and json:
        raise ConfigError("--quiet and --json exclude each other; give one of them")
    if quiet:
        return Quiet()
    return Json() if json else People()


@final
class People:
    """Tables and a live view, or plain lines where stdout is no terminal."""

    def describe(self, setup: Setup, rule: Rule | None = None) -> None:
        from flexlora.cli.tables import describe

        describe(setup, rule)

    def plan(self, preview: Preview, *, example: bool) -> None:
        from flexlora.cli.example_view import ShownExample, show_example
        from flexlora.cli.memory_view import say_memory
        from flexlora.cli.partition_view import draw_partition
        from flexlora.cli.tables import describe, origin

        describe(preview.setup, forecast=preview.forecast)
        say_memory(preview.memory)
        if preview.parent is not None:
            self.say(f"starts from {origin(preview.parent)}")
        draw_partition(preview.setup.census)
        if example:
            self.say()
            show_example(ShownExample.of(preview.setup))

    def say(self, text: str = "") -> None:
        say(text)

    def waiting(self, what: str) -> AbstractContextManager[object]:
        return waiting(what)

    def observer(self) -> AbstractContextManager[Observer]:
        from flexlora.cli.progress import observer

        return observer()

    def results(self, results: Sequence[Result]) -> None:
        from flexlora.cli.results_view import results_table
        from flexlora.runs.events import Ended

        self.say()
        results_table([Ended.of(result) for result in results])
        for result in results:
            self.say(f"run directory: {result.folder}")

    def ended(self, ended: Ended) -> None:
        from flexlora.cli.results_view import results_table

        self.say(f"{ended.run} has ended: {count(ended.rounds, 'round')} played")
        self.say()
        results_table([ended])


@final
class Quiet:
    """Nothing, then the path of each run directory."""

    def describe(self, setup: Setup, rule: Rule | None = None) -> None: ...
    def plan(self, preview: Preview, *, example: bool) -> None: ...
    def say(self, text: str = "") -> None: ...

    def waiting(self, what: str) -> AbstractContextManager[object]:
        return nullcontext()

    def observer(self) -> AbstractContextManager[Observer]:
        from flexlora.federation.observers import Silent

        return nullcontext(Silent())

    def results(self, results: Sequence[Result]) -> None:
        for result in results:
            hand_over(str(result.folder))

    def ended(self, ended: Ended) -> None:
        hand_over(ended.run)


@final
class Json:
    """Events (`EVENTS`) on stdout, all other words on stderr."""

    def describe(self, setup: Setup, rule: Rule | None = None) -> None:
        for note in setup.notes:
            self.say(f"note: {note}")

    def plan(self, preview: Preview, *, example: bool) -> None:
        print_json(plan_json(preview, example=example), indent=2)

    def say(self, text: str = "") -> None:
        if text:
            complain(text)

    def waiting(self, what: str) -> AbstractContextManager[object]:
        return nullcontext()

    def observer(self) -> AbstractContextManager[Observer]:
        return nullcontext(Events())

    def results(self, results: Sequence[Result]) -> None: ...

    def ended(self, ended: Ended) -> None:
        print_json(ended.to_json())


@final
class Events:
    """An observer that prints every event as a line of JSON, at once."""

    def told(self, event: Event) -> None:
        print_json(event.to_json())


def print_json(value: object, *, indent: int | None = None) -> None:
    """One JSON document on stdout; NaN and infinity are null."""
    from flexlora.formats.json_text import json_text

    hand_over(json_text(value, indent=indent))


def plan_json(preview: Preview, *, example: bool) -> dict[str, Any]:
    """What a dry run finds out: config, data as in data.json, types and bytes, memory, the start.

    example: also one as the model is given it.
    """
    from flexlora.cli.example_view import ShownExample

    setup, parent = preview.setup, preview.parent
    return {
        "config": setup.config.document(),
        "data": setup.describe(),
        "forecast": preview.forecast.to_json(),
        "layers": len(setup.model.layers),
        "memory": {k: {**asdict(x), "peak": x.peak} for k, x in preview.memory.items()},
        "parent": None if parent is None else dict(parent),
        **({"example": ShownExample.of(setup).to_json()} if example else {}),
    }


def scores_json(scores: Scores, model: str, adapter: str | None) -> dict[str, Any]:
    """`flexlora eval` as one document: as in results.json, and what was scored."""
    return {
        "model": model,
        "adapter": adapter,
        "left_out": scores.left_out,
        "notes": list(scores.notes),
        **scores.to_json(),
    }
