"""Scoring of clients' examples: losses and greedy texts, against the usual loop over clients.

python benchmarks/scoring.py smollm2 6m      MODEL as in cohort.py

A table on stdout; JSON in results/benchmarks/scoring.json. Both sides score the same adapter, one
of random numbers for all linear layers, not merged, on prompts of Natural Instructions, a task a
client, cut at 512 tokens by the 6M model's tokenizer. The usual loop is PEFT's model, one client
after another: `model.generate` on the client's prompts, padded on the left, and a forward pass with
labels. Ours reads each batch in one row without padding, what its examples begin with alike once
(a task's definition), and rows that are done leave. They take turns in one process; medians. Texts
are compared: in bfloat16 a tie of the argmax may fall either way, so the share that is equal is
told.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cohort_case import MODELS, Case, Client, clients_of
from flexlora.adapters import Adapter, Factors
from flexlora.evaluation.generate import generate
from flexlora.evaluation.loss import continuation_losses
from flexlora.models import AdaptedModel
from flexlora.runs.environment import environment
from measuring import begin, new_file, product_rate, seconds
from usual_loop import PeftModel, padded, put

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "scoring.json"
BATCH = 16
# tiny knows too few words for these prompts, and 1.3b is not for two cores.
SCORED = [name for name in MODELS if name not in ("tiny", "1.3b")]
Row = dict[str, Any]


def noisy(adapter: Adapter) -> Adapter:
    """The same with a B that is not zero, small beside the base."""
    draw = torch.Generator().manual_seed(0)
    layers = {
        name: Factors(torch.randn(x.b.shape, generator=draw) * 1e-3, x.a, x.scale)
        for name, x in adapter.items()
    }
    return Adapter(layers)


def usual_texts(peft: PeftModel, clients: Sequence[Client], most: int) -> list[str]:
    texts = []
    for client in clients:
        width = max(len(x.prompt) for x in client.data)
        ids = [[peft.pad] * (width - len(x.prompt)) + list(x.prompt) for x in client.data]
        mask = [[0] * (width - len(x.prompt)) + [1] * len(x.prompt) for x in client.data]
        made = peft.model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=peft.pad,
        )
        texts += [
            peft.tokenizer.decode(row[width:], skip_special_tokens=True).strip() for row in made
        ]
    return texts


@torch.no_grad()
def usual_losses(peft: PeftModel, clients: Sequence[Client]) -> list[float]:
    return [
        float(peft.model(**padded(client.data, peft.pad, peft.device), use_cache=False).loss)
        for client in clients
    ]


def our_texts(model: AdaptedModel, clients: Sequence[Client], most: int) -> list[str]:
    prompts = [x.prompt for client in clients for x in client.data]
    return list(generate(model, prompts, batch_size=BATCH, max_new_tokens=most))


def our_losses(model: AdaptedModel, clients: Sequence[Client]) -> list[float]:
    """The mean over each client's tokens, as the usual loop's."""
    rows = [(x.prompt, x.response) for client in clients for x in client.data]
    found = iter(continuation_losses(model, rows, batch_size=BATCH))
    means = []
    for client in clients:
        tokens = sum(len(x.response) for x in client.data)
        means.append(sum(next(found).total for _ in client.data) / tokens)
    return means


def measure(name: str, options: argparse.Namespace) -> list[Row]:
    case = Case(name, 1, "ni")
    peft = PeftModel(MODELS[name]("cpu"), options.rank)
    peft.model.eval()
    model = AdaptedModel(MODELS[name]("cpu"), ["all-linear"])
    vocabulary = model.model.config.vocab_size
    clients = clients_of(
        case,
        model.layers,
        vocabulary,
        clients=options.clients,
        examples=options.examples,
        rank=options.rank,
        steps=None,
    )
    adapter = noisy(clients[0].adapter)
    put(peft, adapter)
    model.set_delta({layer: x.product() for layer, x in adapter.items()})
    works = {
        "losses": (partial(usual_losses, peft, clients), partial(our_losses, model, clients)),
        "texts": (
            partial(usual_texts, peft, clients, options.new_tokens),
            partial(our_texts, model, clients, options.new_tokens),
        ),
    }
    rows = []
    for what, sides in works.items():
        took: tuple[list[float], list[float]] = ([], [])
        found: list[Any] = [None, None]
        for _ in range(options.repetitions):
            for side, work in enumerate(sides):
                spent, found[side] = seconds(work, "cpu")
                took[side].append(spent)
        usual, ours = map(statistics.median, took)
        row = {"model": name, "what": what, "usual": usual, "ours": ours, "each": took}
        if what == "texts":
            row["equal"] = statistics.fmean(x == y for x, y in zip(*found, strict=True))
        else:
            row["off"] = max(abs(x - y) / x for x, y in zip(*found, strict=True))
        rows.append({**row, "faster": usual / ours})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=SCORED)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--examples", type=int, default=4, help="of each client")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=new_file, default=OUT)
    options = parser.parse_args()
    begin(options.threads)
    rows = []
    for name in options.models:
        rows += (found := measure(name, options))
        show(found, options)
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "models")}
    document = {
        **settings,
        "batch": BATCH,
        "product_rate": product_rate("cpu"),
        "environment": environment(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")


def show(rows: Sequence[Row], options: argparse.Namespace) -> None:
    table = Table(title=f"{options.clients} clients × {options.examples} examples")
    for title in ("model", "what", "usual s", "ours s", "faster", "same"):
        table.add_column(title, justify="left" if title in ("model", "what") else "right")
    for row in rows:
        same = f"{row['equal']:.0%} equal" if "equal" in row else f"within {row['off']:.0e}"
        shown = (f"{row['usual']:.1f}", f"{row['ours']:.1f}", f"{row['faster']:.2f} ×", same)
        table.add_row(row["model"], row["what"], *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
