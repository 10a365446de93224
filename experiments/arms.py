"""What the experiments share: play runs of one config side by side, and collect their table.

An arm is (rule, variant): a variant is a mix of client types, a partition, … with its settings.
Runs that exist are resumed, so every step may be stopped and started again.
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
    """One config, its arms, where runs and results go.

    variants: name → overrides; variant: what a variant is, in a word; titles: arm → its words in
    the table; columns: (title, where in a run's record, digits) beyond the scores of every table;
    loss: the metric that is shown as such, "token_loss" where variants deal examples otherwise.
    """

    name: str
    config: Path
    arms: Sequence[Arm]
    titles: Mapping[Arm, str]
    variant: str
    variants: Mapping[str, Settings]
    columns: Sequence[tuple[str, tuple[str, ...], int]] = ()
    loss: str = "loss"

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
                    **self.variants[arm[1]],
                    "training.learning_rate": rates[arm[0]],
                    "federation.seed": str(seed),
                    "run.threads": "1",
                    "evaluation.predictions": "0",  # results/ holds numbers.
                }
                for seed in seeds
                for arm in self.arms
            }
        )

    def tune(
        self, rules: Sequence[str], rates: Sequence[str], rounds: int, variant: str
    ) -> dict[str, dict[str, float]]:
        """Every rule at every rate for a few rounds, on validation examples alone; its losses.

        No unseen client is read. Returns rule → rate → validation loss after the last round.
        """
        self.play(
            {
                _tuning_name(rule, rate): {
                    "rule.name": rule,
                    **self.variants[variant],
                    "training.learning_rate": rate,
                    "federation.rounds": str(rounds),
                    "evaluation.every": str(rounds),
                    "evaluation.unseen": "false",
                    "run.threads": "1",
                }
                for rate in rates
                for rule in rules
            }
        )
        return self.tuned(rules, rates)

    def tuned(self, rules: Sequence[str], rates: Sequence[str]) -> dict[str, dict[str, float]]:
        """What `tune` returned."""
        table: dict[str, dict[str, float]] = {}
        for rule in rules:
            for rate in rates:
                record = _rounds(self.runs / _tuning_name(rule, rate))[-1]
                table.setdefault(rule, {})[rate] = record["validation"]["loss"]
        return table

    def collect(self, seeds: Sequence[int], extra: Mapping[str, Any]) -> None:
        """Write results/: the table, and every run with its config, commit, machine and data."""
        self.results.mkdir(parents=True, exist_ok=True)
        found = {}
        for arm in self.arms:
            for seed in seeds:
                folder = self.runs / run_name(arm, seed)
                record = {
                    name: json.loads((folder / f"{name}.json").read_text()) for name in RECORD
                }
                found[run_name(arm, seed)] = {
                    self.variant: arm[1],
                    "seed": seed,
                    **record,
                    "config": tomllib.loads((folder / "config.toml").read_text()),
                    "scored": _rounds(folder)[record["results"]["scored_round"] - 1],
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
        titles = [self.variant, "arm", "adapter"]
        loss = self.loss.replace("_", " ")
        titles += ["ROUGE-L ↑", "exact % ↑", f"{loss} ↓", "own ROUGE-L ↑", f"own {loss} ↓"]
        titles += [*(title for title, _, _ in self.columns), "MB up", "MB down"]
        lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]

        def line(arm: Arm, variant: str, title: str, state: str) -> str:
            records = [found[run_name(arm, seed)] for seed in seeds]
            results = [record["results"] for record in records]
            rows = [next(r for r in x["rows"] if r["state"] == state) for x in results]
            scores = [
                spread([row[part]["mean"][key] for row in rows], digits)
                for part, name, digits in COLUMNS
                for key in [self.loss if name == "loss" else name]
            ]
            costs = [""] * (2 + len(self.columns))
            if state == "full":
                costs = [
                    spread([_at(record, path) for record in records], digits)
                    for _, path, digits in self.columns
                ]
                costs += [
                    f"{statistics.mean(x[key] for x in results) / 1e6:.1f}"
                    for key in ("bytes_up", "bytes_down")
                ]
            label = {"base": "none", "full": "full state"}.get(state)
            label = label or f"{state} ({rows[0]['ranks']})"
            return "| " + " | ".join([variant, title, label, *scores, *costs]) + " |"

        lines.append(line(self.arms[0], "", "base model", "base"))
        for arm in self.arms:
            rows = found[run_name(arm, seeds[0])]["results"]["rows"][1:]
            title = self.titles.get(arm, arm[0])
            lines += [line(arm, arm[1], title, row["state"]) for row in rows]
        if len(seeds) > 1:
            lines += ["", *self._paired(found, seeds)]
        return "\n".join(lines) + "\n"

    def _paired(self, found: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
        """Each arm's loss, full state, minus that of the variant's first arm, seed by seed.

        Seeds differ in their data far more than arms do on the same data.
        """
        lines = [
            f"{self.loss.replace('_', ' ').capitalize()} minus that of the first arm of the same "
            f"{self.variant}, paired by seed (mean ± standard deviation; below 0 is better):",
            "",
            f"| {self.variant} | arm | loss | own loss |",
            "|---|---|---|---|",
        ]
        first: dict[str, Arm] = {}
        for arm in self.arms:
            against = first.setdefault(arm[1], arm)
            if against == arm:
                continue
            cells = [
                spread(
                    [
                        self._loss(found, arm, s, part) - self._loss(found, against, s, part)
                        for s in seeds
                    ]
                )
                for part in ("unseen", "own")
            ]
            lines.append(f"| {arm[1]} | {self.titles.get(arm, arm[0])} | {' | '.join(cells)} |")
        return lines

    def _loss(self, found: Mapping[str, Any], arm: Arm, seed: int, part: str) -> float:
        rows = found[run_name(arm, seed)]["results"]["rows"]
        mean = next(row for row in rows if row["state"] == "full")[part]["mean"]
        return float(mean[self.loss])

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


def best_rates(tuned: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Rule → the rate of its lowest loss."""
    return {rule: min(losses, key=losses.__getitem__) for rule, losses in tuned.items()}


def run_name(arm: Arm, seed: int) -> str:
    return f"{arm[0]}-{arm[1]}-seed{seed}"


def _tuning_name(rule: str, rate: str) -> str:
    return f"tune-{rule}-{rate}"


def _rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _at(record: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = record
    for key in path:
        value = value[key]
    return float(value)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, with ± the standard deviation over seeds where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text
