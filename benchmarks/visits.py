"""What a client's visit costs besides its training, and memory by the number of clients.

python benchmarks/visits.py                    tiny and 6m, 1,600 clients, 1 and 8 at once
python benchmarks/visits.py 6m --at-once 8     some of it
python benchmarks/visits.py tiny --profile     where the time goes, function by function

A table on stdout; JSON in results/benchmarks/visits.json, where a case that is run replaces its own
rows. MODEL: `tiny` (embedded) or `6m` (../shared/models/ni-llama-6m). A whole run through the
public API, in this process, on the CPU; every client takes part in every round and trains one step
on one short example, so that what is not training shows. The paper's uniform mix of ranks, scaled
to at most 16; float32 factors.

Milliseconds are those of a visit: a round's, over its clients; the median of the rounds.
train: inside `train_cohort`. Outside it: send (what is sent, and the jobs), exchange (reading what
was sent, writing and sending the reply, the guard, spooling), commit (log and checkpoint). combine
is the server's aggregation, which benchmarks/aggregate.py measures: it is shown beside.

Memory is that of a fresh process for each number of clients, whose allocator gives back what is
freed: what preparing the run adds for good (all clients' examples; the model took the room of the
warm-up's), and by how much its own memory rises above that in the rounds. Pages of mapped files are
the system's and are shown apart: all that is resident at the peak.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import math
import pstats
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.engines import in_process as transport
from flexlora.federation.doors import run
from flexlora.federation.observers import Silent
from flexlora.federation.setup import prepare
from flexlora.formats.atomic import atomic_write
from flexlora.runs.environment import environment
from flexlora.runs.events import Event, RoundBegun, RoundEnded, Started
from flexlora.runs.records import RoundRecord
from measuring import begin, in_child, new_file, own_memory, peak_of, product_rate

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "benchmarks" / "visits.json"
MODELS = {"tiny": "tiny", "6m": str(ROOT.parent / "shared" / "models" / "ni-llama-6m")}
_TASKS = 66  # Embedded ones that train.
_EXAMPLES = 2  # Of each client; at least one of them trains.
Row = dict[str, Any]


def config_of(model: str, clients: int, at_once: int, rounds: int, threads: int) -> Config:
    return parse_config(
        {
            "model": {"name": MODELS[model], "device": "cpu"},
            "data": {
                "source": "embedded",
                "examples_per_task": math.ceil(_EXAMPLES * clients / _TASKS),
                "unseen_tasks": 1,
            },
            "partition": {"by": "iid", "clients": clients},
            "clients": {"mix": "uniform", "scale": 0.08},
            "training": {"batch_size": 1, "max_steps": 1},
            "federation": {"rounds": rounds, "clients_per_round": clients},
            "evaluation": {"every": 0, "unseen": False},
            "run": {"threads": threads, "clients_at_once": at_once, "workers": 1},
        }
    )


# --- time ----------------------------------------------------------------------------------------


class Watch(Silent):
    """Seconds of every round, by part. `training`: what `train_cohort` has taken so far."""

    def __init__(self) -> None:
        self.rounds: list[Row] = []
        self.training = 0.0
        self._marks = [0.0]

    def told(self, event: Event) -> None:
        if isinstance(event, Started):
            self._marks = [time.perf_counter()]
        elif isinstance(event, RoundBegun):
            self._marks.append(time.perf_counter())
            self.training = 0.0
        elif isinstance(event, RoundEnded):
            self._ended(event.record)

    def _ended(self, record: RoundRecord) -> None:
        began, sent = self._marks
        ended, seconds = time.perf_counter(), record.seconds
        parts = {
            "train": self.training,
            "send": sent - began,
            "exchange": seconds["clients"] - (sent - began) - self.training,
            "combine": seconds["combine"],
            "commit": ended - began - seconds["clients"] - seconds["combine"],
        }
        traffic = {name: getattr(record, name) for name in ("tokens", "bytes_down", "bytes_up")}
        self.rounds.append({"seconds": ended - began, "parts": parts, **traffic})
        self._marks = [time.perf_counter()]


@contextmanager
def training_timed(watch: Watch) -> Iterator[None]:
    """Whatever the engine trains meanwhile is added to the watch."""
    inner = transport.train_cohort

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return inner(*given, **named)
        finally:
            watch.training += time.perf_counter() - began

    with patch.object(transport, "train_cohort", timed):
        yield


def played(config: Config, profile: cProfile.Profile | None = None) -> Watch:
    watch, setup = Watch(), prepare(config)
    with tempfile.TemporaryDirectory() as scratch, training_timed(watch):
        play = partial(run, config, Path(scratch) / "run", observer=watch, setup=setup)
        profile.runcall(play) if profile else play()
    return watch


def time_of(model: str, at_once: int, options: argparse.Namespace) -> Row:
    clients = options.clients[-1]
    rate = product_rate("cpu")
    watch = played(config_of(model, clients, at_once, options.rounds, options.threads))
    each = [
        {name: 1e3 * spent / clients for name, spent in round["parts"].items()}
        for round in watch.rounds
    ]
    for parts in each:
        parts["outside"] = parts["send"] + parts["exchange"] + parts["commit"]
    middle = {name: statistics.median(parts[name] for parts in each) for name in each[0]}
    return {
        "at_once": at_once,
        "clients": clients,
        "round_seconds": statistics.median(round["seconds"] for round in watch.rounds),
        "milliseconds": middle | {"with_combine": middle["outside"] + middle["combine"]},
        "bytes_up_each": watch.rounds[-1]["bytes_up"] / clients,
        "rounds": watch.rounds,
        "product_rates": [rate, product_rate("cpu")],
    }


# --- memory --------------------------------------------------------------------------------------


def memory_of(model: str, clients: int, at_once: int, rounds: int, threads: int) -> Row:
    """In a fresh process: a small run first, so that libraries hold what they hold for good."""
    played(config_of(model, 2 * at_once, at_once, 1, threads))
    gc.collect()
    config = config_of(model, clients, at_once, rounds, threads)
    before = _anonymous()
    setup = prepare(config)
    gc.collect()
    prepared = _anonymous() - before
    with tempfile.TemporaryDirectory() as scratch, own_memory() as own:
        play = partial(run, config, Path(scratch) / "run", setup=setup)
        resident = peak_of(play, "cpu")
    return {
        "clients": clients,
        "at_once": at_once,
        "prepared_bytes": prepared,
        "rounds_bytes": own[0],
        "resident_bytes": resident,
    }


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def slopes(rows: list[Row]) -> Row:
    """Bytes a client more, from the fewest clients to the most."""
    few, many = rows[0], rows[-1]
    more = max(1, many["clients"] - few["clients"])
    names = ("prepared_bytes", "rounds_bytes", "resident_bytes")
    return {name: (many[name] - few[name]) / more for name in names}


# --- the script ----------------------------------------------------------------------------------


def main() -> None:
    options = parsed()
    begin(options.threads)
    cases: Row = json.loads(options.out.read_text())["cases"] if options.out.is_file() else {}
    for model in options.models:
        if options.profile:
            for at_once in options.at_once:
                profiled(model, at_once, options)
            continue
        times = [time_of(model, k, options) for k in options.at_once]
        given = (options.at_once[-1], options.rounds, options.threads)
        memory = [
            in_child(memory_of, model, count, *given, threads=options.threads)
            for count in options.clients
            if not options.skip_memory
        ]
        cases[model] = {
            "time": times,
            "memory": memory,
            "bytes_a_client": slopes(memory) if memory else None,
            "environment": environment(),
        }
        show(model, cases[model])
        options.out.parent.mkdir(parents=True, exist_ok=True)
        document = {"cases": dict(sorted(cases.items()))}
        atomic_write(options.out, json.dumps(document, indent=2) + "\n")


def profiled(model: str, at_once: int, options: argparse.Namespace) -> None:
    profile = cProfile.Profile()
    config = config_of(model, options.clients[-1], at_once, options.rounds, options.threads)
    played(config, profile)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(r"flexlora|safetensors|posix", 60)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", nargs="*", default=list(MODELS), metavar="MODEL", help="tiny, 6m")
    add("--clients", nargs="+", type=int, default=[100, 400, 1600], help="time: of the last")
    add("--at-once", nargs="+", type=int, default=[1, 8], help="memory: of the last")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=1)
    add("--skip-memory", action="store_true", help="measure time alone")
    add("--profile", action="store_true", help="print a profile instead of figures")
    add("--out", type=new_file, default=OUT)
    options = parser.parse_args()
    for model in options.models:
        if model not in MODELS:
            parser.error(f"model {model!r} is unknown; give {' or '.join(MODELS)}")
    return options


def show(model: str, case: Row) -> None:
    console = Console(width=100)
    clients = case["time"][0]["clients"]
    table = Table(title=f"{model}: milliseconds a visit, {clients:,} clients a round")
    heads = ("train", "send", "exchange", "commit", "outside", "combine", "with_combine")
    for head in ("at once", "round s", "MB up", *heads):
        table.add_column(head.replace("_", " "), justify="right")
    for row in case["time"]:
        each = (f"{row['milliseconds'][name]:.2f}" for name in heads)
        up = f"{row['bytes_up_each'] / 1e6:.2f}"
        table.add_row(str(row["at_once"]), f"{row['round_seconds']:.1f}", up, *each)
    console.print(table)
    rates = [rate for row in case["time"] for rate in row["product_rates"]]
    console.print(
        f"{case['environment']['cpu']}, {case['environment']['threads']} threads. The machine's "
        f"own products around the runs: {min(rates) / 1e9:,.0f} to {max(rates) / 1e9:,.0f} GFLOP/s."
    )
    if not case["memory"]:
        return
    table = Table(title=f"{model}: memory, {case['memory'][0]['at_once']} clients at once, MB")
    for head in ("clients", "examples", "rounds, own", "rounds, with mapped files"):
        table.add_column(head, justify="right")
    names = ("prepared_bytes", "rounds_bytes", "resident_bytes")
    for row in case["memory"]:
        table.add_row(f"{row['clients']:,}", *(f"{row[name] / 1e6:.1f}" for name in names))
    more = (f"{case['bytes_a_client'][name] / 1e3:.1f} kB" for name in names)
    table.add_row("one more", *more)
    console.print(table)


if __name__ == "__main__":
    main()
