"""One live view of a run, for a terminal of any width."""

from __future__ import annotations

from typing import final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flexlora.cli.console import Screen
from flexlora.cli.standing_words import (
    best_words,
    clock,
    event_words,
    score_words,
    state_words,
    time_left,
)
from flexlora.cli.watcher import Watcher
from flexlora.formats.words import count, size
from flexlora.runs.events import Event, RoundBegun

BEGINNING = "making the run ready"
WIDE = 96  # columns from which on a bar and its words stand side by side


@final
class LiveView(Watcher):
    """An observer that draws the run's state, and leaves one line of summary when it is closed.

    Until the run begins, it says that one is made ready.
    """

    def __init__(self, console: Screen) -> None:
        super().__init__()
        self.console = console
        self.live = Live(self, console=console, transient=True, refresh_per_second=3)
        self.ready = console.status(BEGINNING)

    def open(self) -> None:
        self.ready.start()

    def begin(self) -> None:
        self.ready.stop()
        self.live.start()

    def show(self, event: Event) -> None:
        if words := event_words(event):
            self._say(words)
        if isinstance(event, RoundBegun):  # Also a round shorter than a tick of the view is seen.
            self.live.refresh()

    def close(self) -> None:
        """Take the view away; what remains is one line, also of a run that was stopped."""
        self.ready.stop()
        if self.standing is None:
            return
        self.live.stop()
        known = self.known
        if not known.ended:
            self._say(f"{known.name}: stopped after round {known.last} of {known.rounds}")
            return
        parts = [f"{known.name}: {count(len(known.done), 'round')} in {clock(known.elapsed)}"]
        if known.best is not None:
            parts.append(f"best round {known.best.round}: {score_words(known, known.best)}")
        self._say(", ".join(parts))

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        known = self.known
        rule, model = known.config.rule_name, known.config.model.name
        title = Text.assemble((known.name, "bold"), (f"  {rule} on {model}", "dim"))
        # Room for the "^C" that a terminal echoes: on a full last line it would begin another.
        yield Constrain(Group(title, self._rows(options.max_width - 3)), options.max_width - 3)

    def _rows(self, width: int) -> Table:
        known = self.known
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        times = ", ".join(x for x in (f"{clock(known.elapsed)} elapsed", time_left(known)) if x)
        _add_bar(grid, "rounds", known.last, known.rounds, width, times)
        self._add_phase(grid, width)
        if known.done:
            last = known.done[-1]
            grid.add_row("training", f"loss {last.train_loss:.3f} in round {last.round}")
            scored = [record for record in known.done if known.decisive(record) is not None]
            for record in scored[-1:]:
                words = f"{score_words(known, record)} in round {record.round}"
                grid.add_row("validation", f"{words}, {best_words(known, record)}")
            down = sum(record.total_bytes_down for record in known.done)
            up = sum(record.bytes_up for record in known.done)
            grid.add_row("bytes", f"{size(down)} down, {size(up)} up")
        return grid

    def _add_phase(self, grid: Table, width: int) -> None:
        """What is done now: a round, with its clients, or the scoring at the end."""
        known = self.known
        if known.scoring:
            grid.add_row("scoring", f"{state_words(known.scoring)}, on unseen examples")
        if not known.round:
            return
        done = known.replied.total()
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(known.replied.items()) if kind)
        words = f"{done} done" + (f" ({kinds})" if kinds else "")
        words += f", {known.in_flight} in flight" if known.in_flight else ", combining and scoring"
        words += f", {known.failed} failed" if known.failed else ""
        _add_bar(grid, f"round {known.round}", done + known.failed, known.drawn, width, words)


def _add_bar(grid: Table, name: str, done: int, total: int, width: int, words: str) -> None:
    """A bar, its count, and words to the right of it, or below it where that is too narrow."""
    wide = width >= WIDE
    size = max(6, min(40, width - (64 if wide else 24)))
    bar = ProgressBar(total=max(total, 1), completed=done, width=size)
    row = Table.grid(padding=(0, 1))
    row.add_row(bar, f"{done}/{total}", *([words] if wide else []))
    grid.add_row(name, row)
    if not wide:
        grid.add_row("", words)
