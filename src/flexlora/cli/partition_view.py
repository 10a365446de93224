"""A partition drawn in the terminal: one bar a client, in the colours or letters of its labels."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from flexlora.cli.console import Screen, screen
from flexlora.cli.sheets import Column, Sheet
from flexlora.federation.census import Census, Holding
from flexlora.federation.preview import Forecast, SparseForecast, TypeForecast
from flexlora.formats.visible import brief
from flexlora.formats.words import count, size
from flexlora.partition.dirichlet import largest_remainder

MOST_ROWS = 40  # clients drawn one by one; of more, the quantiles are
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_BINS = 8
_OTHERS = "·"
# Told apart by most kinds of colour vision, each with black letters on it.
_COLOURS = (
    *("#56b4e9", "#e69f00", "#00b48a", "#f0e442", "#cc79a7", "#d55e00"),
    *("#8fa6ff", "#b2df8a", "#c4b5a0", "#fb9a99", "#66d9d0", "#bababa"),
)


@dataclass(frozen=True)
class Legend:
    """Label → its letter and colour, the most frequent first; all further ones share one.

    counts: label → examples; colour: whether the console shows colours.
    """

    letters: Mapping[str, str]
    counts: Mapping[str, int]
    colour: bool

    @staticmethod
    def of(counts: Mapping[str, int], *, colour: bool) -> Legend:
        known = list(counts)[: len(_COLOURS)]
        return Legend(dict(zip(known, string.ascii_uppercase, strict=False)), counts, colour)

    def style(self, letter: str) -> str:
        if letter == _OTHERS:
            return "black on #8a8a8a"
        return f"black on {_COLOURS[string.ascii_uppercase.index(letter)]}"

    def bar(self, labels: Mapping[str, int], width: int) -> Text:
        """These labels as a bar of exactly this width, cut by largest remainder.

        In colour the letter stands once for each label, without colour it fills its part.
        """
        held: dict[str, int] = {}
        for label in self.counts:
            letter = self.letters.get(label, _OTHERS)
            held[letter] = held.get(letter, 0) + labels.get(label, 0)
        total = sum(held.values())
        cells = largest_remainder([number / total for number in held.values()], width)
        text = Text()
        for letter, length in zip(held, cells, strict=True):
            if length and self.colour:
                text.append(letter + " " * (length - 1), self.style(letter))
            else:
                text.append(letter * length)
        return text

    def lines(self) -> Columns:
        """Every letter, its label, and the share of all examples that has it."""
        total = sum(self.counts.values())
        shares = [
            (letter, _short(label, 28), self.counts[label])
            for label, letter in self.letters.items()
        ]
        rest = [number for label, number in self.counts.items() if label not in self.letters]
        if rest:
            shares.append((_OTHERS, f"{len(rest):,} others", sum(rest)))
        return Columns(
            [
                Text(f" {letter} ", self.style(letter) if self.colour else "bold")
                + Text(f" {label} {_percent(number / total)}")
                for letter, label, number in shares
            ],
            padding=(0, 2),
        )


def forecast_table(forecast: Forecast) -> None:
    """Print the client types: how many, their ranks and sizes, and the bytes of a round."""
    console = screen()
    kinds = forecast.types
    columns = [
        Column("clients", [f"{kind.clients:,}" for kind in kinds]),
        Column("rank", [kind.ranks for kind in kinds]),
        Column("training", [f"{kind.examples:,}" for kind in kinds]),
        Column("a client", [_sizes(kind) for kind in kinds]),
        Column("down", [size(kind.bytes_down) for kind in kinds]),
        Column("up", [_up(kind) for kind in kinds]),
    ]
    if columns[-1].cells == columns[-2].cells:
        columns[-2:] = [Column("each way", columns[-1].cells)]
    Sheet("clients", Column("type", [kind.name for kind in kinds]), columns).print(console)
    say = _say(console)
    say("training examples, and a client's least / median / most; bytes of a client a round")
    say(
        f"{forecast.clients_per_round:,} of {sum(t.clients for t in forecast.types):,} clients a "
        f"round: on average {size(round(forecast.bytes_down_per_round))} down and "
        f"{size(round(forecast.mean_bytes_up))} up; "
        f"{size(round(forecast.total_bytes))} in {count(forecast.rounds, 'round')} at most"
        + _to_score(forecast)
    )
    if forecast.sparse is not None:
        say(_sparse(forecast.sparse))
    if forecast.delta:
        say("not counted: what the rule sends to keep clients' bases up to date, known only later")
    if forecast.prunes:
        say("clients of this rule may prune their ranks and then send less")


def _to_score(forecast: Forecast) -> str:
    sent = round(forecast.bytes_evaluating)
    return f", {size(sent)} of it to clients that score" if sent else ""


def _up(kind: TypeForecast) -> str:
    """Of one round and the next, where these differ."""
    return " / ".join(dict.fromkeys((size(kind.bytes_up), size(kind.bytes_up_next))))


def _sparse(found: SparseForecast) -> str:
    up = ", ".join(f"{name} {size(number)}" for name, number in found.bytes_up.items())
    down, back = found.bytes_down_per_round, found.bytes_up_per_round
    return (
        f"counted with them, but otherwise: the first {count(found.rounds, 'round')}, of single "
        f"weights, with {size(round(down))} down and {size(round(back))} up on average; "
        f"a client is sent {size(found.bytes_down)} and returns {up}"
    )


def _sizes(kind: TypeForecast) -> str:
    sizes = dict.fromkeys((kind.smallest, round(kind.median), kind.largest))
    return " / ".join(f"{number:,}" for number in sizes)


def draw_partition(census: Census) -> None:
    """Print who holds which labels, how many examples, and how skewed that is."""
    console = screen()
    colour = console.color_system is not None and not console.no_color
    legend = Legend.of(_counts(census), colour=colour)
    many = len(census.clients) > MOST_ROWS
    drawn = _at_quantiles(census.clients) if many else [("", h) for h in census.clients]
    drawn += [("", pooled) for pooled in _apart(census)]
    cut = max(12, console.width // 4)
    head = ("by skew", "client", "type", "examples")[0 if many else 1 :]
    rows = [
        (q, _short(h.id, cut), h.type or "–", f"{h.examples:,}")[0 if many else 1 :]
        for q, h in drawn
    ]
    table = Table(
        title=f"partition by {census.by}: {len(census.clients):,} clients and their {census.label}",
        title_justify="left",
        box=None,
        padding=(0, 1),
        pad_edge=False,
    )
    for name in head:
        table.add_column(name, no_wrap=True, justify="right" if name == "examples" else "left")
    table.add_column("labels", no_wrap=True)
    used = sum(max(len(row[i]) for row in (head, *rows)) + 2 for i in range(len(head)))
    width = max(8, min(80, console.width - used))
    for row, (_, holding) in zip(rows, drawn, strict=True):
        table.add_row(*map(Text, row), legend.bar(holding.labels, width))
    console.print(table)
    console.print(legend.lines())
    if many:
        console.print(_histogram([h.examples for h in census.clients], console.width))
    sizes = sorted(h.examples for h in census.clients)
    _say(console)(
        f"examples a client, of all parts: {sizes[0]:,} least, {sizes[len(sizes) // 2]:,} median, "
        f"{sizes[-1]:,} most; skew {census.skew():.2f} (0: all alike, near 1: nothing in common)"
    )


def _say(console: Screen) -> Callable[[str], None]:
    """Print a sentence: wrapped between words on a terminal, on one line elsewhere."""
    return partial(console.print, soft_wrap=not console.is_terminal)


def _counts(census: Census) -> dict[str, int]:
    """Labels of the training clients by frequency, then those that only others have."""
    counts = census.labels()
    for holding in (*census.validators, *census.unseen):
        for label in holding.labels:
            counts.setdefault(label, 0)
    return counts


def _apart(census: Census) -> list[Holding]:
    """Those that do not train, each group pooled into one row."""
    pooled = []
    for words, group in (("validating", census.validators), ("unseen", census.unseen)):
        if not group:
            continue
        labels: dict[str, int] = {}
        for holding in group:
            for label, number in holding.labels.items():
                labels[label] = labels.get(label, 0) + number
        tested = sum(holding.test for holding in group)
        pooled.append(Holding(f"{len(group):,} {words}", "", 0, 0, tested, labels))
    return pooled


def _at_quantiles(holdings: Sequence[Holding]) -> list[tuple[str, Holding]]:
    """Clients in the order of how much of them is one label; those that stand at the quantiles."""
    ordered = sorted(holdings, key=lambda h: (max(h.labels.values()) / h.examples, h.id))
    words = {0.0: "least skewed", 0.5: "median", 1.0: "most skewed"}
    return [(words.get(q, f"{q:.0%}"), ordered[round(q * (len(ordered) - 1))]) for q in _QUANTILES]


def _histogram(sizes: Sequence[int], width: int) -> Table:
    """How many clients hold how many examples, in bins of equal width."""
    low, high = min(sizes), max(sizes)
    step = max(1, -(-(high - low + 1) // _BINS))
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("clients", justify="right", no_wrap=True)
    table.add_column("")
    bins = [(start, min(start + step - 1, high)) for start in range(low, high + 1, step)]
    numbers = [sum(first <= held <= last for held in sizes) for first, last in bins]
    room = max(10, min(60, width - 30))
    for (first, last), number in zip(bins, numbers, strict=True):
        span = f"{first:,}" if first == last else f"{first:,}–{last:,}"
        length = round(room * number / max(numbers))
        table.add_row(span, f"{number:,}", "█" * (length or int(number > 0)))
    return table


def _short(text: str, width: int) -> str:
    return brief(" ".join(text.split()), width)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or share == 0.0 else "<1%"
