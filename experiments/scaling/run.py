"""What rank is worth under each scaling, centrally and federated, on facts: `results.json`.

    python experiments/scaling/run.py

One process, one thread; about ten minutes. Each part is kept when it is done, and not made again;
`table.md` is made from what is kept.
"""

from __future__ import annotations

import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import torch

from flexlora.adapters import Adapter, Factors, Scaling, lora_scale
from flexlora.evaluation.loss import continuation_losses
from flexlora.models import AdaptedModel, load_model
from flexlora.rules import Contribution, Listed, Rule, Spec, State, Summary, make_rule
from flexlora.rules.spectral import fresh_rows
from flexlora.seeds import seed_of, seeded
from flexlora.tasks.prompts import Encoded
from flexlora.training import Recipe, Trained, Visit, train_cohort

HERE = Path(__file__).parent
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
RATES = (1e-3, 3e-3, 1e-2)
ALPHA, DIGITS = 16.0, 4
CHANCE = DIGITS * math.log2(10)  # Bits of a fact.

RANKS, FACTS, EPOCHS, SEEDS = (2, 8, 32), 128, 32, (0, 1)

CLIENTS = (2, 2, 2, 2, 8, 8, 32, 32)  # The rank of each.
HELD, ROUNDS, LOCAL_EPOCHS = 16, 36, 3
RULES = ("flexlora", "flexlora-increment")
OPTIONS = {"flexlora-increment": {"directions": "top"}}  # What it was when this was measured.
TUNING_SEED, FRESH_SEEDS = 100, (0, 1)

SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


@cache
def model() -> AdaptedModel:
    return AdaptedModel(load_model("tiny"), ["q_proj", "v_proj"])


def facts(count: int, seed: int) -> list[Encoded]:
    """So many made-up names, each with random digits: nothing but training can tell them."""
    draw = random.Random(seed)
    names: dict[str, str] = {}
    while len(names) < count:
        name = "".join(draw.choices(SYLLABLES, k=3)).capitalize()
        names[name] = "".join(draw.choices("0123456789", k=DIGITS))
    tokenizer = model().tokenizer

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    end = (tokenizer.eos_token_id,)
    return [
        Encoded(name, "fact", ids(name + ":"), ids(digits) + end, (digits,))
        for name, digits in names.items()
    ]


def bits(data: Sequence[Encoded]) -> list[float]:
    """Of each fact, what the model as it stands knows beyond chance: 0 … 13.3 bits."""
    losses = continuation_losses(model(), [(x.prompt, x.response) for x in data], batch_size=64)
    return [max(0.0, CHANCE - (x.total - x.end) / math.log(2.0)) for x in losses]


def known(learned: Mapping[str, Any], data: Sequence[Encoded]) -> list[float]:
    """The same with this on the base: layer → `LowRank`."""
    model().set_delta(learned)
    try:
        return bits(data)
    finally:
        model().set_delta({})


def drawn(*names: str | int) -> torch.Generator:
    return seeded(seed_of(*names))


def centrally(seed: int) -> list[dict[str, Any]]:
    """All facts in one place, every rank, scaling and rate; all start from the rows of one A."""
    data = facts(FACTS, seed)
    cases: dict[tuple[int, float, float], list[Scaling]] = {}
    for rank in RANKS:
        for scaling in SCALINGS:
            scale = lora_scale(ALPHA, rank, scaling, min(RANKS))
            for rate in RATES:
                cases.setdefault((rank, scale, rate), []).append(scaling)
    visits = []
    for rank, scale, rate in cases:
        draw = drawn(seed, "rows")
        layers = {
            x.name: Factors(torch.zeros(x.m, rank), fresh_rows(32, x.n, draw)[:rank], scale)
            for x in model().layers
        }
        order = drawn(seed, "order")
        visits.append(Visit(Adapter(layers), data, Recipe("adamw", rate, 8, EPOCHS), order))
    found = []
    outcomes = train_cohort(model(), visits)
    for ((rank, scale, rate), scalings), outcome in zip(cases.items(), outcomes, strict=True):
        diverged = not isinstance(outcome, Trained)
        learned = {} if diverged else {n: f.product() for n, f in outcome.adapter.items()}
        score = 0.0 if diverged else sum(known(learned, data)) / (FACTS * CHANCE)
        found += [
            {
                "scaling": scaling,
                "rank": rank,
                "scale": scale,
                "rate": rate,
                "seed": seed,
                "share": score,
                "diverged": diverged,
            }
            for scaling in scalings
        ]
    return found


def federated(rule_name: str, scaling: Scaling, rate: float, seed: int) -> dict[str, Any]:
    """Eight clients of sixteen facts each, all in every round; the share by the owner's rank."""
    rule = make_rule(rule_name, OPTIONS.get(rule_name))
    data = facts(HELD * len(CLIENTS), seed)
    parts = [data[i * HELD : (i + 1) * HELD] for i in range(len(CLIENTS))]
    ranks = [{x.name: rank for x in model().layers} for rank in CLIENTS]
    spec = Spec.of(model().layers, ranks, ALPHA, scaling)
    state = rule.init(spec, drawn(seed, "init"))
    diverged = False
    for _ in range(ROUNDS):
        after = play_round(rule, state, ranks, parts, rate, seed)
        if after is None:
            diverged = True
            break
        state = after
    shares = [x / CHANCE for x in known(rule.learned(state), data)]
    owners = [rank for rank in CLIENTS for _ in range(HELD)]
    by_rank = {
        str(rank): mean([x for x, owner in zip(shares, owners, strict=True) if owner == rank])
        for rank in sorted(set(CLIENTS))
    }
    return {
        "rule": rule_name,
        "scaling": scaling,
        "rate": rate,
        "seed": seed,
        "share": 0.0 if diverged else mean(shares),
        "by_rank": by_rank,
        "diverged": diverged,
    }


def play_round(
    rule: Rule,
    state: State,
    ranks: Sequence[Mapping[str, int]],
    parts: Sequence[Sequence[Encoded]],
    rate: float,
    seed: int,
) -> State | None:
    """The state after one round; None where a client diverged."""
    number = state.round + 1
    sent = [rule.send(state, r, drawn(seed, "send", number)) for r in ranks]
    asked = Recipe("adamw", rate, 4, LOCAL_EPOCHS)
    visits = [
        Visit(adapter, part, asked, drawn(seed, "client", number, i))
        for i, (adapter, part) in enumerate(zip(sent, parts, strict=True))
    ]
    model().set_delta(state.delta.layers)
    outcomes = train_cohort(model(), visits, origin=rule.traits.origin)
    model().set_delta({})
    trained = [x.adapter for x in outcomes if isinstance(x, Trained)]
    if len(trained) < len(visits):
        return None
    names = [str(i) for i in range(len(parts))]
    weights = rule.weights([Summary(n, HELD, 0.0) for n in names])
    layers = {}
    for layer in state.spec.at(number, drawn(seed, "combine", number)):
        given = [
            Contribution.of(
                n,
                weights[n],
                back[layer.name],
                to[layer.name] if rule.traits.origin else None,
                to[layer.name],
            )
            for n, back, to in zip(names, trained, sent, strict=True)
        ]
        layers[layer.name] = rule.combine(layer, state.layers[layer.name], Listed(given))
    return state.after(layers)


def first_steps(seed: int) -> list[dict[str, Any]]:
    """How far the first Adam step gets where A's rows are fresh, and where they are of norm 1.

    At the start (B = 0), and for the same product after one federated round, whose SVD leaves rows
    of norm 1: there it is compared with the same product on rows of norm 1/√3.
    """
    data = facts(HELD * len(CLIENTS), seed)
    parts = [data[i * HELD : (i + 1) * HELD] for i in range(len(CLIENTS))]
    ranks = [{x.name: rank for x in model().layers} for rank in CLIENTS]
    rule = make_rule("flexlora")
    state = rule.init(Spec.of(model().layers, ranks, ALPHA), drawn(seed, "init"))
    after = play_round(rule, state, ranks, parts, 3e-3, seed)
    assert after is not None
    found = []
    for rank in RANKS:
        asked = {x.name: rank for x in model().layers}
        start, second = (rule.send(x, asked, drawn(seed, "send")) for x in (state, after))
        gains = [
            gain(changed(start, lambda f: f), data),
            gain(changed(start, orthonormal), data),
            gain(changed(second, lambda f: f), data),
            gain(changed(second, lambda f: Factors(f.b * 3**0.5, f.a / 3**0.5, f.scale)), data),
        ]
        found.append(
            {
                "rank": rank,
                "start": gains[1] / gains[0],
                "second_round": gains[2] / gains[3],
            }
        )
    return found


def changed(adapter: Adapter, change: Callable[[Factors], Factors]) -> Adapter:
    return Adapter({name: change(f) for name, f in adapter.items()})


def orthonormal(f: Factors) -> Factors:
    return Factors(f.b, torch.linalg.qr(f.a.T).Q.T.contiguous(), f.scale)


def gain(adapter: Adapter, data: Sequence[Encoded]) -> float:
    """What one small Adam step on all of the data takes off its mean loss."""
    (outcome,) = train_cohort(
        model(), [Visit(adapter, data, Recipe("adamw", 1e-5, len(data)), seeded(0))]
    )
    assert isinstance(outcome, Trained)
    before, then = (loss_of(x, data) for x in (adapter, outcome.adapter))
    return before - then


def loss_of(adapter: Adapter, data: Sequence[Encoded]) -> float:
    model().set_delta({name: f.product() for name, f in adapter.items()})
    try:
        rows = [(x.prompt, x.response) for x in data]
        return mean([x.total for x in continuation_losses(model(), rows, batch_size=64)])
    finally:
        model().set_delta({})


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def best_rates(tuned: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """ "RULE SCALING" → the rate of the largest share."""
    arms = {(x["rule"], x["scaling"]) for x in tuned}
    return {
        f"{rule} {scaling}": max(
            (x for x in tuned if (x["rule"], x["scaling"]) == (rule, scaling)),
            key=lambda x: x["share"],
        )["rate"]
        for rule, scaling in sorted(arms)
    }


class Record:
    """What is done already, in a file; every part is written when it is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.parts:
            begun = time.process_time()
            made = make()
            self.parts[name] = {"found": made, "cpu_seconds": time.process_time() - begun}
            lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self.parts.items())
            self.path.write_text(f"{{\n{lines}\n}}\n")
            print(f"done: {name}", flush=True)
        return self.parts[name]["found"]


def table(found: Mapping[str, Any]) -> str:
    """Markdown: percent of the ceiling, both seeds, of all that is kept."""
    lines = ["| centrally, percent known | rank | " + " | ".join(f"{x:g}" for x in RATES) + " |"]
    lines.append("|---" * (2 + len(RATES)) + "|")
    runs = [x for seed in SEEDS for x in found[f"central seed {seed}"]]
    for scaling in SCALINGS:
        for rank in RANKS:
            cells = [
                percent(x for x in runs if (x["scaling"], x["rank"], x["rate"]) == case)
                for case in ((scaling, rank, rate) for rate in RATES)
            ]
            lines.append(f"| {scaling} | {rank} | {' | '.join(cells)} |")
    titles = ["federated, percent known", "scaling", *(f"{x:g}" for x in RATES), "best rate, fresh"]
    lines += ["", f"| {' | '.join(titles)} | owners of rank {', '.join(map(str, RANKS))} |"]
    lines.append("|---" * (3 + len(RATES) + 1) + "|")
    for rule in RULES:
        for scaling in SCALINGS:
            tuned = [percent([found[f"tune {rule} {scaling} {rate}"]]) for rate in RATES]
            fresh = [found[f"{rule} {scaling} seed {seed}"] for seed in FRESH_SEEDS]
            owners = [f"{100 * mean([x['by_rank'][str(r)] for x in fresh]):.0f}" for r in RANKS]
            cells = [rule, scaling, *tuned, percent(fresh), ", ".join(owners)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def percent(runs: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(f"{100 * x['share']:.1f}" for x in runs)


def main() -> None:
    torch.set_num_threads(1)
    record = Record(HERE / "results.json")
    record.part("machine", lambda: [platform.machine(), torch.__version__])
    for seed in SEEDS:
        record.part(f"central seed {seed}", lambda seed=seed: centrally(seed))
    record.part("first steps", lambda: first_steps(0))
    tuned = [
        record.part(
            f"tune {rule} {scaling} {rate}",
            lambda arm=(rule, scaling, rate): federated(*arm, TUNING_SEED),
        )
        for rule in RULES
        for scaling in SCALINGS
        for rate in RATES
    ]
    rates = best_rates(tuned)
    record.part("rates", lambda: rates)
    for seed in FRESH_SEEDS:
        for rule in RULES:
            for scaling in SCALINGS:
                arm = (rule, scaling, rates[f"{rule} {scaling}"], seed)
                record.part(f"{rule} {scaling} seed {seed}", lambda arm=arm: federated(*arm))
    (HERE / "table.md").write_text(table({k: x["found"] for k, x in record.parts.items()}))


if __name__ == "__main__":
    main()
