"""Who holds what: sizes of the clients' parts and their mix of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flexlora.formats.words import count
from flexlora.report import charts
from flexlora.report.blocks import Block, Figure, Heading, Note, Section, Table
from flexlora.report.histograms import histogram
from flexlora.report.runs import Holder, Partition, ReportRun
from flexlora.runs.files import Record

FEW = 40  # Clients that are shown one by one at most.
LABELS = 16  # Labels that are shown one by one at most.
_OTHER = "other labels"


def partition(runs: Sequence[ReportRun]) -> Section:
    blocks: list[Block] = []
    shown: list[Partition] = []
    for run in runs:
        found = run.partition
        if found is None or not found.clients or found in shown:
            continue
        shown.append(found)
        same = [other.label for other in runs if other.partition == found]
        if len(runs) > 1:
            blocks.append(Heading("All runs" if len(same) == len(runs) else ", ".join(same)))
        blocks += _blocks(found)
        blocks += _too_long(run.data)
    missing = [run.label for run in runs if run.partition is None]
    if missing:
        have = "has" if len(missing) == 1 else "have"
        blocks.append(Note(f"{', '.join(missing)} {have} no record of who holds which examples."))
    return Section("partition", "Partition", tuple(blocks))


def _too_long(data: Record) -> list[Block]:
    """Who holds what is told as it was dealt, before anything was found not to fit."""
    parts = (("training_examples_left_out", "that train"), ("unseen_examples_left_out", "unseen"))
    found = {words: data.get(key) for key, words in parts}
    told = [f"{many:,} {words}" for words, many in found.items() if isinstance(many, int) and many]
    if not told:
        return []
    return [Note(f"Of these, {' and '.join(told)} are too long (data.max_tokens) and left out.")]


def _blocks(found: Partition) -> list[Block]:
    total = sum(holder.examples for holder in found.clients)
    labels = Counter[str]()
    for holder in found.clients:
        labels.update(holder.labels)
    words = (
        f"{count(total, 'example')} of {count(len(labels), 'label')} ({found.label}) are dealt to "
        f"{count(len(found.clients), 'client')}, by {found.by}; "
        f"{_unseen(found)} stay unseen."
    )
    ordered = [label for label, _ in labels.most_common()]
    if len(found.clients) <= FEW:
        return [Note(words), _few_sizes(found.clients), _mix(found.clients, ordered)]
    return [Note(words), *_many(found.clients), _labels(labels)]


def _unseen(found: Partition) -> str:
    if not found.unseen:
        return "none"
    whose = f", {found.known:,} of them of clients that train," if found.known else ""
    examples = count(sum(holder.examples for holder in found.unseen), "example")
    return f"{examples} in {count(len(found.unseen), 'group')}{whose}"


def _few_sizes(holders: Sequence[Holder]) -> Figure:
    ranked = sorted(holders, key=lambda holder: (-holder.examples, holder.id))
    rows = [{"name": x.id, "part": "examples", "x": x.examples} for x in ranked]
    order = [holder.id for holder in ranked]
    spec = charts.stacked(rows, x="examples", order=order, parts=["examples"])
    table = Table.of(
        "Examples by client",
        ["client", "type", "examples"],
        [[x.id, x.type, x.examples] for x in ranked],
    )
    words = "How much each client holds, the largest first."
    return Figure("Examples by client", words, spec, table)


def _mix(holders: Sequence[Holder], ordered: Sequence[str]) -> Figure:
    kept = list(ordered[:LABELS])
    rows, cells = [], []
    ranked = sorted(holders, key=lambda holder: (-holder.examples, holder.id))
    for holder in ranked:
        total = sum(holder.labels.values()) or 1
        found = {label: holder.labels.get(label, 0) for label in kept}
        if len(ordered) > len(kept):
            found[_OTHER] = total - sum(found.values())
        for label, n in found.items():
            if n:
                rows.append({"name": holder.id, "label": label, "x": n / total, "n": n})
                cells.append([holder.id, label, n])
    labels = kept if len(kept) == len(ordered) else [*kept, _OTHER]
    spec = charts.heat(
        rows, names=[x.id for x in ranked], labels=labels, share="share of the client's examples"
    )
    table = Table.of("Labels by client", ["client", "label", "examples"], cells)
    words = "The stronger a colour, the larger that label's share of the client's examples."
    return Figure("Labels by client", words, spec, table)


def _many(holders: Sequence[Holder]) -> list[Block]:
    made: list[Block] = []
    for title, x, words, values in (
        (
            "Sizes of clients",
            "examples of a client",
            "How many clients hold how many examples.",
            [float(holder.examples) for holder in holders],
        ),
        (
            "Labels of a client",
            "different labels of a client",
            "How many clients hold how many different labels: few labels are a skewed partition.",
            [float(len(holder.labels)) for holder in holders],
        ),
    ):
        spec, bins = histogram(
            {"clients": values}, x=x, y="clients", series=["clients"], whole=True
        )
        rows = [[low, high, n] for _, low, high, n in bins if n]
        table = Table.of(title, ["from", "to (below)", "clients"], rows)
        made.append(Figure(title, words, spec, table))
    return made


def _labels(labels: Counter[str]) -> Figure:
    ranked = labels.most_common()
    rows = [{"name": name, "part": "examples", "x": n} for name, n in ranked[:LABELS]]
    if len(ranked) > LABELS:
        rest = sum(n for _, n in ranked[LABELS:])
        rows.append({"name": _OTHER, "part": "examples", "x": rest})
    order = [str(row["name"]) for row in rows]
    spec = charts.stacked(rows, x="examples", order=order, parts=["examples"])
    table = Table.of("Examples by label", ["label", "examples"], ranked)
    return Figure("Examples by label", "How often each label is held.", spec, table)
