"""`flexlora merge` against PEFT's add_weighted_adapter(combination_type="svd").

python benchmarks/merge.py [--layers 64 --size 4096 …]: a table on stdout; JSON and a plot beside
it, by default results/benchmarks/merge.json and merge.svg. Adapters are made layer by layer from a
seed, as PEFT folders in a scratch folder, and read back from the cache of the system.

Ours is timed whole, files in and file out, and its algebra apart. PEFT works on adapters that are
loaded already and writes nothing: that alone is timed, on a few layers, and multiplied (`--full`
runs all layers for real). Both sides take turns in one process; medians. Memory is that of a fresh
process each, above what it held before.

Every repetition notes how many cores other processes had meanwhile. Where they were not idle,
threads wait for each other, and a repetition can take many times as long: run it again then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexlora import merge
from flexlora.adapters import Factors
from flexlora.formats.peft_keys import pair_keys
from flexlora.formats.peft_reader import PeftReader
from flexlora.formats.peft_writer import peft_folder
from flexlora.lowrank import best, total
from flexlora.runs.environment import environment
from merge_view import ALGEBRA, PEFT, WHOLE, draw, table

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "merge.json"
# Freed memory goes back at once, so that peaks are those of what is held.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
Options = argparse.Namespace


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(MEMORY[options.measure](options)))
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        options.scratch = Path(scratch)
        write_adapters(options)
        document = {
            "environment": {**environment(), "peft": version("peft")},
            "case": case(options),
            **measured(options),
        }
        for row in document["rows"]:
            side = "ours" if row["name"] == WHOLE else "peft" if row["name"] == PEFT else None
            row["extra_bytes"] = memory_of(side, options) if side else None
    print(table(document))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    draw(document, options.out.with_suffix(".svg"))


def arguments() -> Options:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--adapters", type=int, default=10, help="2 or more")
    add("--rank", type=int, default=16, help="of every adapter, and of what comes out")
    add("--size", type=int, default=4096, help="outputs and inputs of every layer")
    add("--layers", type=int, default=64)
    add("--peft-layers", type=int, default=2, help="layers that PEFT is timed on, then multiplied")
    add("--full", action="store_true", help="time PEFT on all layers (hours at full size)")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--seed", type=int, default=0)
    add("--scratch", type=Path, default=None, help="where adapters are put (default: temporary)")
    add("--out", type=Path, default=OUT)
    add("--measure", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.adapters < 2:
        parser.error("--adapters is below 2; of one adapter nothing would be cut off")
    options.peft_layers = (
        options.layers if options.full else min(options.peft_layers, options.layers)
    )
    return options


def case(options: Options) -> dict[str, Any]:
    names = ("adapters", "rank", "size", "layers", "peft_layers", "full", "repeats", "seed")
    return {name: getattr(options, name) for name in names}


# --- adapters ------------------------------------------------------------------------------------


def weights(options: Options) -> list[float]:
    """Some larger, some smaller, one negative; their sum is 1."""
    raw = [1.0 + 0.1 * index for index in range(options.adapters)]
    raw[-1] *= -0.5
    return [weight / sum(raw) for weight in raw]


def folders(options: Options) -> list[Path]:
    return [options.scratch / f"adapter-{index}" for index in range(options.adapters)]


def write_adapters(options: Options) -> None:
    """PEFT folders of α = 2r. The directions of a layer decay: each is 0.8 times the one before."""
    names = [f"layers.{index}" for index in range(options.layers)]
    keys = [key for name in names for key in pair_keys(name)]
    decay = 0.8 ** torch.arange(options.rank, dtype=torch.float32)
    for index, folder in enumerate(folders(options)):
        generator = torch.Generator().manual_seed(options.seed * 1000 + index)
        with peft_folder(folder, keys, base="", task_type=None) as writer:
            for name in names:
                b = torch.randn(options.size, options.rank, generator=generator) * decay
                a = torch.randn(options.rank, options.size, generator=generator)
                writer.add(name, Factors(0.02 * b, a / options.size**0.5, 2.0))


class Stack(nn.Module):
    """As many linear layers as PEFT is to merge; their own weights play no part in it."""

    def __init__(self, layers: int, size: int) -> None:
        super().__init__()
        plain = (nn.Linear(size, size, bias=False, device="meta") for _ in range(layers))
        self.layers = nn.ModuleList(layer.to_empty(device="cpu") for layer in plain)


def peft_model(options: Options) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It has fewer layers than the folders.
        first, *others = folders(options)
        stack = Stack(options.peft_layers, options.size)
        model = PeftModel.from_pretrained(stack, first, adapter_name=first.name)
        for folder in others:
            model.load_adapter(folder, adapter_name=folder.name)
    return model


def merge_in_peft(model: Any, options: Options) -> None:
    model.base_model.add_weighted_adapter(
        [folder.name for folder in folders(options)],
        weights(options),
        "merged",
        combination_type="svd",
        svd_rank=options.rank,
    )


# --- seconds -------------------------------------------------------------------------------------


def measured(options: Options) -> dict[str, Any]:
    """Rows with seconds, and the distance of both results from float64 on the first layer."""
    model = peft_model(options)
    layers = [layer_factors(options, f"layers.{index}") for index in range(options.peft_layers)]
    out = options.scratch / "merged"
    seconds: dict[str, list[float]] = {WHOLE: [], ALGEBRA: [], PEFT: []}
    others = []
    for _ in range(options.repeats):
        began = (time.perf_counter(), busy_seconds())
        remove(out)
        arguments = {"weights": weights(options), "rank": options.rank}
        seconds[WHOLE].append(timed(lambda: merge(folders(options), out, **arguments)))  # noqa: B023
        took = timed(lambda: [algebra(layer, options) for layer in layers])
        seconds[ALGEBRA].append(took * options.layers / len(layers))
        took = timed(lambda: merge_in_peft(model, options))
        seconds[PEFT].append(took * options.layers / len(layers))
        theirs = peft_result(model)
        model.delete_adapter("merged")
        others.append((busy_seconds() - began[1]) / (time.perf_counter() - began[0]))
    with PeftReader(out) as reader:
        ours = reader.factors("layers.0")
    times = f"{options.layers} × one layer's (mean of {len(layers)})"
    how = {
        WHOLE: "measured",
        ALGEBRA: times,
        PEFT: "measured" if options.full else times,
    }
    rows = [
        {
            "name": name,
            "how": how[name],
            "seconds": statistics.median(found),
            "each": found,
            "faster_than_peft": statistics.median(seconds[PEFT]) / statistics.median(found),
        }
        for name, found in seconds.items()
    ]
    return {
        "rows": rows,
        "cores_of_others": others,
        "float64": against_float64(layers[0], ours, theirs, options),
    }


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def busy_seconds() -> float:
    """Seconds that all cores together worked for other processes than this one (Linux)."""
    user, nice, system, _, _, *more = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    ticks = sum(map(int, (user, nice, system, *more)))
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def remove(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink()
    if folder.exists():
        folder.rmdir()


def layer_factors(options: Options, name: str) -> list[Factors]:
    found = []
    for folder in folders(options):
        with PeftReader(folder) as reader:
            found.append(reader.factors(name))
    return found


def algebra(layer: Sequence[Factors], options: Options) -> None:
    """One layer from factors in memory to factors in memory, as `flexlora merge` computes it."""
    parts = zip(weights(options), (factors.product() for factors in layer), strict=True)
    width = sum(factors.rank for factors in layer)
    best(total(parts, layer[0].shape, width), options.rank).kept.low_rank()


def peft_result(model: Any) -> Factors:
    layer = model.base_model.model.layers[0]
    b, a = (side["merged"].weight.detach().clone() for side in (layer.lora_B, layer.lora_A))
    return Factors(b, a, layer.scaling["merged"])


def against_float64(
    layer: Sequence[Factors], ours: Factors, theirs: Factors, options: Options
) -> dict[str, float]:
    """Relative distances from the dense float64 result T₆₄ = best rank-r part of Σ w ΔW.

    distance: ‖T − T₆₄‖ / ‖T₆₄‖ (the gap σ_r / σ_{r+1} says how well that is posed); excess:
    (‖ΔW − T‖ − least) / least.
    """
    exact = torch.zeros(layer[0].shape, dtype=torch.float64)
    for weight, factors in zip(weights(options), layer, strict=True):
        exact += weight * dense(factors)
    u, s, vh = torch.linalg.svd(exact, full_matrices=False)
    r = options.rank
    wanted = (u[:, :r] * s[:r]) @ vh[:r]
    least, size = float(s[r:].norm()), float(s[:r].norm())
    del u, vh
    found = {"gap": float(s[r - 1] / s[r])}
    for name, factors in (("ours", ours), ("peft", theirs)):
        got = dense(factors)
        found[f"{name}_distance"] = float((got - wanted).norm()) / size
        found[f"{name}_excess"] = (float((exact - got).norm()) - least) / least
    return found


def dense(factors: Factors) -> Tensor:
    return factors.scale * (factors.b.double() @ factors.a.double())


# --- memory --------------------------------------------------------------------------------------


def memory_of(side: str, options: Options) -> int:
    """Peak bytes of one side in a process of its own, beyond what it held before it began."""
    shape = (f"--{name}={getattr(options, name)}" for name in ("adapters", "rank", "size"))
    rest = (f"--layers={options.layers}", "--peft-layers=1", f"--threads={options.threads}")
    command = [sys.executable, __file__, *shape, *rest, f"--measure={side}"]
    done = subprocess.run(
        [*command, f"--scratch={options.scratch}"],
        env={**os.environ, **MALLOC},
        check=True,
        stdout=subprocess.PIPE,
    )
    return int(json.loads(done.stdout.splitlines()[-1]))


def our_memory(options: Options) -> int:
    """All of it: folders opened, layers read, merged and written."""
    out = options.scratch / "measured"
    with peak() as found:
        merge(folders(options), out, weights=weights(options), rank=options.rank)
    remove(out)
    return found[0]


def peft_memory(options: Options) -> int:
    """Of merging one layer alone: base model and adapters are there already."""
    model = peft_model(options)
    with peak() as found:
        merge_in_peft(model, options)
    return found[0]


MEMORY = {"ours": our_memory, "peft": peft_memory}


@contextmanager
def peak() -> Iterator[list[int]]:
    """A list whose one number is, in the end, how far resident memory rose at most (Linux)."""
    torch.ones(512, 512) @ torch.ones(512, 512)  # The threads' own stacks and buffers come first.
    Path("/proc/self/clear_refs").write_text("5")
    before, found = resident("VmRSS"), [0]
    yield found
    found[0] = resident("VmHWM") - before


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
