"""What the digests of a checkpoint cost, as a share of a round's work at the server.

The replies of a 110M model's clients are collected, combined and read out, files included, as by
`round_with_files`; no client's training is in it, so the share of a whole round is smaller. Then
the state that the round left is written as a checkpoint's file, and its SHA-256 taken as
`runs.sums` does. Medians of all repetitions.

    python benchmarks/digests.py --out results/benchmarks/digests.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from flexlora.formats.payloads import load_tensors, save_tensors
from flexlora.runs.sums import write_sums
from measuring import begin, seconds
from round_with_files import play
from whole_round import Model, Plan, Row

SIZE = Model(layers=12, hidden=768, ffn=2048, key_value=768)


def measure(clients: int, repetitions: int, folder: Path) -> Row:
    plan = Plan(SIZE, clients, 1.0, 1, "float32", 0, folder)
    plan.train()
    rounds, writes, digests, size = [], [], [], 0
    for number in range(repetitions):
        took = play(plan)
        rounds.append(sum(took[f"{part}_seconds"] for part in ("collect", "combine", "readout")))
        state = {}
        for path in sorted((folder / "next").iterdir()):
            tensors, _ = load_tensors(path)
            state |= {f"{path.stem}.{name}": tensors[name].clone() for name in tensors}
        (checkpoint := folder / f"checkpoint-{number}").mkdir()
        path = checkpoint / "state.safetensors"
        writes.append(seconds(lambda: save_tensors(path, state), "cpu")[0])  # noqa: B023
        digests.append(seconds(lambda: write_sums(checkpoint), "cpu")[0])
        size = path.stat().st_size
    middle = [statistics.median(x) for x in (rounds, writes, digests)]
    return {
        "clients": clients,
        "threads": torch.get_num_threads(),
        "repetitions": repetitions,
        "state_bytes": size,
        "server_seconds": middle[0],
        "write_seconds": middle[1],
        "digest_seconds": middle[2],
        "digest_share": middle[2] / (middle[0] + middle[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begin(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.clients, options.repetitions, Path(folder))
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
