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

from arms import Experiment, best_rates

RULES = ("fedit", "flexlora", "flexlora-increment")
RATES = ("7e-4", "2e-3", "6e-3")
TUNING_ROUNDS = 5
EXPERIMENT = Experiment(
    name="natural_instructions",
    config=Path(__file__).with_name("config.toml"),
    # The homogeneous arm trains everybody at the lowest rank, which both mixes share: one run.
    arms=(
        ("fedit", "heavy-tail-light"),
        ("flexlora", "heavy-tail-light"),
        ("flexlora-increment", "heavy-tail-light"),
        ("flexlora", "uniform"),
        ("flexlora-increment", "uniform"),
    ),
    titles={("fedit", "heavy-tail-light"): "homogeneous, lowest rank (the same in both mixes)"},
    variant="mix",
    variants={mix: {"clients.mix": mix} for mix in ("heavy-tail-light", "uniform")},
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Natural Instructions, end to end.")
    parser.add_argument("step", choices=("tune", "arms", "collect"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    if arguments.step == "tune":
        print(json.dumps(EXPERIMENT.tune(RULES, RATES, TUNING_ROUNDS, "uniform"), indent=1))
    elif arguments.step == "arms":
        EXPERIMENT.play_arms(arguments.seeds, best_rates(EXPERIMENT.tuned(RULES, RATES)))
    else:
        EXPERIMENT.collect(arguments.seeds, {"tuning": EXPERIMENT.tuned(RULES, RATES)})


if __name__ == "__main__":
    main()
