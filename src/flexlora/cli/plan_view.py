"""A plan in the terminal: a table by class, bars of memory and time, and what it means in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from flexlora.adapters import ranks_in_words
from flexlora.allocation.capacity import BITS_PER_PARAMETER
from flexlora.cli.console import say, screen
from flexlora.cli.sheets import Column, Sheet
from flexlora.formats.visible import brief
from flexlora.formats.words import count, size
from flexlora.planning.allotment import Cost
from flexlora.planning.plan import ClassPlan, Plan
from flexlora.planning.words import duration

_WIDTH = 28
_NONE = "–"


def show_plan(plan: Plan) -> None:
    """Everything that `--json` has, for people."""
    _table(plan)
    _bars(plan)
    for x in plan.classes:
        if x.cost is None:
            say(_misfit(x, plan))
    for x in plan.classes:
        if x.loading is not None:
            say(f"{x.kind.name} reads the base from its disk in {duration(x.loading)}")
    part = [x for x in plan.classes if x.cost is not None]
    _lower_rank(part)
    _capacity(part)
    _federation(plan)


def _table(plan: Plan) -> None:
    kinds, parameters = plan.classes, plan.model.shape.parameters

    def cells(of: Callable[[Cost], str]) -> list[str]:
        return [_NONE if x.cost is None else of(x.cost) for x in kinds]

    Sheet(
        f"{plan.model.name} of {_many(parameters)} parameters, {plan.rule.name}",
        Column("class", [x.kind.name for x in kinds], left=True),
        [
            Column("clients", [f"{x.kind.clients:,}" for x in kinds]),
            Column("fits", ["yes" if x.cost else "no" for x in kinds]),
            Column("rank", cells(lambda c: ranks_in_words(c.ranks))),
            Column("trains", cells(lambda c: f"{c.parameters / parameters:.2%}")),
            Column("memory", [size(round((x.cost or x.least).memory.peak)) for x in kinds]),
            Column("of", [size(round(x.kind.device.memory)) for x in kinds]),
            Column("a round", cells(lambda c: duration(c.seconds))),
            Column("down", cells(lambda c: size(c.traffic.down + c.traffic.delta))),
            Column("up", cells(lambda c: size(c.traffic.up))),
        ],
    ).print(screen())


def _many(parameters: int) -> str:
    billions = parameters >= 1e9
    return f"{parameters / 1e9:,.2f} billion" if billions else f"{parameters / 1e6:,.1f} million"


def _bars(plan: Plan) -> None:
    """Memory by what takes it, and a round by what takes its time; letters, not colours alone."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in ("", "memory: base, adapter, pass", "a round: compute, links"):
        table.add_column(heading, no_wrap=True)
    longest = max(x.cost.seconds for x in plan.classes if x.cost is not None)
    for x in plan.classes:
        memory = (x.cost or x.least).memory
        room = max(x.kind.device.memory, memory.peak)
        table.add_row(
            Text(brief(x.kind.name, 16)),
            _bar({"b": memory.weights, "a": memory.adapter, "p": memory.pass_}, room),
            _bar({"c": x.cost.compute, "l": x.cost.seconds - x.cost.compute}, longest)
            if x.cost
            else _NONE,
        )
    screen().print(table)


def _bar(parts: dict[str, float], whole: float) -> Text:
    text, end, total = Text(), 0, 0.0
    for letter, part in parts.items():
        total += part
        cells = round(_WIDTH * total / whole) - end
        text.append(letter * cells)
        end += cells
    return text.append("." * (_WIDTH - end))


def _misfit(x: ClassPlan, plan: Plan) -> str:
    peak, held = x.least.memory.peak, x.kind.device.memory
    if peak > held:
        cure = f"it would with {x.remedy.words}" if x.remedy else "no change of training helps"
        return (
            f"{x.kind.name} does not fit: rank 1 takes {size(round(peak))}, "
            f"{size(round(peak - held))} more than it has; {cure}"
        )
    sent, most = x.least.traffic.total, plan.asked.traffic
    if most is not None and sent > most:
        return (
            f"{x.kind.name} exceeds the traffic: {size(sent)} a round at rank 1, "
            f"{size(round(sent - most))} too much"
        )
    over = x.least.seconds - (plan.asked.deadline or 0.0)
    return (
        f"{x.kind.name} misses the deadline: a round takes {duration(x.least.seconds)} at rank 1, "
        f"{duration(over)} too long"
    )


def _lower_rank(part: Sequence[ClassPlan]) -> None:
    """What a lower rank saves, in figures: memory and bytes, hardly any compute."""
    for x in part:
        assert x.cost is not None
        high, low = x.cost, x.least
        say(
            f"{x.kind.name} at rank 1 instead of {ranks_in_words(high.ranks)} would save "
            f"{_saved(high.memory.peak, low.memory.peak)} of memory, "
            f"{_saved(high.compute, low.compute)} of compute and "
            f"{_saved(high.traffic.total, low.traffic.total)} of bytes"
        )


def _saved(high: float, low: float) -> str:
    share = 1 - low / high if high else 0.0
    return "over 99%" if share > 0.99 else f"{share:.0%}"


def _capacity(part: Sequence[ClassPlan]) -> None:
    """Whether rank can matter at all."""
    say(
        f"an adapter holds about {BITS_PER_PARAMETER} bits of new knowledge for each number that "
        "is trained; a client's examples hold at most all of their tokens' bits, most often far "
        "less:"
    )
    for x in part:
        if x.enough == 1:
            means = "even rank 1 holds all of it: rank can hardly matter for what is to be stored"
        elif x.capacity >= x.data_bits:
            means = f"about rank {x.enough} holds all of it: more can hardly matter"
        else:
            means = "it may not hold all of it: rank can matter"
        say(f"  {x.kind.name}: {_bits(x.capacity)} for at most {_bits(x.data_bits)}; {means}")


def _bits(bits: float) -> str:
    for unit, word in ((1e9, " Gbit"), (1e6, " Mbit"), (1e3, " kbit")):
        if bits >= unit:
            return f"{bits / unit:,.1f}{word}"
    return f"{bits:,.0f} bits"


def _federation(plan: Plan) -> None:
    found = plan.federation
    taking = ", ".join(f"{many} {name}" for name, many in found.cohort.items() if many)
    say(
        f"a round: {count(sum(found.cohort.values()), 'client')} ({taking}; {found.expected:,.1f} "
        f"are there on average), {duration(found.seconds)}; {found.slowest} decides it, and the "
        f"cohort waits {found.waiting:.0%} of its time"
    )
    say(
        f"{size(found.bytes_down)} down and {size(found.bytes_up)} up a round, "
        f"{size(found.total_bytes)} in {count(found.rounds, 'round')}, "
        f"{duration(found.rounds * found.seconds)}"
    )
    if found.unused > 0.005:
        bucket = "leaves" if not plan.rule.traits.mixed_ranks else "one rank for all would leave"
        whose = f"{plan.rule.name} trains all at the lowest rank and " if bucket == "leaves" else ""
        say(
            f"bucket effect: {whose}{bucket} {found.unused:.0%} of the numbers that these devices "
            "could train untrained"
        )
