"""Dolly in ten silos: by category, and by Dirichlet(0.1) and Dirichlet(100) over the category.

    python experiments/dolly/run.py tune      # learning rate, the same grid for all
    python experiments/dolly/run.py arms      # every arm and seed at its best rate
    python experiments/dolly/run.py collect   # results/dolly/

Every arm has the same data, seeds and tuning budget; the server's test part is touched by `arms`
alone, once per run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from arms import Experiment, best_rates

RULES = ("fedit", "flexlora", "flexlora-increment")
RATES = ("7e-4", "2e-3", "6e-3", "2e-2")
TUNING_ROUNDS = 3
TUNED_ON = "dirichlet-100"
PARTITIONS = {
    "category": {"partition.by": "category"},
    "dirichlet-0.1": {"partition.by": "dirichlet", "partition.alpha": "0.1"},
    "dirichlet-100": {"partition.by": "dirichlet", "partition.alpha": "100.0"},
}
LOSS_ON_CLIENTS = ("scored", "on_clients", "global", "metrics", "loss")
TUNED_LOSS = ("scored", "on_clients", "tuned", "metrics", "loss")
EXPERIMENT = Experiment(
    name="dolly",
    config=Path(__file__).with_name("config.toml"),
    arms=tuple((rule, partition) for partition in PARTITIONS for rule in RULES),
    titles={("fedit", partition): "homogeneous, lowest rank" for partition in PARTITIONS},
    variant="partition",
    variants=PARTITIONS,
    loss="token_loss",  # The mean over clients would differ by partition, with nothing trained.
    columns=(
        ("loss at own rank ↓", (*LOSS_ON_CLIENTS, "mean"), 3),
        ("worst 10 % ↓", (*LOSS_ON_CLIENTS, "worst"), 3),
        ("spread ↓", (*LOSS_ON_CLIENTS, "spread"), 3),
        ("fine-tuned ↓", (*TUNED_LOSS, "mean"), 3),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Dolly in ten silos.")
    parser.add_argument("step", choices=("tune", "arms", "collect"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    if arguments.step == "tune":
        print(json.dumps(EXPERIMENT.tune(RULES, RATES, TUNING_ROUNDS, TUNED_ON), indent=1))
    elif arguments.step == "arms":
        EXPERIMENT.play_arms(arguments.seeds, best_rates(EXPERIMENT.tuned(RULES, RATES)))
    else:
        EXPERIMENT.collect(arguments.seeds, {"tuning": EXPERIMENT.tuned(RULES, RATES)})


if __name__ == "__main__":
    main()
