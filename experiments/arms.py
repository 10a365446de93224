"""What the experiments share: play runs of one config side by side, and collect their table.

An arm is (rule, mix). Runs that exist are resumed, so every step may be stopped and started again.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORKERS = 2  # One thread each: with short batches two runs side by side beat one on two threads.
COLUMNS = (
    ("unseen", "rouge_l", 1),
    ("unseen", "exact_match", 1),
    ("unseen", "loss", 3),
    ("own", "rouge_l", 1),
    ("own", "loss", 3),
)

# What lies beside every run's numbers: scores, versions and machine with the commit, data.
RECORD = ("results", "environment", "data")

Settings = Mapping[str, str]
Arm = tuple[str, str]


@dataclass(frozen=True)
class Experiment:
    """One config, its arms, where runs and results go; titles: arm → its words in the table."""

    name: str
    config: Path
    arms: Sequence[Arm]
    titles: Mapping[Arm, str]

    @property
    def runs(self) -> Path:
        return ROOT / "runs" / self.name

    @property
    def results(self) -> Path:
        return ROOT / "results" / self.name

    def play(self, jobs: Mapping[str, Settings]) -> None:
        """Run every job (name → overrides) that has no result yet."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(WORKERS) as pool:
            done = pool.map(self._play, jobs, jobs.values())
            for name, _ in zip(jobs, done, strict=True):
                print(f"done: {name}", flush=True)

    def play_arms(self, seeds: Sequence[int], rates: Mapping[str, str]) -> None:
        """Every arm and seed; rates: rule → its learning rate."""
        self.play(
            {
                run_name(arm, seed): {
                    "rule.name": arm[0],
                    "clients.mix": arm[1],
                    "training.learning_rate": rates[arm[0]],
                    "federation.seed": str(seed),
                    "run.threads": "1",
                }
                for seed in seeds
                for arm in self.arms
            }
        )

    def collect(self, seeds: Sequence[int], extra: Mapping[str, Any]) -> None:
        """Write results/: the table, and every run with its config, commit, machine and data."""
        self.results.mkdir(parents=True, exist_ok=True)
        found = {}
        for arm in self.arms:
            for seed in seeds:
                folder = self.runs / run_name(arm, seed)
                found[run_name(arm, seed)] = {
                    "mix": arm[1],
                    "seed": seed,
                    **{name: json.loads((folder / f"{name}.json").read_text()) for name in RECORD},
                    "config": tomllib.loads((folder / "config.toml").read_text()),
                }
        shutil.copy(self.config, self.results / "config.toml")
        # One line a run: a run that changes is a line that changes.
        found_lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
        head = json.dumps({"seeds": list(seeds), **extra})[:-1]
        text = f'{head},\n"runs": {{\n{found_lines}\n}}}}\n'
        (self.results / "results.json").write_text(text)
        (self.results / "table.md").write_text(self.table(found, seeds))
        print((self.results / "table.md").read_text())

    def table(self, found: Mapping[str, Any], seeds: Sequence[int]) -> str:
        """The scores of every arm as Markdown; ± is the standard deviation over seeds."""
        lines = [
            "| mix | arm | adapter | ROUGE-L ↑ | exact % ↑ | loss ↓ | own ROUGE-L ↑ | own loss ↓ "
            "| MB up | MB down |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]

        def line(arm: Arm, mix: str, title: str, state: str) -> str:
            results = [found[run_name(arm, seed)]["results"] for seed in seeds]
            rows = [next(r for r in x["rows"] if r["state"] == state) for x in results]
            scores = [
                spread([row[part]["mean"][key] for row in rows], digits)
                for part, key, digits in COLUMNS
            ]
            costs = ["", ""]
            if state == "full":
                costs = [
                    f"{statistics.mean(x[key] for x in results) / 1e6:.1f}"
                    for key in ("bytes_up", "bytes_down")
                ]
            label = {"base": "none", "full": "full state"}.get(state)
            label = label or f"{state} ({rows[0]['ranks']})"
            return "| " + " | ".join([mix, title, label, *scores, *costs]) + " |"

        lines.append(line(self.arms[0], "", "base model", "base"))
        for arm in self.arms:
            rows = found[run_name(arm, seeds[0])]["results"]["rows"][1:]
            mix, title = arm[1], self.titles.get(arm, arm[0])
            lines += [line(arm, mix, title, row["state"]) for row in rows]
        return "\n".join(lines) + "\n"

    def _play(self, name: str, settings: Settings) -> None:
        folder = self.runs / name
        if (folder / "results.json").exists():
            return
        flexlora = str(Path(sys.executable).with_name("flexlora"))
        command = [flexlora, "resume", str(folder)]
        if not folder.exists():
            overrides = [f"--set={key}={value}" for key, value in settings.items()]
            command = [flexlora, "run", str(self.config), f"--out={folder}", *overrides]
        with open(self.runs / f"{name}.log", "a") as log:
            subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)


def run_name(arm: Arm, seed: int) -> str:
    return f"{arm[0]}-{arm[1]}-seed{seed}"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, with ± the standard deviation over seeds where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text
