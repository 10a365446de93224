"""What `flexlora inspect` shows of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexlora.adapters.anatomy import kinds
from flexlora.cli.console import say, screen
from flexlora.cli.device_view import say_devices
from flexlora.cli.layer_tables import shared_prefix
from flexlora.cli.program import program
from flexlora.cli.results_view import results_table
from flexlora.cli.sheets import Column, Sheet
from flexlora.cli.tables import origin
from flexlora.evaluation import MeanScore
from flexlora.formats.words import count, size, span
from flexlora.planning.words import duration
from flexlora.runs.events import Ended
from flexlora.runs.records import OnClients

SHOWN = 5  # Kinds of failures that are shown unless all are asked for.

_FAILED = {
    "train": "failed",
    "evaluate": "failed to evaluate",
    "late": "late",
    "quarantine": "quarantined",
    "screen": "screened out",
    "stray": "refused, no failure,",
}
_STATES = {
    "finished": "finished",
    "running": "running in another process",
    "not scored": "all rounds played, not scored yet; go on with: {program} resume {path}",
    "stopped": "stopped; go on with: {program} resume {path}",
    "never started": "never started; begin with: {program} resume {path}",
}


def show_run(found: Mapping[str, Any], ended: Ended | None, *, everything: bool) -> None:
    """An overview (`runs.overview`) and what the run ended with, as text and tables."""
    words = _STATES[found["state"]].format(program=program(), path=found["path"])
    say(f"run {found['path']}: round {found['round']} of {found['rounds']}, {words}")
    if found["sooner"]:
        say(f"no further round: {found['sooner']}")
    rule = dict(found["rule"])
    options = ", ".join([rule.pop("name"), *(f"{key} {value}" for key, value in rule.items())])
    model = found["model"]
    say(f"rule {options}; model {model['name']} ({model['dtype']}, {found['layers']} layers)")
    if found["parent"]:
        say(f"began from {origin(found['parent'])}")
    for name in ("best", "last"):
        scored = found[name]
        if scored and not (name == "last" and scored == found["best"]):
            say(f"{name} round {scored['round']}: {_at_server(scored)}")
            if words := _on_clients(scored):
                say(f"  on clients: {words}")
    replies = sum(kind["replies"] for kind in found["types"].values())
    say(
        f"{count(found['clients_per_round'] or 0, 'client')} a round; "
        f"{count(found['rounds_played'], 'round')} played, {replies:,} replies, "
        f"{count(len(found['failures']), 'failure')}"
    )
    for words in _troubles(found):
        say(words)
    kept = ", ".join(map(str, found["checkpoints"]))
    say(
        f"{size(found['bytes_up'])} up, {size(found['bytes_down'])} down, "
        f"{found['seconds']:,.1f} s in rounds; {size(found['bytes_on_disk'])} on disk, "
        + (f"checkpoints of rounds {kept}" if kept else "no checkpoint")
    )
    if found["simulated"] is not None:
        say(f"on these devices all rounds would have taken {duration(found['simulated'])}")
    say_devices(found["devices"] or {})
    say()
    console = screen(wide=True)
    if found["types"]:
        _type_table(found).print(console)
    if everything and found["clients"]:
        say()
        _client_table(found).print(console)
    if found["learned"] and found["learned"]["layers"]:
        say()
        _learned(found["learned"])
    if ended is not None:
        say()
        results_table([ended])
    told = [*found["failures"], *(found["refused"] if everything else ())]
    _failures(told, everything=everything)


def _troubles(found: Mapping[str, Any]) -> Iterator[str]:
    """What rounds met beside failures: attempts, spare answers, clients that rest."""
    if found["faults"]:
        yield found["faults"]
    if found["attempts"]:
        told = ", ".join(f"round {round}: {n}" for round, n in found["attempts"].items())
        yield f"more than one attempt: {told}"
    if found["refused"]:
        clients = len({event["client"] for event in found["refused"]})
        yield (
            f"{count(len(found['refused']), 'answer')} of {count(clients, 'client')} refused, to "
            "nothing that was open (late, twice, or of another round), which are no failures"
        )
    if found["spare"]:
        yield f"{count(found['spare'], 'answer')} to spare, when enough others had come"
    if found["rested"]:
        told = ", ".join(
            f"{x} (up to round {found['resting'][x]})" if x in found["resting"] else x
            for x in found["rested"]
        )
        yield f"rested after failures in a row: {told}"


def _learned(learned: Mapping[str, Any]) -> None:
    """Norms and effective ranks by kind of layer."""
    layers = [_Learned(name, **layer) for name, layer in learned["layers"].items()]
    ranks = sorted(layer.effective_rank for layer in layers)
    say(
        f"learned by round {learned['round']}: ‖ΔW‖ = {learned['norm']:.4g} over all layers, "
        f"effective rank {ranks[0]:.1f} to {ranks[-1]:.1f}, median {ranks[len(ranks) // 2]:.1f}"
    )
    groups = kinds(layers)
    prefix = shared_prefix(list(groups))
    Sheet(
        "",
        Column("layers", [name.removeprefix(prefix) for name in groups], left=True),
        [
            Column("count", [f"{len(group):,}" for group in groups.values()]),
            Column("rank", [span([x.rank for x in group]) for group in groups.values()]),
            Column("eff. rank", [span([x.effective_rank for x in g], 3) for g in groups.values()]),
            Column("‖ΔW‖", [span([x.norm for x in g], 3) for g in groups.values()]),
        ],
    ).print(screen(wide=True))


@dataclass(frozen=True)
class _Learned:
    name: str
    rank: int
    effective_rank: float
    norm: float


def _at_server(scored: Mapping[str, Any]) -> str:
    """What one round scored there."""
    parts = [("train loss", scored["train_loss"])]
    if "validation" in scored:
        values = MeanScore.from_json(scored["validation"]).values
        parts += [(f"validation {name}", value) for name, value in values.items()]
    return _numbers(parts)


def _on_clients(scored: Mapping[str, Any]) -> str:
    """What its clients scored of one round; "" where they did not."""
    if "on_clients" not in scored:
        return ""
    found = OnClients.from_json(scored["on_clients"])
    means = [
        (f"{kind} {name}", spread.mean)
        for kind, scores in found.by_kind.items()
        for name, spread in scores.metrics.items()
    ]
    return _numbers([*means, ("what decides", found.decisive)])


def _numbers(named: Sequence[tuple[str, float | None]]) -> str:
    """Those that are finite."""
    known = [(name, x) for name, x in named if x is not None and math.isfinite(x)]
    return ", ".join(f"{name} {value:.3f}" for name, value in known)


def _type_table(found: Mapping[str, Any]) -> Sheet:
    types = found["types"].items()
    members = {
        name: [c for c in found["clients"].values() if c["type"] == name] for name, _ in types
    }
    counts = {name: [len(client["rounds"]) for client in of] for name, of in members.items()}
    peaks = [kind["peak_bytes"] for _, kind in types]
    measured = [
        Column("peak beside base", ["" if x is None else size(x) for x in peaks]),
        Column("at once", ["" if n is None else f"{n:,}" for n in (k["cohort"] for _, k in types)]),
    ]
    return Sheet(
        "",
        Column("type", [name for name, _ in types], left=True),
        [
            Column("rank", [_ranks(kind["ranks"], members[name]) for name, kind in types]),
            Column("clients", [f"{kind['clients']:,}" for _, kind in types]),
            Column("trained", [f"{sum(n > 0 for n in counts[name]):,}" for name, _ in types]),
            Column("replies", [f"{kind['replies']:,}" for _, kind in types]),
            Column(
                "per client", [span(counts[name]) if counts[name] else "0" for name, _ in types]
            ),
            Column("failures", [_counts(kind["failures"]) for _, kind in types]),
            *(measured if any(x is not None for x in peaks) else ()),
        ],
    )


def _ranks(given: str, members: Sequence[Mapping[str, Any]]) -> str:
    """The type's ranks, and what they are now where clients pruned themselves."""
    now = [rank for client in members for rank in client["ranks"].values()]
    pruned = given.isdigit() and now and min(now) < int(given)
    return f"{given}, now {span(now)}" if pruned else given


def _client_table(found: Mapping[str, Any]) -> Sheet:
    clients = found["clients"].values()
    return Sheet(
        "",
        Column("client", list(found["clients"]), left=True),
        [
            Column("type", [client["type"] for client in clients], left=True),
            Column("rank", [span(list(client["ranks"].values())) for client in clients]),
            Column("replies", [f"{len(client['rounds']):,}" for client in clients]),
            Column("failures", [_counts(client["failures"]) for client in clients]),
            Column("rounds", [_rounds(client["rounds"]) for client in clients], left=True),
        ],
    )


def _rounds(rounds: Sequence[int]) -> str:
    """In words that stay short: "1 to 4, 7"."""
    runs: list[list[int]] = []
    for number in rounds:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def _counts(failures: Mapping[str, int]) -> str:
    """How many of each kind: "3", "3 and 1 to evaluate"."""
    words = {
        "train": "",
        "evaluate": " to evaluate",
        "late": " late",
        "quarantine": " quarantined",
        "stray": " refused",
        "screen": " screened out",
    }
    return " and ".join(f"{n:,}{words[kind]}" for kind, n in failures.items() if n) or "0"


def _failures(failures: Sequence[Mapping[str, Any]], *, everything: bool) -> None:
    """Failures by kind and reason, the most frequent first."""
    by_reason: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in failures:
        by_reason.setdefault((event["kind"], event["reason"]), []).append(event)
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    shown = ordered if everything else ordered[:SHOWN]
    for (kind, reason), events in shown:
        rounds = span([event["round"] for event in events])
        clients = sorted({event["client"] for event in events})
        who = ", ".join(clients if everything else clients[:3])
        more = f" and {len(clients) - 3} more" if len(clients) > 3 and not everything else ""
        words = " ".join(reason.split())
        say(f"{_FAILED[kind]} {len(events):,} ×, rounds {rounds}, clients {who}{more}: {words}")
    if len(shown) < len(ordered):
        say(f"{len(ordered) - len(shown):,} more reasons; --all shows each of them")
