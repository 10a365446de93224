"""Every rule of the first release over several seeds, on the fresh families: `results/embedded`.

    python experiments/embedded/run.py

Model, tasks and learning rate were fixed before, by centralised sweeps on other families
(`experiments/tiny_model`); every rule runs with the same settings.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from arms import Experiment

RULES = ("fedit", "flexlora", "flexlora-increment", "hetlora", "flora")
SEEDS = (0, 1, 2)
EXPERIMENT = Experiment(
    name="embedded",
    config=Path(__file__).with_name("config.toml"),
    arms=tuple((rule, "uniform") for rule in RULES),
    titles={("fedit", "uniform"): "homogeneous, lowest rank"},
    variant="mix",
    variants={"uniform": {"clients.mix": "uniform"}},
)

if __name__ == "__main__":
    EXPERIMENT.play_arms(SEEDS, dict.fromkeys(RULES, "3e-3"))
    EXPERIMENT.collect(SEEDS, {})
