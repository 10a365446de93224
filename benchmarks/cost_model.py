"""The cost model against what training takes on this CPU: peak memory, and seconds a step.

python benchmarks/cost_model.py                  all cells, a quarter of an hour
python benchmarks/cost_model.py --cells 0 3 8    some of them; the others stay as they are

Every cell is a fresh process with one thread that trains random Llamas for two steps on examples
of one length, as `flexlora` trains: memory is the peak of training on top of the model, what came
from the server included, and the weights beside it; seconds are those of a step after the first, in
a process of their own, for the allocator that gives everything back is slower; the processor's
rates are what `flexlora probe` measures, in the same process. Seconds are those that the one thread
was at work: on an idle core, what a clock shows. The first two cells are what `MOVED` and `CALL` of
`allocation.work` were set by, and are not scored. Bases in 4 and 8 bits have no seconds: the model
does not foresee what unpacking takes. Writes results/benchmarks/cost_model.json and .svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from flexlora.adapters import Adapter, Factors
from flexlora.allocation.devices import Device
from flexlora.allocation.memory import Setting, training_memory
from flexlora.allocation.work import step_seconds
from flexlora.formats.atomic import atomic_write
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.checkpointing import checkpoint_layers
from flexlora.models.quantised import NONE, quantise_options, scales
from flexlora.models.shape import shape_of
from flexlora.models.weights import load_weights, outline
from flexlora.models.widened import lacks_bfloat16, widen
from flexlora.planning.probe import Rates, rates
from flexlora.runs.environment import environment
from flexlora.seeds import seeded
from flexlora.tasks.prompts import Encoded
from flexlora.training import Recipe, Visit, train_cohort
from flexlora.training.foreseen import footprint_of
from flexlora.training.played import built
from measuring import in_child, new_file, peak_of

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "cost_model.json"
MODELS = {
    # name: width, feed-forward width, blocks, vocabulary
    "small": (256, 688, 4, 2048),
    "medium": (512, 1376, 8, 8192),
}
_TURNS = 3
_STEPS = 3


@dataclass(frozen=True)
class Cell:
    model: str
    dtype: str
    rank: int
    batch: int
    length: int
    cohort: int = 1
    checkpointing: bool = False
    quantise: str = NONE

    @property
    def setting(self) -> Setting:
        return Setting(
            batch=self.batch,
            length=self.length,
            dtype=self.dtype,
            checkpointing=self.checkpointing,
            quantise=self.quantise,
            cohort=self.cohort,
        )


CELLS = (
    Cell("small", "float32", 8, 2, 128),
    Cell("small", "bfloat16", 8, 2, 512),
    Cell("small", "float32", 1, 1, 64),
    Cell("small", "float32", 256, 1, 64),
    Cell("small", "float32", 256, 8, 64),
    Cell("small", "float32", 64, 4, 512),
    Cell("small", "float32", 1, 8, 256),
    Cell("small", "float32", 8, 2, 64, cohort=8),
    Cell("small", "float32", 64, 1, 256, cohort=8),
    Cell("small", "bfloat16", 1, 8, 64),
    Cell("small", "bfloat16", 256, 2, 512),
    Cell("small", "bfloat16", 64, 8, 256),
    Cell("small", "bfloat16", 8, 1, 128, cohort=8),
    Cell("small", "bfloat16", 256, 1, 64, cohort=8),
    Cell("small", "float32", 64, 4, 256, checkpointing=True),
    Cell("small", "bfloat16", 8, 4, 512, checkpointing=True),
    Cell("medium", "float32", 1, 1, 128),
    Cell("medium", "float32", 256, 2, 64),
    Cell("medium", "float32", 8, 4, 256),
    Cell("medium", "float32", 64, 1, 512),
    Cell("medium", "float32", 16, 1, 64, cohort=8),
    Cell("medium", "bfloat16", 1, 2, 64),
    Cell("medium", "bfloat16", 256, 1, 256),
    Cell("medium", "bfloat16", 64, 2, 512),
    Cell("medium", "bfloat16", 8, 1, 64, cohort=8),
    Cell("medium", "bfloat16", 16, 4, 128, checkpointing=True),
    Cell("medium", "bfloat16", 8, 2, 64, quantise="4bit"),
    Cell("medium", "float32", 64, 2, 128, quantise="4bit"),
    Cell("medium", "bfloat16", 8, 2, 64, quantise="8bit"),
    Cell("medium", "float32", 64, 2, 128, quantise="8bit"),
)
CALIBRATION = 2


def config_of(model: str) -> Any:
    from transformers import LlamaConfig

    width, inner, blocks, vocabulary = MODELS[model]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )


# --- measured, in a process of its own -----------------------------------------------------------


def prepared(cell: Cell) -> tuple[AdaptedModel, Callable[[int], object]]:
    """The model, and what trains so many steps; whatever is done once is done already."""
    torch.manual_seed(0)
    model = whole(cell)

    def train(
        steps: int,
        rank: int = cell.rank,
        batch: int = cell.batch,
        length: int = cell.length,
        cohort: int = cell.cohort,
    ) -> object:
        recipe = Recipe(optimiser="adamw", learning_rate=1e-3, batch_size=batch, max_steps=steps)
        data = [Encoded("", "", (1,), tuple(range(1, length)), ()) for _ in range(batch * steps)]
        visits = [
            Visit(
                Adapter(
                    {
                        x.name: Factors(torch.rand(x.m, rank), torch.rand(rank, x.n), 1e-3)
                        for x in model.layers
                    }
                ),
                data,
                recipe,
                seeded(k),
            )
            for k in range(cohort)
        ]
        return train_cohort(model, visits)

    train(1, rank=1, batch=1, length=8, cohort=1)
    return model, train


def whole(cell: Cell) -> AdaptedModel:
    """With random weights, packed as `load_model` packs them where the cell says so."""
    from transformers import AutoModelForCausalLM

    config = config_of(cell.model)
    if cell.quantise == NONE:
        wide, again = lacks_bfloat16(), cell.checkpointing
        return built(config, cell.model, cell.dtype, checkpointing=again, widened=wide)
    dtype, cpu = getattr(torch, cell.dtype), torch.device("cpu")
    options = quantise_options(cell.quantise, cell.model, dtype, cpu)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
        where = {"pretrained_model_name_or_path": folder, "local_files_only": True}
        model = load_weights(where, cell.model, config, dtype, cpu, options)
    if lacks_bfloat16():
        widen(model)
    model.eval().requires_grad_(False)
    if cell.checkpointing:
        checkpoint_layers(model, cell.model)
    tokenizer = SimpleNamespace(pad_token_id=0)
    return AdaptedModel(BaseModel(model, tokenizer, cell.model, config.max_position_embeddings))


def peak(cell: Cell) -> tuple[int, int]:
    """Bytes of the weights, and of training on top of them."""
    model, train = prepared(cell)
    weights = sum(p.nbytes for p in model.model.parameters())
    weights += sum(x.nbytes for _, x in scales(model.model))
    return weights, peak_of(lambda: train(2), "cpu")


def speed(cell: Cell) -> tuple[float, Rates]:
    """Seconds of a step, and what the processor does meanwhile; the quickest of each. Those that
    this one thread was at work: on an idle core, what a clock shows."""
    _, train = prepared(cell)
    cpu = torch.device("cpu")
    few: list[float] = []
    many: list[float] = []
    seen: list[Rates] = []
    for _ in range(_TURNS):
        seen.append(rates(cpu, sorted({"float32", cell.dtype}), time.process_time))
        few.append(took(partial(train, 1)))
        many.append(took(partial(train, 1 + _STEPS)))
    flops = {dtype: max(x.flops[dtype] for x in seen) for dtype in seen[0].flops}
    return (min(many) - min(few)) / _STEPS, Rates(flops, max(x.bandwidth for x in seen))


def took(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


# --- the script ----------------------------------------------------------------------------------


def measured(cell: Cell, *, timed: bool) -> dict[str, Any]:
    weights, training = in_child(peak, cell, threads=1)
    row: dict[str, Any] = {**asdict(cell), "weights": weights, "training": training}
    if timed and cell.quantise == NONE:
        seconds, seen = in_child(speed, cell, threads=1, frugal=False)
        row |= {"seconds": seconds, "rates": seen.flops, "bandwidth": seen.bandwidth}
    return row


def foreseen(cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
    """The row, with what the model says of it and how far that is off."""
    config = config_of(cell.model)
    shape = shape_of(outline(config, cell.model, None), cell.model)
    footprint = footprint_of(
        config,
        cell.model,
        dtype=cell.dtype,
        length=cell.length,
        checkpointing=cell.checkpointing,
        alone=cell.batch * cell.cohort == 1,
        widened=lacks_bfloat16(),
    )
    ranks = {x.name: cell.rank for x in shape.layers}
    told = training_memory(shape, footprint, ranks, cell.setting)
    found = {
        "foreseen_training": told.training,
        "foreseen_weights": told.weights,
        "off": told.peak / (row["weights"] + row["training"]) - 1,
        "off_training": told.training / row["training"] - 1,
    }
    if "seconds" in row:
        device = Device(1e12, row["rates"], row["bandwidth"], 1e6, 1e6)
        seconds = step_seconds(shape, footprint, ranks, cell.setting, device)
        found |= {"foreseen_seconds": seconds, "off_seconds": seconds / row["seconds"] - 1}
    return row | found


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst error of the cells that nothing was set by."""
    scored = [row for row in rows if not row["calibration"]]
    found: dict[str, Any] = {"cells": len(scored)}
    for key in ("off", "off_training", "off_seconds"):
        values = [abs(row[key]) for row in scored if key in row]
        if values:
            found[key] = {"median": statistics.median(values), "worst": max(values)}
    return found


def show(row: dict[str, Any]) -> None:
    words = (
        f"{row['model']:6} {row['dtype']:8} rank {row['rank']:3} "
        f"{row['cohort']} × {row['batch']} × "
        f"{row['length']:3}{' ck' if row['checkpointing'] else '   '} "
        f"{'' if row['quantise'] == NONE else row['quantise'] + ' '}"
        f"training {row['training'] / 1e6:7.1f} MB, foreseen {row['foreseen_training'] / 1e6:7.1f} "
        f"({row['off_training']:+.1%}); with weights {row['off']:+.1%}"
    )
    if "seconds" in row:
        words += (
            f"; {row['seconds']:.3f} s, foreseen {row['foreseen_seconds']:.3f} "
            f"({row['off_seconds']:+.0%})"
        )
    print(words + (" (set by it)" if row["calibration"] else ""), flush=True)


def plot(rows: Sequence[dict[str, Any]], out: Path) -> None:
    import altair as alt
    import vl_convert

    values = [
        {
            "measured": row["training"] / 1e6,
            "foreseen": row["foreseen_training"] / 1e6,
            "cell": f"{row['model']}, {row['dtype']}",
        }
        for row in rows
    ]
    ends = [min(x["measured"] for x in values), max(x["measured"] for x in values)]
    scale = alt.Scale(type="log")
    line = alt.Chart(alt.Data(values=[{"measured": x, "foreseen": x} for x in ends])).mark_line(
        color="#999999"
    )
    points = alt.Chart(alt.Data(values=values)).mark_point(filled=True, size=60)
    chart = (line.encode(x="measured:Q", y="foreseen:Q")) + points.encode(
        alt.X("measured:Q", title="peak of training, measured (MB)", scale=scale),
        alt.Y("foreseen:Q", title="foreseen (MB)", scale=scale),
        alt.Color("cell:N", title=None),
    )
    atomic_write(out, vl_convert.vegalite_to_svg(chart.properties(width=360, height=360).to_json()))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", type=int, default=list(range(len(CELLS))))
    parser.add_argument("--untimed", action="store_true", help="memory alone")
    parser.add_argument("--again", action="store_true", help="foresee what is measured already")
    parser.add_argument("--out", type=new_file, default=OUT)
    options = parser.parse_args(arguments)
    held: dict[str, Any] = (
        json.loads(options.out.read_text())["cells"] if options.out.is_file() else {}
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for place in options.cells:
        cell = CELLS[place]
        row = held[str(place)] if options.again else measured(cell, timed=not options.untimed)
        row = foreseen(cell, row)
        row["calibration"] = place < CALIBRATION
        held[str(place)] = row
        show(row)
        held = dict(sorted(held.items(), key=lambda item: int(item[0])))
        told = summary(list(held.values()))
        document = {"environment": environment(), "cells": held, "summary": told}
        atomic_write(options.out, json.dumps(document, indent=2) + "\n")
    print(json.dumps(summary(list(held.values()))))
    plot(list(held.values()), options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
