"""Natural Instructions, end to end: tune on validation, run every arm, collect the table.

    python experiments/natural_instructions/run.py tune      # learning rate, the same grid for all
    python experiments/natural_instructions/run.py arms      # every arm and seed at its best rate
    python experiments/natural_instructions/run.py collect   # results/natural_instructions/

Every arm has the same data, seeds and tuning budget; the unseen tasks are touched by `arms` alone,
once per run. Runs that exist are resumed, so each step may be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "examples" / "natural_instructions.toml"
RUNS = ROOT / "runs" / "natural_instructions"
RESULTS = ROOT / "results" / "natural_instructions"

RULES = ("fedit", "flexlora", "flexlora-increment")
RATES = ("7e-4", "2e-3", "6e-3")
TUNING_ROUNDS = 5
# The homogeneous arm trains everybody at the lowest rank, which both mixes share: one run.
ARMS = (
    ("fedit", "heavy-tail-light"),
    ("flexlora", "heavy-tail-light"),
    ("flexlora-increment", "heavy-tail-light"),
    ("flexlora", "uniform"),
    ("flexlora-increment", "uniform"),
)
COLUMNS = (
    ("unseen", "rouge_l", 1),
    ("unseen", "exact_match", 1),
    ("unseen", "loss", 3),
    ("own", "rouge_l", 1),
    ("own", "loss", 3),
)
WORKERS = 2  # One thread each: with short batches two runs side by side beat one on two threads.


def play(name: str, settings: dict[str, str]) -> None:
    """Run, or go on with, one run; its output goes to a log beside it."""
    folder = RUNS / name
    if (folder / "results.json").exists():
        return
    flexlora = str(Path(sys.executable).with_name("flexlora"))
    command = [flexlora, "resume", str(folder)]
    if not folder.exists():
        overrides = [f"--set={key}={value}" for key, value in settings.items()]
        command = [flexlora, "run", str(CONFIG), f"--out={folder}", *overrides]
    RUNS.mkdir(parents=True, exist_ok=True)
    with open(RUNS / f"{name}.log", "a") as log:
        subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)


def play_all(jobs: dict[str, dict[str, str]]) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for name, _ in zip(jobs, pool.map(play, jobs, jobs.values()), strict=True):
            print(f"done: {name}", flush=True)


def tune() -> None:
    jobs = {
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
    play_all(jobs)
    print(json.dumps(tuned(), indent=1))


def tuned() -> dict[str, dict[str, float]]:
    """Rule → learning rate → validation loss after the tuning rounds."""
    table: dict[str, dict[str, float]] = {}
    for rule in RULES:
        for rate in RATES:
            lines = (RUNS / f"tune-{rule}-{rate}" / "metrics.jsonl").read_text().splitlines()
            table.setdefault(rule, {})[rate] = json.loads(lines[-1])["validation"]["loss"]
    return table


def best_rate(rule: str) -> str:
    losses = tuned()[rule]
    return min(losses, key=lambda rate: losses[rate])


def arm_name(rule: str, mix: str, seed: int) -> str:
    return f"{rule}-{mix}-seed{seed}"


def arms(seeds: list[int]) -> None:
    jobs = {
        arm_name(rule, mix, seed): {
            "rule.name": rule,
            "clients.mix": mix,
            "training.learning_rate": best_rate(rule),
            "federation.seed": str(seed),
            "run.threads": "1",
        }
        for seed in seeds
        for rule, mix in ARMS
    }
    play_all(jobs)


def collect(seeds: list[int]) -> None:
    """Write the table and everything that is needed to make it again."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    runs = {}
    for rule, mix in ARMS:
        for seed in seeds:
            name = arm_name(rule, mix, seed)
            result = json.loads((RUNS / name / "results.json").read_text())
            for row in result["rows"]:
                for part in ("unseen", "own"):
                    row[part].pop("predictions", None)
            runs[name] = result | {"mix": mix, "seed": seed}
    first = RUNS / arm_name(*ARMS[0], seeds[0])
    for name in ("environment.json", "data.json"):
        shutil.copy(first / name, RESULTS / name)
    shutil.copy(CONFIG, RESULTS / "config.toml")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    summary = {"commit": commit, "seeds": seeds, "tuning": tuned(), "runs": runs}
    (RESULTS / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
    (RESULTS / "table.md").write_text(table(runs, seeds))
    print((RESULTS / "table.md").read_text())


def table(runs: dict[str, dict], seeds: list[int]) -> str:
    lines = [
        "| mix | arm | adapter | ROUGE-L ↑ | exact % ↑ | loss ↓ | own ROUGE-L ↑ | own loss ↓ "
        "| MB up | MB down |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def line(mix: str, arm: str, state: str, results: list[dict], *, cost: bool) -> str:
        rows = [next(r for r in x["rows"] if r["state"] == state) for x in results]
        scores = [
            spread([row[part]["mean"][key] for row in rows], digits)
            for part, key, digits in COLUMNS
        ]
        costs = [
            f"{statistics.mean(x[key] for x in results) / 1e6:.1f}" if cost else ""
            for key in ("bytes_up", "bytes_down")
        ]
        label = f"{state} (rank {rows[0]['ranks']})" if rows[0]["ranks"] else state
        label = "all that was learned" if state == "full" else label
        return "| " + " | ".join([mix, arm, label, *scores, *costs]) + " |"

    def of(rule: str, mix: str) -> list[dict]:
        return [runs[arm_name(rule, mix, seed)] for seed in seeds]

    lines.append(line("–", "base model", "base", of(*ARMS[0]), cost=False))
    lines.append(line("both", "homogeneous, lowest rank", "full", of(*ARMS[0]), cost=True))
    for rule, mix in ARMS[1:]:
        for row in of(rule, mix)[0]["rows"][1:]:
            state = row["state"]
            lines.append(line(mix, rule, state, of(rule, mix), cost=state == "full"))
    return "\n".join(lines) + "\n"


def spread(values: list[float], digits: int) -> str:
    """Mean, with ± the standard deviation over seeds where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("tune", "arms", "collect"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    if arguments.step == "tune":
        tune()
    elif arguments.step == "arms":
        arms(arguments.seeds)
    else:
        collect(arguments.seeds)


if __name__ == "__main__":
    sys.exit(main())
