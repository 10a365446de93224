"""From run directories to `ReportRun`s: every field is checked here, once."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexlora.errors import RunError
from flexlora.evaluation.aggregate import values_of
from flexlora.formats.json_fields import counts, number, numbers, table, tables, text, texts, whole
from flexlora.report.runs import (
    SCOPES,
    Class,
    Holder,
    Partition,
    Prediction,
    ReportRun,
    Scored,
    State,
)
from flexlora.runs.events import Event, Failed, Replied, Rested
from flexlora.runs.overview import largest_pass
from flexlora.runs.run_directory import Run
from flexlora.runs.scored import SingleScore
from flexlora.runs.spectra import read_spectra

Record = Mapping[str, Any]


def read_runs(folders: Sequence[Path], names: Sequence[str] | None = None) -> tuple[ReportRun, ...]:
    """Read these run directories, in order. Raises RunError for no run and for damaged files.

    names: of each, all different, its label and its arm's; by default made of folders' names.
    """
    runs = [_read(Run.open(folder)) for folder in folders]
    if names is None:
        return _named(runs)
    return tuple(replace(run, label=name, arm=name) for run, name in zip(runs, names, strict=True))


def _read(run: Run) -> ReportRun:
    config = tomllib.loads(run.config.to_toml())
    with run.undamaged("results.json"):
        results = run.read_results()
        states = tuple(map(_state, tables(results, "rows"))) if results else ()
        scored = whole(results, "scored_round") if results else None
    events = run.events(Event)
    replies = [event for event in events if isinstance(event, Replied)]
    with run.undamaged("data.json"):
        data = run.data
        partition = _partition(table(data, "partition")) if "partition" in data else None
        devices = _devices(table(data, "devices"), replies) if "devices" in data else {}
    with run.undamaged("resolved.toml"):
        # Each of its type where it is there: `resolved` sees to it.
        clients, ranks, higher = (
            dict(run.resolved.get(name, {})) for name in ("clients", "ranks", "higher_is_better")
        )
    name = run.folder.name or run.folder.resolve().name
    return ReportRun(
        label=name,
        arm=name,
        folder=run.folder,
        rule=run.config.rule_name,
        seed=run.config.federation.seed,
        planned=run.config.federation.rounds,
        base_model=(run.config.model.name, run.config.model.precision),
        config=config,
        environment=run.environment,
        data=data,
        parent=run.parent,
        origin=_origin(run),
        clients=clients,
        ranks=ranks,
        higher=higher,
        rounds=tuple(run.committed()),
        failed=tuple(x for x in events if isinstance(x, Failed) and not x.refused),
        refused=tuple(x for x in events if isinstance(x, Failed) and x.refused),
        rested=tuple(event for event in events if isinstance(event, Rested)),
        spectra=read_spectra(run),
        states=states,
        scored_round=scored,
        partition=partition,
        devices=devices,
        passes={x: largest_pass([r for r in replies if r.type == x]) for x in clients},
    )


def _devices(record: Record, replies: Sequence[Replied]) -> dict[str, Class]:
    """With what its clients' replies came to. Raises ValueError for what is no fleet."""
    found = {}
    answered: dict[str, list[Replied]] = {}
    for reply in replies:
        answered.setdefault(reply.client, []).append(reply)
    for name in record:
        told = table(record, name)
        clients = texts(told, "clients")
        mine = [reply for client in dict.fromkeys(clients) for reply in answered.get(client, ())]
        found[name] = Class(
            clients=clients,
            memory=number(told, "memory"),
            why=text(told, "why"),
            planned=numbers(told, "planned"),
            replies=len(mine),
            seconds=sum(reply.seconds for reply in mine),
            bytes_up=sum(reply.bytes_up for reply in mine),
            **largest_pass(mine),
        )
    return found


def _named(runs: Sequence[ReportRun]) -> tuple[ReportRun, ...]:
    """Unique labels; the arm of several seeds is named by what its runs' labels begin with."""
    labels = _unique([run.label for run in runs])
    runs = [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
    groups: dict[str, list[ReportRun]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    names = [
        members[0].label if len(members) == 1 else _stem([run.label for run in members])
        for members in groups.values()
    ]
    arms = dict(zip(groups, _unique(names), strict=True))
    return tuple(replace(run, arm=arms[_key(run)]) for run in runs)


def _key(run: ReportRun) -> str:
    return repr((_but_seed(run.config), run.origin))


def _origin(run: Run, below: frozenset[Path] = frozenset()) -> str:
    """What a run began from, but for seeds: "" for the bare base model.

    Of a run: its config without the seed, its round, and what it began from itself, as long as it
    lies where it lay. Of an adapter, or of a run that has gone: the fingerprint of its tensors,
    which no other seed shares.
    """
    parent = run.parent
    if parent is None:
        return ""
    folder = Path(str(parent.get("path")))
    below |= {run.folder.resolve()}
    if parent.get("kind") == "run" and folder.resolve() not in below:
        with suppress(RunError):
            above = Run.open(folder)
            config = _but_seed(tomllib.loads(above.config.to_toml()))
            return repr((config, parent.get("round"), _origin(above, below)))
    return str(parent.get("fingerprint"))


def _but_seed(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    kept = {name: dict(table) for name, table in config.items() if name != "run"}
    kept["federation"].pop("seed", None)
    return kept


def _unique(names: Sequence[str]) -> list[str]:
    """Each name as it is where it is free, else with the first number that makes it so."""
    taken: dict[str, None] = {}  # In order.
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        free = name if name not in taken else next(x for x in numbered if x not in taken)
        taken[free] = None
    return list(taken)


def _stem(labels: Sequence[str]) -> str:
    same = 0
    while all(len(x) > same for x in labels) and len({x[same] for x in labels}) == 1:
        same += 1
    if any(label[same : same + 1].isdigit() for label in labels):  # Half a number is no name.
        while same and labels[0][same - 1].isdigit():
            same -= 1
    start = re.sub(r"[\W_]*(seed)?[\W_]*$", "", labels[0][:same])
    return start or labels[0]


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics among these entries that have a value."""
    return {name: x for name, x in values_of(record).items() if not math.isnan(x)}


def _state(row: Record) -> State:
    scores = {scope: _scored(table(row, scope)) for scope in SCOPES if row.get(scope)}
    scores = {scope: found for scope, found in scores.items() if found.clients}
    return State(text(row, "state"), _text_if_there(row, "ranks"), scores)


def _scored(record: Record) -> Scored:
    mean = table(record, "mean") if record.get("mean") else {}
    categories = table(record, "categories") if record.get("categories") else {}
    return Scored(
        clients=_whole_if_there(mean, "clients"),
        examples=_whole_if_there(mean, "examples"),
        mean=_values(mean),
        categories={name: _values(table(categories, name)) for name in categories},
        rows=tuple(
            SingleScore(
                text(row, "client"),
                _text_if_there(row, "category"),
                whole(row, "examples"),
                _values(row),
            )
            for row in _tables_if_there(record, "clients")
        ),
        predictions=tuple(map(_prediction, _tables_if_there(record, "predictions"))),
    )


def _prediction(row: Record) -> Prediction:
    texts = {name: text(row, name) for name in ("client", "example", "text", "reference")}
    return Prediction(**texts, values=_values(row))


def _partition(record: Record) -> Partition:
    def holder(x: Record) -> Holder:
        parts = ("train", "validation", "test")
        return Holder(
            text(x, "id"),
            _text_if_there(x, "type"),
            sum(_whole_if_there(x, part) for part in parts),
            counts(x, "labels") if "labels" in x else {},
        )

    return Partition(
        by=text(record, "by"),
        label=text(record, "label"),
        clients=tuple(map(holder, tables(record, "clients"))),
        unseen=tuple(map(holder, _tables_if_there(record, "unseen"))),
        known=_whole_if_there(record, "known"),
    )


def _text_if_there(record: Record, name: str) -> str:
    return text(record, name) if name in record else ""


def _whole_if_there(record: Record, name: str) -> int:
    return whole(record, name) if name in record else 0


def _tables_if_there(record: Record, name: str) -> Sequence[Record]:
    return tables(record, name) if record.get(name) else ()
