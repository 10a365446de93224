"""Natural Instructions, end to end: tune on validation, run every arm, collect the table.

    python experiments/natural_instructions/run.py tune      # learning rate, the same grid for all
    python experiments/natural_instructions/run.py arms      # every arm and seed at its best rate
    python experiments/natural_instructions/run.py collect   # results/natural_instructions/

Every arm has the same data, seeds and tuning budget; the unseen tasks are touched by `arms` alone,
once per run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from arms import ROOT, Experiment

RULES = ("fedit", "flexlora", "flexlora-increment")
RATES = ("7e-4", "2e-3", "6e-3")
TUNING_ROUNDS = 5
EXPERIMENT = Experiment(
    name="natural_instructions",
    config=ROOT / "examples" / "natural_instructions.toml",
    # The homogeneous arm trains everybody at the lowest rank, which both mixes share: one run.
    arms=(
        ("fedit", "heavy-tail-light"),
        ("flexlora", "heavy-tail-light"),
        ("flexlora-increment", "heavy-tail-light"),
        ("flexlora", "uniform"),
        ("flexlora-increment", "uniform"),
    ),
    titles={("fedit", "heavy-tail-light"): "homogeneous, lowest rank (the same in both mixes)"},
)


def tune() -> None:
    """Every rule at every rate for a few rounds, on validation examples; no unseen task is read."""
    EXPERIMENT.play(
        {
            f"tune-{rule}-{rate}": {
                "rule.name": rule,
                "clients.mix": "uniform",
                "training.learning_rate": rate,
                "federation.rounds": str(TUNING_ROUNDS),
                "evaluation.every": str(TUNING_ROUNDS),
                "evaluation.unseen": "false",
                "run.threads": "1",
            }
            for rate in RATES
            for rule in RULES
        }
    )
    print(json.dumps(tuned(), indent=1))


def tuned() -> dict[str, dict[str, float]]:
    """Rule → learning rate → validation loss after the tuning rounds."""
    table: dict[str, dict[str, float]] = {}
    for rule in RULES:
        for rate in RATES:
            file = EXPERIMENT.runs / f"tune-{rule}-{rate}" / "metrics.jsonl"
            last = json.loads(file.read_text().splitlines()[-1])
            table.setdefault(rule, {})[rate] = last["validation"]["loss"]
    return table


def best_rates() -> dict[str, str]:
    return {rule: min(losses, key=losses.__getitem__) for rule, losses in tuned().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Natural Instructions, end to end.")
    parser.add_argument("step", choices=("tune", "arms", "collect"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    if arguments.step == "tune":
        tune()
    elif arguments.step == "arms":
        EXPERIMENT.play_arms(arguments.seeds, best_rates())
    else:
        EXPERIMENT.collect(arguments.seeds, {"tuning": tuned()})


if __name__ == "__main__":
    main()
