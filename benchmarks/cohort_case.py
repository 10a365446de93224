"""What cohort.py trains: a base model, and clients with their data, adapters and recipe."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from flexlora.adapters import Adapter, Factors, LayerSpec, lora_scale
from flexlora.models import BaseModel, load_model
from flexlora.tasks.prompts import Encoded, encode_tasks
from flexlora.tasks.source import open_source
from flexlora.tasks.styles import Style, register_style
from flexlora.training import Recipe, Visit

SHARED = Path(__file__).parents[2] / "shared"
SMALL = SHARED / "models" / "ni-llama-6m"
LONGEST = 512  # Tokens of an example of Natural Instructions, cut where it has more.
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01  # The default of torch.optim.AdamW.
_VOCABULARY = 32_000
_TASKS_AT_A_TIME = 16
_WORDS = re.compile(r"(?P<words>ni|plain)(?:<(?P<below>\d+)|>(?P<above>\d+)|(?P<span>\d+-\d+))?")

register_style("bare", Style(lambda _, x: f"{x.instruction}\n\n{x.input}\n", special_tokens=True))
_STYLES = {"ni": "alpaca", "plain": "bare"}


# --- cases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lengths:
    """Tokens of an example, both ends included.

    words: the style of Natural Instructions' prompts, or None for random tokens.
    """

    words: str | None
    least: int = 1
    most: int = LONGEST

    @staticmethod
    def of(text: str) -> Lengths:
        if text.isdecimal() and int(text) >= 3:
            return Lengths(None, int(text), int(text))
        found = _WORDS.fullmatch(text)
        if found is None:
            raise ValueError(f"lengths are {text!r}; give ni, ni<96, ni96-256, plain>256 or 256")
        words, below, above, span = found.group("words", "below", "above", "span")
        if below:
            return Lengths(words, most=int(below) - 1)
        if above:
            return Lengths(words, least=int(above) + 1)
        return Lengths(words, *map(int, span.split("-"))) if span else Lengths(words)


@dataclass(frozen=True)
class Case:
    """A base model, examples of a batch, and how long they are."""

    model: str
    batch: int
    lengths: str

    @staticmethod
    def of(text: str) -> Case:
        try:
            model, batch, lengths = text.split(":")
            case = Case(model, int(batch), lengths)
            Lengths.of(lengths)
        except ValueError as error:
            wrong = f"{text!r} is no case ({error}); 6m:1:ni is one"
            raise argparse.ArgumentTypeError(wrong) from error
        if model not in MODELS:
            raise argparse.ArgumentTypeError(f"model is {model!r}; give one of {', '.join(MODELS)}")
        if case.batch < 1:
            raise argparse.ArgumentTypeError(f"the batch is {batch}; give 1 or more examples")
        return case

    @property
    def name(self) -> str:
        return f"{self.model}:{self.batch}:{self.lengths}"


# --- base models ---------------------------------------------------------------------------------


def _stored(name: str | Path, device: str, *, dtype: str = "float32") -> BaseModel:
    base = load_model(name, dtype)
    base.model.to(device)
    return base


def _random(
    device: str, *, hidden: int, ffn: int, layers: int, heads: int, dtype: torch.dtype
) -> BaseModel:
    """A Llama of random weights, its head tied to its embeddings."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=_VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval().requires_grad_(False)
    return BaseModel(model, SimpleNamespace(pad_token_id=0), "random", 2048)


MODELS: dict[str, Callable[[str], BaseModel]] = {
    "tiny": partial(_stored, "tiny"),
    "6m": partial(_stored, SMALL),
    "smollm2": partial(_stored, "smollm2-135m", dtype="bfloat16"),
    "110m": partial(_random, hidden=768, ffn=2048, layers=12, heads=12, dtype=torch.float32),
    "1.3b": partial(_random, hidden=2048, ffn=5504, layers=24, heads=16, dtype=torch.bfloat16),
}


# --- clients -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Client:
    """What every side is given: each call of `visit` starts the same training anew."""

    adapter: Adapter
    data: tuple[Encoded, ...]
    recipe: Recipe
    seed: int

    def visit(self) -> Visit:
        generator = torch.Generator().manual_seed(self.seed)
        return Visit(self.adapter, self.data, self.recipe, generator)

    def batches(self) -> list[list[Encoded]]:
        """The examples of each step."""
        return [[self.data[i] for i in batch] for batch in self.visit().lesson.batches()]

    @property
    def tokens(self) -> int:
        """Of all steps, padding not counted."""
        return sum(length(x) for batch in self.batches() for x in batch)


def clients_of(
    case: Case,
    layers: Sequence[LayerSpec],
    vocabulary: int,
    *,
    clients: int,
    examples: int,
    rank: int,
    steps: int | None,
) -> list[Client]:
    """As many clients, of as many examples each; `steps` cuts their one epoch.

    Of Natural Instructions: the first tasks, in an order that a seed draws, that hold enough
    examples of the case's lengths, by the 6M model's tokenizer whichever model is trained.
    Exits with a message where there are too few.
    """
    wanted = Lengths.of(case.lengths)
    recipe = Recipe("adamw", LEARNING_RATE, case.batch, max_steps=steps, weight_decay=WEIGHT_DECAY)
    found = (
        _random_data(wanted.most, vocabulary, clients, examples)
        if wanted.words is None
        else _real_data(wanted, wanted.words, clients, examples)
    )
    if len(found) < clients:
        raise SystemExit(
            f"{case.name}: {len(found)} tasks have {examples} examples of {wanted.least} to "
            f"{wanted.most} tokens, expected {clients}; lower --clients or --examples, take other "
            "lengths, or leave the prompt's template out (plain<96)"
        )
    return [Client(_adapter(layers, rank, k), data, recipe, k) for k, data in enumerate(found)]


def length(x: Encoded) -> int:
    return len(x.prompt) + len(x.response)


def heaviest(clients: Sequence[Client]) -> Client:
    """Whoever has the batch of the most tokens, with that batch alone, three times."""
    batches = ((client, batch) for client in clients for batch in client.batches())
    client, batch = max(batches, key=lambda both: sum(map(length, both[1])))
    recipe = Recipe(
        "adamw", LEARNING_RATE, client.recipe.batch_size, epochs=3, weight_decay=WEIGHT_DECAY
    )
    return Client(client.adapter, tuple(batch), recipe, client.seed)


def _real_data(
    wanted: Lengths, words: str, clients: int, examples: int
) -> list[tuple[Encoded, ...]]:
    tokenizer = load_model(SMALL).tokenizer
    folder = str(SHARED / "data" / "natural_instructions")
    options = {"path": folder, "unseen_tasks": 0, "examples_per_task": 3 * examples}
    found: list[tuple[Encoded, ...]] = []
    tasks = open_source("natural_instructions", options).load().train
    for start in range(0, len(tasks), _TASKS_AT_A_TIME):
        part = tasks[start : start + _TASKS_AT_A_TIME]
        encoded = encode_tasks(
            tokenizer, part, style=_STYLES[words], max_tokens=LONGEST, skip_too_long=True
        )
        for each in encoded.values():
            fit = tuple(x for x in each if wanted.least <= length(x) <= wanted.most)[:examples]
            found += [fit] if len(fit) == examples else []
        if len(found) >= clients:
            break
    return found[:clients]


def _random_data(
    tokens: int, vocabulary: int, clients: int, examples: int
) -> list[tuple[Encoded, ...]]:
    """The last third is the response."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(3, vocabulary, (clients, examples, tokens), generator=draw).tolist()
    cut = tokens - tokens // 3
    return [
        tuple(Encoded(f"{i}", "", tuple(row[:cut]), tuple(row[cut:]), ()) for i, row in each)
        for each in map(enumerate, rows)
    ]


def _adapter(layers: Sequence[LayerSpec], rank: int, seed: int) -> Adapter:
    """As after some rounds: neither side is zero."""
    draw = torch.Generator().manual_seed(seed)
    return Adapter(
        {
            x.name: Factors(
                0.01 * torch.randn(x.m, rank, generator=draw),
                torch.randn(rank, x.n, generator=draw) / x.n**0.5,
                lora_scale(2.0 * rank, rank),
            )
            for x in layers
        }
    )
