"""Aggregation of clients' factors: the original procedure (dense ΔW, whole SVD) against ours.

python benchmarks/aggregate.py                      every case of the table
python benchmarks/aggregate.py 4096x4096:10:trained  one case: SHAPE:CLIENTS:DATA
python benchmarks/aggregate.py --whole-round        a round of a whole model, files included
python benchmarks/aggregate.py --device cuda …      the same on a GPU

A table on stdout; JSON and a plot in results/benchmarks/aggregate.json and .svg. A case that is
run replaces its own rows there. DATA is `trained` (see one_layer.py) or `flat` (Gaussian).
Procedures take turns in one process; medians. Memory is that of one run in a fresh process each,
above what it holds before.

Columns: × original: how many times as fast; of original: share of its extra memory; excess:
(‖ΔW − T‖ − least) / least, `least` from the float64 SVD; distance: ‖T − T₆₄‖ / ‖T₆₄‖, where the
spectrum has a gap; × floor: seconds over what the cheaper of forming ΔW and one implicit pass there
and back would take at the speed of the machine's float32 products, measured between the runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aggregate_view import plot, show, update
from flexlora.adapters import LayerSpec
from flexlora.runs.environment import environment
from measuring import begin, gpu, in_child, new_file, peak_of, product_rate, seconds
from one_layer import Replies, draw, ranks_of, train
from procedures import PATHS, Float64, Kept, Procedure, Round, procedures, readout, readouts
from round_on_device import round_on_device
from round_with_files import round_with_files
from whole_round import LLAMA_1B, LLAMA_8B, Model

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "aggregate.json"
EVERYONE = 1613  # Clients of the paper's federation: the original makes factors for each.
_SOME = 8  # Of them are made, and the time multiplied.
_GAP = 1.1  # σ_r / σ_{r+1} from which T itself can be compared.
_FLOAT64_IN_FLOAT32 = 3.0  # A double-precision SVD takes about so many times as long.
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One layer, its clients, and where their factors come from. Shapes that taper are FFN."""

    m: int
    n: int
    clients: int
    data: str

    @staticmethod
    def of(text: str) -> Case:
        try:
            shape, clients, data = text.split(":")
            m, n = map(int, shape.split("x"))
            case = Case(m, n, int(clients), data)
        except ValueError as error:
            wrong = f"{text!r} is no case; 4096x4096:10:trained is one"
            raise argparse.ArgumentTypeError(wrong) from error
        if data not in SOURCES:
            raise argparse.ArgumentTypeError(f"data is {data!r}; give {' or '.join(SOURCES)}")
        return case

    @property
    def name(self) -> str:
        return f"{self.m}x{self.n}:{self.clients}:{self.data}"

    @property
    def layer(self) -> LayerSpec:
        return LayerSpec("self_attn.q_proj" if self.m == self.n else "mlp.up_proj", self.m, self.n)


SOURCES = {"trained": train, "flat": draw}
NAMES = ("ours", *PATHS)
SHAPES = ((2048, 2048), (4096, 4096), (5504, 2048), (11008, 4096))
CASES = [Case(m, n, k, data) for m, n in SHAPES for k in (10, 80) for data in SOURCES]
CASES += [Case(2048, 2048, EVERYONE, data) for data in SOURCES]


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    begin(options.threads, options.device)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        if options.whole_round:
            kind, measured = "rounds", whole_round(options, Path(scratch))
            update(options.out, kind, measured["name"], measured)
            show(measured)
        else:
            for case in options.cases or CASES:
                folder = Path(scratch) / case.name.replace(":", "-")
                measured = measure(case, options, folder)
                for file in folder.iterdir():
                    file.unlink()
                update(options.out, "cases", f"{case.name}:{options.device}", measured)
                show(measured)
    plot(options.out)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("cases", nargs="*", type=Case.of, help="SHAPE:CLIENTS:DATA (default: the whole table)")
    add("--repetitions", type=int, default=3)
    add("--paths", nargs="+", choices=NAMES, help="beside the original (default: all)")
    add("--device", default="cpu")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--seed", type=int, default=0)
    add("--rank-scale", type=float, default=1.0, help="times the ranks of the paper's types")
    add("--float64-seconds", type=float, default=120.0, help="skip a float64 SVD that takes longer")
    add("--scratch", type=Path, help="folder for data and replies (default: temporary)")
    add("--out", type=new_file, default=OUT)
    add("--whole-round", action="store_true")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the replies")
    add("--frugal", action="store_true", help="a round's freed memory goes back at once; slower")
    add("--seeds", type=int, default=2, help="trained layers of each shape that a round is made of")
    add("--clients", type=int, default=80, help="of a whole round")
    add("--batch", type=int, default=16, help="layers brought to a GPU at a time")
    for name in ("layers", "hidden", "ffn", "key-value"):
        add(f"--{name}", type=int, help="of the model (default: the 1.3B, on a GPU the 8B LLaMA)")
    return parser.parse_args(arguments)


def whole_round(options: argparse.Namespace, scratch: Path) -> Row:
    on_cpu = options.device == "cpu"
    model = LLAMA_1B if on_cpu else LLAMA_8B
    model = Model(
        layers=options.layers or model.layers,
        hidden=options.hidden or model.hidden,
        ffn=options.ffn or model.ffn,
        key_value=options.key_value or options.hidden or model.key_value,
    )
    return (round_with_files if on_cpu else round_on_device)(model, options, scratch)


# --- one case ------------------------------------------------------------------------------------


def measure(case: Case, options: argparse.Namespace, folder: Path) -> Row:
    """Every procedure's row, and what they have in common."""
    layer = case.layer
    ranks = ranks_of(case.clients, layer, options.rank_scale)
    replies = SOURCES[case.data](folder, layer, ranks, options.seed)
    round = Round(replies, options.device)
    known = procedures(round)
    asked = {"original", *(options.paths or NAMES)}
    chosen = {name: known[name] for name in known if name.partition(",")[0] in asked}
    took, rates, kept = alternate(round, chosen, options)
    rate = statistics.median(rates)
    floor = floor_operations(round) / rate
    exact = float64(round, statistics.median(took["original"]), options.float64_seconds)
    rows: list[Row] = []
    for name in chosen:
        row: Row = {"procedure": name, "path": kept[name].path}
        row["seconds"], row["each"] = statistics.median(took[name]), took[name]
        row["extra_bytes"] = memory(folder, name, options)
        row["certificate"] = certificate(kept[name])
        row["floors"] = row["seconds"] / floor
        row |= compared(exact, kept[name], round.rank)
        rows.append(row)
    rows.append(for_everyone(rows[0], kept["original"], round, options.device))
    for row in rows:
        row["faster"] = rows[0]["seconds"] / row["seconds"]
        if row["extra_bytes"] is not None:
            row["memory_share"] = row["extra_bytes"] / rows[0]["extra_bytes"]
    return {
        "name": case.name,
        **asdict(case),
        "device": options.device,
        "width": round.width,
        "rank": round.rank,
        "repetitions": options.repetitions,
        "transfer_seconds": None if options.device == "cpu" else round.transfer_seconds,
        "inputs": "held" if round.held else "read from disk, client by client, by all alike",
        "product_rate": rate,
        "floor_seconds": floor,
        "gap": exact.gap if exact else None,
        "note": None if exact else "float64 SVD skipped: longer than --float64-seconds",
        "rows": rows,
        "environment": environment() | gpu(options.device),
    }


def alternate(
    round: Round, chosen: Mapping[str, Procedure], options: argparse.Namespace
) -> tuple[dict[str, list[float]], list[float], dict[str, Kept]]:
    """Seconds of each procedure and its readouts, in turns; rates of products; what was kept."""
    took: dict[str, list[float]] = {name: [] for name in chosen}
    for procedure in chosen.values() if options.device != "cpu" else ():
        procedure(round)  # A GPU's libraries load and choose their kernels on first use.
    rates, kept = [product_rate(options.device)], {}
    for _ in range(options.repetitions):
        for name, procedure in chosen.items():

            def run(procedure: Procedure = procedure) -> Kept:
                done = procedure(round)
                readouts(done, round.ranks, round.replies.spec.scale)
                return done

            spent, done = seconds(run, options.device)
            took[name].append(spent)
            kept[name] = Kept(done.spectrum.truncate(round.rank).kept, done.certificate, done.path)
            rates.append(product_rate(options.device))
    return took, rates[1:], kept


def floor_operations(round: Round) -> float:
    """Of forming ΔW, or of one implicit pass there and back at the full rank, if that is less."""
    m, n = round.shape
    return min(2.0 * m * n * round.width, 4.0 * round.width * (m + n) * round.rank)


def memory(folder: Path, name: str, options: argparse.Namespace) -> int:
    """Extra bytes at the peak of one run; on the CPU in a process of its own."""
    if options.device != "cpu":
        return peak(folder, name, options.device)
    return in_child(peak, folder, name, options.device, threads=options.threads)


def peak(folder: Path, name: str, device: str) -> int:
    round = Round(Replies(folder), device)
    procedure, scale = procedures(round)[name], round.replies.spec.scale
    return peak_of(lambda: readouts(procedure(round), round.ranks, scale), device)


def certificate(kept: Kept) -> Row | None:
    known = kept.certificate
    return asdict(known) if known else None


def float64(round: Round, float32_seconds: float, limit: float) -> Float64 | None:
    """None where it would take longer than the limit; on a GPU nothing is known of its time."""
    if round.device.type == "cpu" and float32_seconds * _FLOAT64_IN_FLOAT32 > limit:
        return None
    return Float64(round)


def compared(exact: Float64 | None, kept: Kept, rank: int) -> Row:
    if exact is None:
        return {"excess": None, "distance": None}
    excess, distance = exact.compare(kept.spectrum, rank)
    separate = exact.gap is not None and exact.gap >= _GAP
    return {"excess": excess, "distance": distance if separate else None}


def for_everyone(first: Row, kept: Kept, round: Round, device: str) -> Row:
    """The original, with factors made anew for each of 1,613 clients: some made, the rest counted.

    The SVD is done once: only cutting and scaling is repeated.
    """
    scale, ranks = round.replies.spec.scale, round.replies.ranks
    some = [ranks[index % len(ranks)] for index in range(_SOME)]
    spent, _ = seconds(lambda: [readout(kept.spectrum, r, scale(r)) for r in some], device)
    once, _ = seconds(lambda: readouts(kept, round.ranks, scale), device)
    return {
        "procedure": f"original, {EVERYONE:,} readouts",
        "how": f"one SVD; {_SOME} readouts were timed and multiplied",
        "path": "dense",
        "seconds": first["seconds"] - once + spent * EVERYONE / _SOME,
        "extra_bytes": None,
    }


if __name__ == "__main__":
    main()
