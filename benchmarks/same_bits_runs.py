"""The runs that same_bits.py plays: small, and together all that a run can be.

A run is never changed: its fingerprint would be another's. What is new gets a run of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Tables = Mapping[str, Mapping[str, Any]]
# command: `flexlora run`; python: flexlora.run; killed: killed after two rounds, then resumed.
How = Literal[
    "command",
    "python",
    "killed",
    "from adapter",
    "from run",
    "continued",
    "continued in python",
]
WIDE_MODEL = "wide"  # Stands for the folder of same_bits_model.py.

BASE: dict[str, dict[str, Any]] = {
    "model": {"name": "tiny", "device": "cpu", "targets": ["q_proj", "down_proj"]},
    "data": {
        "source": "embedded",
        "train_tasks": 8,
        "unseen_tasks": 2,
        "examples_per_task": 8,
        "unseen_examples_per_task": 2,
        "max_tokens": 250,
    },
    "clients": {
        "mix": {"low": 0.4, "middle": 0.3, "high": 0.3},
        "types": {"low": 2, "middle": {"attention": 3, "mlp": 5}, "high": 6},
    },
    "rule": {"name": "flexlora"},
    "training": {"learning_rate": 1e-2, "batch_size": 2, "max_steps": 3, "dropout": 0.05},
    "federation": {"rounds": 5, "clients_per_round": 3, "patience": 0, "seed": 0},
    "evaluation": {"validation_examples": 4, "own_examples": 4, "max_new_tokens": 4},
    # Never "auto": that is chosen by timing, and other numbers round differently.
    "run": {"threads": 1, "clients_at_once": 3, "workers": 1},
}
SGD = {"host": "fedavg", "learning_rate": 0.5}
ONE = {"clients_at_once": 1}
# Options whose defaults have changed since the runs were chosen.
FORMER: dict[str, Mapping[str, Any]] = {"flexlora-increment": {"directions": "top"}}


@dataclass(frozen=True)
class Run:
    """tables: the config, or what is changed where a run is continued; of: the run that it begins
    from, if any.
    """

    tables: Tables
    how: How = "command"
    of: str = ""


def run(rule: str, how: How = "command", of: str = "", /, **changes: Mapping[str, Any]) -> Run:
    """The base config with this rule and these keys on top."""
    changed: dict[str, Mapping[str, Any]] = dict(changes)
    changed["rule"] = {"name": rule, **FORMER.get(rule, {}), **changes.get("rule", {})}
    names = {**BASE, **changed}
    return Run({name: {**BASE.get(name, {}), **changed.get(name, {})} for name in names}, how, of)


LARGE: dict[str, Mapping[str, Any]] = {
    "model": {"targets": ["all-linear"]},
    "clients": {"types": {"low": 4, "middle": {"attention": 12, "all": 24}, "high": 40}},
}

WIDE: dict[str, Mapping[str, Any]] = {
    "model": {"name": WIDE_MODEL, "targets": ["q_proj"]},
    "data": {"max_tokens": 350},
    "clients": {"mix": {"low": 0.25, "high": 0.75}, "types": {"low": 90, "high": 100}},
    "federation": {"rounds": 3, "clients_per_round": 6},
}

RUNS: dict[str, Run] = {
    # The five rules under both hosts.
    "fedit-adamw": run("fedit", training={"weight_decay": 0.01}, run=ONE),
    "fedit-sgd": run("fedit", training=SGD, evaluation={"on_clients": "global"}),
    "flexlora-adamw": run(
        "flexlora", training={"dropout": 0.2}, evaluation={"on_clients": "tuned"}
    ),
    "flexlora-sgd": run("flexlora", rule={"split": "balanced"}, training=SGD, run=ONE),
    "increment-adamw": run(
        "flexlora-increment",
        rule={"split": "balanced"},
        federation={"rounds": 6},
        evaluation={"on_clients": "tuned"},
    ),
    "increment-sgd": run(
        "flexlora-increment",
        rule={"frozen_rank": 8},
        training=SGD,
        federation={"clients_per_round": 0.5},
        evaluation={"on_clients": "global", "clients": 0.5, "every": 2},
        run=ONE,
    ),
    "hetlora-adamw": run(
        "hetlora", rule={"gamma": 0.5, "regulariser": 5.0}, federation={"rounds": 6}
    ),
    "hetlora-sgd": run(
        "hetlora",
        rule={"gamma": 0.7, "regulariser": 5.0},
        training=SGD,
        evaluation={"on_clients": "tuned"},
        run=ONE,
    ),
    "flora-adamw": run(
        "flora", training={"scaling": "rslora", "alpha": 8.0}, evaluation={"on_clients": "tuned"}
    ),
    "flora-sgd": run("flora", training=SGD, federation={"rounds": 6}, run=ONE),
    # Ranks so high that sums are held as dense matrices; and layers in which they are cut by
    # iterations, with random draws.
    "large-flexlora": run("flexlora", **LARGE),
    "large-increment": run("flexlora-increment", **LARGE, training={"dropout": 0.0}),
    "large-flora": run("flora", **LARGE, run={"clients_at_once": 2}),
    "wide-flexlora": run("flexlora", **WIDE),
    "wide-increment": run("flexlora-increment", **WIDE),
    # Data, training and the model's own number type.
    "dirichlet": run(
        "flexlora-increment",
        data={"train_tasks": 12},
        partition={"by": "dirichlet", "clients": 6, "alpha": 0.5},
    ),
    "all-tokens": run(
        "hetlora",
        "python",
        training={"loss_on": "all", "clip_norm": 0.0, "decay_rounds": [2, 4], "epochs": 2},
        evaluation={"metric": "rouge_l"},
        federation={"seed": 3},
    ),
    "bfloat16": run(
        "flexlora-increment", model={"dtype": "bfloat16"}, evaluation={"on_clients": "tuned"}
    ),
    # Who decides, and when it ends.
    "validation-clients": run("flexlora", evaluation={"validation_clients": 2}),
    "clients-decide": run(
        "flora", evaluation={"on_clients": "global", "decide_by": "clients", "client_examples": 1}
    ),
    "patience": run("flexlora-increment", **LARGE, federation={"rounds": 6, "patience": 2}),
    # How it is run.
    "two-workers": run(
        "flexlora-increment",
        training={"dropout": 0.2},
        federation={"clients_per_round": 4},
        evaluation={"on_clients": "tuned"},
        run={"workers": 2, "clients_at_once": 2},
    ),
    "killed-increment": run(
        "flexlora-increment",
        "killed",
        rule={"split": "balanced"},
        federation={"rounds": 6},
        evaluation={"on_clients": "tuned"},
    ),
    "killed-hetlora": run(
        "hetlora", "killed", rule={"gamma": 0.5, "regulariser": 5.0}, federation={"rounds": 6}
    ),
    # What it begins from.
    "from-adapter": run("flexlora-increment", "from adapter", "flexlora-adamw"),
    "from-adapter-hetlora": run("hetlora", "from adapter", "large-flexlora", **LARGE),
    "from-run": run("flora", "from run", "increment-adamw"),
    "continued": Run(
        {"federation": {"rounds": 7}, "run": {"clients_at_once": 3}}, "continued", "flora-adamw"
    ),
    "continued-in-python": Run({"federation": {"rounds": 7}}, "continued in python", "flora-adamw"),
    "continued-anew": Run(
        {"federation": {"rounds": 8}, "rule": {"split": "left"}, "run": {"clients_at_once": 3}},
        "continued",
        "increment-adamw",
    ),
    "continued-pruned": Run(
        {"federation": {"rounds": 8}, "run": {"clients_at_once": 3}}, "continued", "hetlora-adamw"
    ),
}


def with_needed(names: Sequence[str]) -> list[str]:
    """These runs and those that they begin from, which come first."""
    asked = {*names, *(RUNS[name].of for name in names)}
    return [name for name in RUNS if name in asked]
