"""Local training of many clients: cohorts in one forward pass, against the usual loop over PEFT.

python benchmarks/cohort.py 6m:1:ni '6m:1:plain<96' 6m:2:256   cases: MODEL:BATCH:LENGTHS
python benchmarks/cohort.py --device cuda 110m:2:256           the same on a GPU

A table on stdout; JSON and a plot in results/benchmarks/cohort.json and .svg. A case that is run
replaces its own rows there. MODEL: `tiny` (embedded), `6m` (../shared/models/ni-llama-6m),
`smollm2` (SmolLM2-135M in bfloat16, out of its package), and Llamas of random weights: `110m`
(float32) and `1.3b` (bfloat16 base). LENGTHS: `ni` (Natural Instructions as `flexlora` prompts
them, of at most 512 tokens), a band of those (`ni96-256`, `ni>256`), or random tokens, all examples
of one length (`256`). The shortest of `ni` has 99 tokens, of which the prompt's template takes 50
to 70; `plain`, with the same bands, leaves the template out (definition and input alone):
`plain<96` is the band of short ones.

All sides train the same clients on the same batches, from the same adapters, each with a fresh
AdamW; they take turns in one process; medians. A side whose mean loss is not the usual loop's
within 1e-3 (5e-3 on a bfloat16 base) gets no row, and the script fails. Tokens are those of the
examples, padding not counted. Beside the numbers asked for, ours trains one by one, and as many at
once as `choose_cohort_size` picks before anything is timed, as a run does with `clients_at_once =
"measured"`: the time that its choice takes is told over that of one by one.

Memory is that of a fresh process for each side (on a GPU: of its allocator), above what the base
model holds: three steps on the batch of the most tokens that any client has, by as many copies of
that client as train at once. So it is the worst that the case can come to, and what one client more
costs can be read off: bytes from 4 to 16 at once, over what a client should cost: its factors × 4
bytes × 4 (weights, gradient, both AdamW moments) + its activations (its peak alone, less these).
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cohort_case import MODELS, Case, Client, clients_of, heaviest
from cohort_view import plot, show, update
from cohort_workers import Team
from flexlora.models import AdaptedModel, BaseModel
from flexlora.runs.environment import environment
from flexlora.training import CohortSize, Trained, choose_cohort_size, train_cohort
from flexlora.training.memory import free_bytes
from measuring import begin, gpu, in_child, new_file, peak_of, product_rate, seconds

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "cohort.json"
TEAM_AT_ONCE = (1, 4, 8)  # Clients at once of each worker.
AT_ONCE = (1, 2, 4, 8, 16, 32, 64)
RIVALS = USUAL, IN_PLACE = "usual loop", "in-place copies"
SLOPE = (4, 16)  # Clients at once between which the cost of one more is read off.
# Of two sides' mean losses; in bfloat16 the usual loop alone, padded otherwise, is off by as much.
_SAME_LOSS = {torch.float32: 1e-3, torch.bfloat16: 5e-3}
_COPIES = 4  # Of a client's numbers: weights, gradient, two moments.
_BYTES = 4
Row = dict[str, Any]


# --- sides ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Procedure:
    """A side. `trainer` wraps a base model of its own, at a rank; sides may share what it makes.

    `train` gives the mean loss of each client. at_once: clients that train side by side.
    """

    trainer: Callable[[BaseModel, int], Any]
    train: Callable[[Any, Sequence[Client]], list[float]]
    at_once: int = 1


def procedures(at_once: Sequence[int], workers: int | None = None) -> dict[str, Procedure]:
    return rivals() | cohorts(at_once) | (teams(workers) if workers else {})


def rivals() -> dict[str, Procedure]:
    """Apart, for PEFT takes seconds to import: a process that measures ours does without."""
    from usual_loop import PeftModel, by_state_dict, in_place

    return {
        USUAL: Procedure(PeftModel, by_state_dict),
        IN_PLACE: Procedure(PeftModel, in_place),
    }


def cohorts(at_once: Sequence[int]) -> dict[str, Procedure]:
    return {ours(k): Procedure(adapted, partial(in_cohorts, k), k) for k in at_once}


def teams(workers: int) -> dict[str, Procedure]:
    """Worker processes, each with its share of the threads."""

    def made(base: BaseModel, _rank: int) -> Team:
        return Team(base, workers)

    return {
        f"ours, {workers} workers, {k} at once each": Procedure(made, partial(in_team, k), k)
        for k in TEAM_AT_ONCE
    }


def in_team(at_once: int, team: Team, clients: Sequence[Client]) -> list[float]:
    return team.train(at_once, clients)


def ours(at_once: int) -> str:
    return f"ours, {at_once} at once"


def adapted(base: BaseModel, _rank: int) -> AdaptedModel:
    return AdaptedModel(base)


def in_cohorts(at_once: int, model: AdaptedModel, clients: Sequence[Client]) -> list[float]:
    losses = []
    for start in range(0, len(clients), at_once):
        part = clients[start : start + at_once]
        for outcome in train_cohort(model, [client.visit() for client in part]):
            if not isinstance(outcome, Trained):
                raise outcome
            losses.append(outcome.loss)
    return losses


# --- the script ----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    begin(options.threads, options.device)
    refused = False
    for case in options.cases:
        measured = measure(case, options)
        refused |= bool(measured["refused"])
        update(options.out, f"{case.name}:{options.device}", measured)
        show(measured)
    plot(options.out)
    if refused:
        sys.exit("some sides did not train alike; they have no row")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("cases", nargs="+", type=Case.of, help="MODEL:BATCH:LENGTHS")
    add("--cohorts", nargs="+", type=int, help="clients at once (default: 1, 2, 4 … 64)")
    add("--clients", type=int, default=32)
    add("--examples", type=int, default=20, help="of each client")
    add("--steps", type=int, help="of each client at most (default: one epoch)")
    add("--rank", type=int, default=16)
    add("--repetitions", type=int, default=3)
    add("--device", default="cpu")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--workers", type=int, help="processes of a further side (a model in a folder only)")
    add("--skip-memory", action="store_true", help="measure time alone")
    add("--out", type=new_file, default=OUT)
    options = parser.parse_args(arguments)
    if options.cohorts is None:
        options.cohorts = [k for k in AT_ONCE if k <= options.clients]
    for k in options.cohorts:
        if not 1 <= k <= options.clients:
            parser.error(f"--cohorts has {k}; give 1 to {options.clients}, the number of --clients")
    return options


# --- one case ------------------------------------------------------------------------------------


def measure(case: Case, options: argparse.Namespace) -> Row:
    """Every side's row, and what they have in common."""
    clients, chosen, dtype = prepared(case, options)
    at_once = sorted({1, chosen.clients, *options.cohorts})
    known = procedures(at_once, options.workers)
    trainers = {
        trainer: trainer(MODELS[case.model](options.device), options.rank)
        for trainer in dict.fromkeys(procedure.trainer for procedure in known.values())
    }
    tokens = sum(client.tokens for client in clients)
    took, losses, rates = alternate(known, trainers, clients, options)
    del trainers
    rows, refused = sorted_out(losses, _SAME_LOSS[dtype])
    measurable = {*RIVALS, *cohorts(at_once)}  # Workers' memory is not this process's.
    for row in rows:
        name = row["procedure"]
        row["at_once"] = known[name].at_once
        row["seconds"], row["each"] = statistics.median(took[name]), took[name]
        row["tokens_per_second"] = tokens / row["seconds"]
        unknown = options.skip_memory or name not in measurable
        row["extra_bytes"] = None if unknown else memory(case, row, clients, options)
    compare(rows)
    return {
        "name": case.name,
        **asdict(case),
        "device": options.device,
        **{x: getattr(options, x) for x in ("clients", "examples", "steps", "rank")},
        "repetitions": options.repetitions,
        "tokens": tokens,
        "tokens_of_an_example": tokens / sum(len(b) for c in clients for b in c.batches()),
        "heaviest_batch_tokens": heaviest(clients).tokens // 3,
        "adapter_numbers": clients[0].adapter.parameters,
        "product_rates": rates,
        "rows": rows,
        "refused": refused,
        "chosen": asdict(chosen) | {"over_one_by_one": over_one_by_one(rows, chosen.clients)},
        "one_more": one_more(rows, clients[0].adapter.parameters),
        "environment": environment() | gpu(options.device) | {"peft": version("peft")},
    }


def prepared(
    case: Case, options: argparse.Namespace
) -> tuple[list[Client], CohortSize, torch.dtype]:
    """The clients, how many of them a run would train at once, chosen on a model of its own, and
    the dtype of its weights."""
    model = adapted(MODELS[case.model](options.device), options.rank)
    config: Any = model.model.config
    clients = clients_of(
        case,
        model.layers,
        config.vocab_size,
        clients=options.clients,
        examples=options.examples,
        rank=options.rank,
        steps=options.steps,
    )
    visits = [client.visit() for client in clients]
    chosen = choose_cohort_size(model, visits, budget_bytes=free_bytes(model.device))
    return clients, chosen, next(model.model.parameters()).dtype


def alternate(
    known: Mapping[str, Procedure],
    trainers: Mapping[Any, Any],
    clients: Sequence[Client],
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    """Seconds of each side, in turns; the clients' losses; rates of products between them."""
    took: dict[str, list[float]] = {name: [] for name in known}
    losses: dict[str, list[float]] = {}
    # Libraries load and choose their kernels on first use; on a GPU by the shapes that they get.
    few = clients[:2] if options.device == "cpu" else clients
    for procedure in known.values():
        procedure.train(trainers[procedure.trainer], few)
    rates = [product_rate(options.device)]
    for _ in range(options.repetitions):
        for name, procedure in known.items():
            work = partial(procedure.train, trainers[procedure.trainer], clients)
            gc.collect()
            spent, losses[name] = seconds(work, options.device)
            took[name].append(spent)
            rates.append(product_rate(options.device))
    return took, losses, rates[1:]


def sorted_out(losses: Mapping[str, Sequence[float]], same: float) -> tuple[list[Row], list[Row]]:
    """A row for each side that trained as the usual loop does, and one for each that did not."""
    usual = losses[USUAL]
    rows: list[Row] = []
    refused: list[Row] = []
    for name, found in losses.items():
        mean, wanted = statistics.fmean(found), statistics.fmean(usual)
        worst = max(abs(x - y) / y for x, y in zip(found, usual, strict=True))
        off = abs(mean - wanted) / wanted
        row = {"procedure": name, "loss": mean, "loss_off": off, "worst_client_off": worst}
        (rows if off <= same else refused).append(row)
    return rows, refused


def compare(rows: Sequence[Row]) -> None:
    """Note speed and memory over both rivals', and which of ours is the fastest."""
    by_name = {row["procedure"]: row for row in rows}
    usual, copies = by_name[USUAL], by_name.get(IN_PLACE)
    of_ours = [row for row in rows if row["procedure"] not in RIVALS]
    best = min(of_ours, key=lambda row: row["seconds"], default=None)
    for row in rows:
        row["faster"] = usual["seconds"] / row["seconds"]
        row["faster_than_copies"] = copies["seconds"] / row["seconds"] if copies else None
        known = row["extra_bytes"] is not None
        row["memory_share"] = row["extra_bytes"] / usual["extra_bytes"] if known else None
        row["best"] = row is best


def over_one_by_one(rows: Sequence[Row], at_once: int) -> float | None:
    """Time of so many at once over that of one by one; None where one of them has no row."""
    took = {row["procedure"]: row["seconds"] for row in rows}
    together, alone = took.get(ours(at_once)), took.get(ours(1))
    return together / alone if together and alone else None


# --- memory --------------------------------------------------------------------------------------


def memory(case: Case, side: Row, clients: Sequence[Client], options: argparse.Namespace) -> int:
    """Extra bytes at the side's peak; on the CPU in a process of its own."""
    given = (case.model, options.device, side["procedure"], side["at_once"], heaviest(clients))
    if options.device != "cpu":
        return peak(*given)
    return in_child(peak, *given, threads=options.threads)


def peak(model: str, device: str, name: str, at_once: int, client: Client) -> int:
    procedure = (rivals() if name in RIVALS else cohorts([at_once]))[name]
    run_once(procedure, device)
    base = MODELS[model](device)
    rank = next(iter(client.adapter.values())).rank
    gc.collect()

    def work() -> None:
        procedure.train(procedure.trainer(base, rank), [client] * procedure.at_once)

    return peak_of(work, device)


def run_once(procedure: Procedure, device: str) -> None:
    """On the smallest model there is: what libraries load for good is not what training needs."""
    layers = AdaptedModel(MODELS["tiny"](device)).layers
    small = clients_of(Case("tiny", 1, "8"), layers, 100, clients=1, examples=1, rank=1, steps=None)
    procedure.train(procedure.trainer(MODELS["tiny"](device), 1), small * procedure.at_once)


def one_more(rows: Sequence[Row], numbers: int) -> Row | None:
    """What one client more costs, and should; None where memory of 1, 4 and 16 is not known."""
    peaks = {row["procedure"]: row["extra_bytes"] for row in rows}
    alone, fewer, more = (peaks.get(ours(k)) for k in (1, *SLOPE))
    if alone is None or fewer is None or more is None:
        return None
    state = numbers * _BYTES * _COPIES
    found = (more - fewer) / (SLOPE[1] - SLOPE[0])
    return {
        "between": list(SLOPE),
        "bytes": found,
        "state_bytes": state,
        "activation_bytes": alone - state,
        "ratio": found / alone,
    }


if __name__ == "__main__":
    main()
