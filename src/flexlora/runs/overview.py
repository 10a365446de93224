"""What a run directory tells of its run: how far it came, who took part, what failed, the cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from flexlora.errors import shown
from flexlora.formats.json_fields import number, table, text, texts, whole
from flexlora.runs.events import FAILURES, Event, Failed, Replied, Rested, Started
from flexlora.runs.fields import or_none, typed
from flexlora.runs.progress import Progress
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Record, Run
from flexlora.runs.store import ClientStore


def overview(folder: Path | str) -> Record:
    """Plain values for JSON, read without the model, the data or any tensor.

    state: "finished", "running" (another process holds it), "not scored" (all rounds are played),
    "stopped" or "never started"; sooner: why it ends before its last round, "" where it does not;
    best: the round that validated best, None where none did;
    types: name → ranks (in words), clients, replies, failures, and peak_bytes, the most by which a
    pass of its clients raised memory beside the base (None where it was not measured), with the
    number of clients in that pass, cohort; clients: id → type, ranks
    (layer → rank, as trained last), rounds (in which it counted) and failures, by what it was to
    do: train, be in time, evaluate, or pass a screen; attempts: round → attempts that it took, of
    those that took more than one; spare: answers that were needed no more; resting: client → the
    round up to which it rests; rested: how often each client was; faults: what is made to fail on
    purpose, in words, "" for nothing; devices: class → clients and why they train at their ranks,
    None without; simulated: seconds of all rounds on them, None without; bytes on the wire, to
    train and to evaluate, and on disk;
    seconds within rounds; learned: of all that was learned, as it was validated last, the round,
    its norm over all layers, and rank, effective rank and norm by layer, None before; scores: the
    means of results.json, None where there are none. A round that has no checkpoint yet is not
    played yet. Raises RunError for what is no run, or a damaged one.
    """
    run = Run.open(folder)
    records, last = run.committed(), run.last_meta()
    events = run.events(Event)
    failures = [event for event in events if isinstance(event, Failed)]
    own = [event for event in failures if not event.refused]
    replies = [event for event in events if isinstance(event, Replied)]
    rested = Counter(event.client for event in events if isinstance(event, Rested))
    begun = any(isinstance(event, Started) for event in events)
    config, federation = run.config, run.config.federation
    with run.undamaged("checkpoints"):
        progress = Progress.from_json(table(last, "progress")) if last else Progress()
        store = ClientStore.from_json(table(last, "store")) if last else ClientStore({}, {})
        clients = _clients(store, records, failures)
    with run.undamaged("environment.json"):
        commit = typed(run.environment, {"commit": or_none(text)}).get("commit")
    with run.undamaged("resolved.toml"):
        resolved = run.resolved
        types = _types(resolved, clients, replies)
    with run.undamaged("spectra.jsonl"):
        learned = _learned(run.read_spectra())
    ended = run.ended()
    round = records[-1].round if records else run.start_round or 0
    return {
        "kind": "run",
        "path": str(folder),
        "state": _state(run, begun, round, progress),
        "round": round,
        "rounds": federation.rounds,
        "rounds_played": len(records),
        "sooner": progress.exhausted(federation.patience) if round < federation.rounds else "",
        "rule": config.document()["rule"],
        "model": {"name": config.model.name, "dtype": config.model.dtype},
        "layers": resolved.get("layers"),
        "commit": commit,
        "parent": run.parent,
        "best": next((_scores(r) for r in records if r.round == progress.best_round), None),
        "last": _scores(records[-1]) if records else None,
        "clients_per_round": resolved.get("clients_per_round"),
        "types": types,
        "clients": clients,
        "failures": [event.to_json() for event in own],
        "refused": [event.to_json() for event in failures if event.refused],
        "attempts": {str(x.round): x.attempts for x in records if x.attempts > 1},
        "spare": sum(len(record.spare) for record in records),
        "resting": dict(sorted(store.resting.items())),
        "rested": dict(sorted(rested.items())),
        "faults": config.faults.words(),
        "devices": _devices(run),
        "simulated": _simulated(records),
        "bytes_up": sum(record.bytes_up for record in records),
        "bytes_down": sum(record.total_bytes_down for record in records),
        "seconds": sum(record.total_seconds for record in records),
        "learned": learned,
        "scores": None if ended is None else [row.to_json() for row in ended.rows],
        "checkpoints": run.checkpoints(),
        "bytes_on_disk": _on_disk(run.folder),
    }


def _devices(run: Run) -> dict[str, Record] | None:
    with run.undamaged("data.json"):
        if "devices" not in run.data:
            return None
        classes = table(run.data, "devices")
        return {
            name: {
                "clients": list(texts(table(classes, name), "clients")),
                "why": text(table(classes, name), "why"),
            }
            for name in classes
        }


def _simulated(records: Sequence[RoundRecord]) -> float | None:
    times = [record.simulated.seconds for record in records if record.simulated is not None]
    return sum(times) if times else None


def _on_disk(folder: Path) -> int:
    """Bytes of all files; those that a running federation removes meanwhile count as none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _state(run: Run, begun: bool, round: int, progress: Progress) -> str:
    if run.read_results() is not None:
        return "finished"
    if run.in_use():
        return "running"
    if not begun:
        return "never started"
    federation = run.config.federation
    ended = round >= federation.rounds or progress.exhausted(federation.patience)
    return "not scored" if ended else "stopped"


def largest_pass(replies: Iterable[Replied]) -> dict[str, int | None]:
    """peak_bytes: the most by which a pass of theirs raised memory beside the base; cohort: clients
    in that pass, the fewest of such. Both None where none was measured."""
    known = [(x.peak_bytes, -x.cohort) for x in replies if x.peak_bytes is not None]
    peak, clients = max(known, default=(None, None))
    return {"peak_bytes": peak, "cohort": None if clients is None else -clients}


def _scores(record: RoundRecord) -> Record:
    """Of a round's line: what says how good it was."""
    line = record.to_json()
    kept = ("round", "train_loss", "validation", "on_clients")
    return {key: line[key] for key in kept if key in line}


def _learned(spectra: Sequence[Record]) -> Record | None:
    """Of the round that was validated last. Null stands for what JSON cannot hold."""
    if not spectra:
        return None
    layers = {
        name: {
            "rank": whole(layer, "rank"),
            "effective_rank": number(layer, "effective_rank"),
            "norm": number(layer, "norm"),
        }
        for name, layer in table(spectra[-1], "layers").items()
    }
    norm = math.hypot(*(layer["norm"] for layer in layers.values()))
    return {"round": whole(spectra[-1], "round"), "norm": norm, "layers": layers}


def _clients(
    store: ClientStore, records: Sequence[RoundRecord], failures: Sequence[Failed]
) -> dict[str, Record]:
    found: dict[str, Record] = {
        client: {
            "type": kind,
            "ranks": store.ranks[client],
            "rounds": [],
            "failures": dict.fromkeys(FAILURES, 0),
        }
        for client, kind in sorted(store.types.items())
    }
    for record in records:
        for client in record.clients:
            if client not in found:
                raise ValueError(f"store has no client {shown(client)}, which trained")
            found[client]["rounds"].append(record.round)
    for event in failures:
        if event.client in found:  # A foreign reply may name anybody.
            found[event.client]["failures"][event.kind] += 1
    return found


def _types(
    resolved: Record, clients: Mapping[str, Record], replies: Sequence[Replied]
) -> dict[str, Record]:
    found = {}
    ranks = table(resolved, "ranks") if "clients" in resolved else {}
    for name, count in resolved.get("clients", {}).items():
        members = [client for client in clients.values() if client["type"] == name]
        found[name] = {
            "ranks": text(ranks, name),
            "clients": count,
            "replies": sum(len(client["rounds"]) for client in members),
            "failures": {kind: sum(c["failures"][kind] for c in members) for kind in FAILURES},
            **largest_pass([x for x in replies if x.type == name]),
        }
    return found
