"""Does a higher LoRA rank help when all data is in one place? A centralised sweep.

    PYTHONPATH=src python experiments/tiny_model/sweep.py --model src/flexlora/models/tiny \\
        --out experiments/tiny_model/results/sweep.json

Trains on the mixed training families; scores held-out examples of the same tasks and the
development families. The fresh families are never touched here.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from pretraining_text import PROMPT
from transformers import AutoModelForCausalLM, AutoTokenizer

from flexlora.tasks.embedded import DEVELOPMENT_FAMILIES, TRAIN_FAMILIES, embedded_tasks

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DATA_SEED, ORDER_SEED, WEIGHT_SEED = 11, 12, 13


@dataclass(frozen=True)
class Item:
    prompt: str
    response: str
    task: str


@dataclass(frozen=True)
class Scores:
    loss: float
    exact: float
    rouge_l: float


def items(families: Sequence[str], per_task: int, skip: int) -> list[Item]:
    """Return examples `skip` to `skip + per_task` of each task."""
    return [
        Item(
            PROMPT.format(instruction=example.instruction, input=example.input),
            example.references[0],
            task.name,
        )
        for task in embedded_tasks(families, skip + per_task, DATA_SEED)
        for example in task.examples[skip:]
    ]


def batch_of(tokenizer, part: Sequence[Item]):  # type: ignore[no-untyped-def]
    """Pad on the right; only the response and its EOS are learnt."""
    rows = []
    for item in part:
        prompt = tokenizer(item.prompt)["input_ids"]
        response = [*tokenizer(item.response)["input_ids"], tokenizer.eos_token_id]
        rows.append((prompt + response, [-100] * len(prompt) + response))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([r + [tokenizer.pad_token_id] * (width - len(r)) for r, _ in rows])
    labels = torch.tensor([r + [-100] * (width - len(r)) for _, r in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": (labels != -100) | (ids != 0)}


def rouge_l(guess: str, truth: str) -> float:
    """F1 of the longest common subsequence of words, letters lowered, marks dropped."""
    a, b = ("".join(c if c.isalnum() else " " for c in s.lower()).split() for s in (guess, truth))
    row = [0] * (len(b) + 1)
    for x in a:
        previous = row
        row = [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(previous[j + 1], row[j]))
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 0.0


@torch.no_grad()
def score(model, tokenizer, held_out: Sequence[Item]) -> tuple[Scores, dict[str, float]]:  # type: ignore[no-untyped-def]
    """Return mean scores per example, and the exact match of each family."""
    model.eval()
    loss = tokens = 0.0
    exact: dict[str, list[float]] = {}
    rouge: list[float] = []
    for start in range(0, len(held_out), 64):
        part = held_out[start : start + 64]
        batch = batch_of(tokenizer, part)
        count = (batch["labels"] != -100).sum().item()
        loss += model(**batch).loss.item() * count
        tokens += count
        prompts = tokenizer(
            [item.prompt for item in part], padding=True, padding_side="left", return_tensors="pt"
        )
        made = model.generate(**prompts, max_new_tokens=28, do_sample=False)
        texts = tokenizer.batch_decode(
            made[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for item, text in zip(part, texts, strict=True):
            hit = float(text.strip() == item.response)
            exact.setdefault(item.task, []).append(hit)
            rouge.append(rouge_l(text, item.response))
    families: dict[str, list[float]] = {}
    for task, hits in exact.items():
        families.setdefault(task.split(".")[0], []).extend(hits)
    all_hits = [hit for hits in exact.values() for hit in hits]
    means = Scores(loss / tokens, sum(all_hits) / len(all_hits), sum(rouge) / len(rouge))
    return means, {name: sum(hits) / len(hits) for name, hits in families.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="*", default=[0, 1, 4, 25])
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--per-task", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train = items(TRAIN_FAMILIES, args.per_task, skip=args.held_out)
    tests = {
        "train tasks": items(TRAIN_FAMILIES, args.held_out, skip=0),
        "development": items(DEVELOPMENT_FAMILIES, args.held_out * 2, skip=0),
    }
    settings = {key: value for key, value in vars(args).items() if key not in ("model", "out")} | {
        "train_examples": len(train),
        "held_out": {name: len(held_out) for name, held_out in tests.items()},
    }
    results: list[dict[str, object]] = []
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def report(model, rank: int, rate: float, seconds: float) -> None:  # type: ignore[no-untyped-def]
        for name, held_out in tests.items():
            means, families = score(model, tokenizer, held_out)
            results.append(
                {
                    "rank": rank,
                    "rate": rate,
                    "data": name,
                    "seconds": round(seconds),
                    **{key: round(value, 4) for key, value in asdict(means).items()},
                    "exact_by_family": {key: round(value, 3) for key, value in families.items()},
                }
            )
            print(results[-1], flush=True)
        # After every run, so that a stopped sweep keeps what it has.
        args.out.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")

    if 0 in args.ranks:  # the base as it stands
        base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        report(base, 0, 0.0, 0)
    for rank in (rank for rank in args.ranks if rank):
        for rate in args.rates:
            started = time.time()
            torch.manual_seed(WEIGHT_SEED)
            model = get_peft_model(
                AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
                LoraConfig(r=rank, lora_alpha=16, target_modules=LAYERS, task_type="CAUSAL_LM"),
            )
            optimizer = torch.optim.AdamW(
                [p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0
            )
            rng = random.Random(ORDER_SEED)
            model.train()
            for _ in range(args.epochs):
                order = rng.sample(train, len(train))
                for start in range(0, len(order), 16):
                    loss = model(**batch_of(tokenizer, order[start : start + 16])).loss
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            report(model, rank, rate, time.time() - started)


if __name__ == "__main__":
    main()
