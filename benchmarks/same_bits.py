"""Whether two versions of FlexLoRA give the same bits on a fixed set of runs.

python benchmarks/same_bits.py --against COMMIT: plays the set (benchmarks/same_bits_runs.py: the
five rules under both hosts, and whatever else a run can be) with the source of that commit, in a
git worktree that is removed again, and with this checkout's as it lies there. Prints a table, run ×
part, and below it what differs. Exit code 1 if anything does.

python benchmarks/same_bits.py: compares with the fingerprints that are kept, by default in
results/benchmarks/same_bits.json. Bits depend on the processor and on torch: other ones prove
nothing where the kept ones are of another machine, and it says so then. --write keeps fingerprints:
those of COMMIT, or without --against those of this checkout. --only NAME … plays some of the runs.

What DIFFERENT means. Bits never change in passing: it is a mistake, or docs/log.md says why it is
right, and the set is written anew.
layers      What the rule holds, in every checkpoint that is kept. If nothing else differs, it may
            be the names or the form of what is held.
delta       Δ and its patches, in the same checkpoints. If nothing else differs, it may be the form
            in which Δ is kept.
metrics     What each round recorded: who trained, losses, scores, bytes up.
bytes_down  What was sent down. Apart, since Δ may be coded in fewer bytes on purpose.
exports     Adapters as PEFT folders, of full rank and of one that cuts, with their scales.
results     Final scores and generated texts.
"failed" is a run that could not be played; nothing is known of its bits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from same_bits_digests import Fingerprint
from same_bits_play import Player, PlayError
from same_bits_runs import RUNS, with_needed
from same_bits_view import differences, table
from this_machine import machine, other_machine

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "benchmarks" / "same_bits.json"
Document = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    wanted: Document | None = None
    if options.against:
        with worktree(options.against) as checkout:
            wanted = play(checkout, options.only)
    elif not options.write:
        wanted = json.loads(options.out.read_text())
    got = play(ROOT, options.only)
    if options.write:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        kept = json.dumps(wanted or got, indent=2, ensure_ascii=False)
        options.out.write_text(kept + "\n")
    if wanted is None:
        return 0
    print(table(wanted["runs"], got["runs"]))
    for title, document in (("wanted", wanted), ("got", got)):
        print(f"{title}: {document['environment']['commit']}")
    if other := other_machine(wanted["environment"], got["environment"]):
        print(f"The kept fingerprints are of another machine ({other}): different bits prove")
        print("nothing. Play both versions here, with --against COMMIT.")
    return 1 if differences(wanted["runs"], got["runs"]) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--against", metavar="COMMIT", help="play the set with this commit's source, too")
    add("--only", nargs="+", choices=RUNS, metavar="NAME", help="runs to play (default: all)")
    add("--write", action="store_true", help="keep the fingerprints")
    add("--out", type=Path, default=OUT, help="where fingerprints are kept")
    options = parser.parse_args(arguments)
    if options.write and options.only:
        parser.error("--write keeps the whole set; leave out --only")
    options.only = options.only or list(RUNS)
    return options


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of this commit, which is gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="same-bits-") as scratch:
        checkout = Path(scratch).resolve() / "checkout"
        try:
            _git(ROOT, "worktree", "add", "--quiet", "--detach", str(checkout), commit)
            yield checkout
        finally:
            if checkout.exists():
                _git(ROOT, "worktree", "remove", "--force", str(checkout))


def play(checkout: Path, names: Sequence[str]) -> Document:
    """Environment, and run → fingerprint of these runs, played with this source."""
    began, runs = (time.perf_counter(), _busy()), {}
    environment = {"commit": commit_of(checkout), **machine()}
    with tempfile.TemporaryDirectory(prefix="same-bits-") as scratch:
        player = Player(checkout / "src", Path(scratch).resolve())
        for name in with_needed(names):
            started = time.perf_counter()
            found: Fingerprint
            try:
                found = player.play(name)
            except PlayError as error:
                found = {"failed": {"why": str(error)}}
            if name in names:
                runs[name] = found
            took = time.perf_counter() - started
            print(f"{environment['commit'][:8]} {name}: {took:.1f} s", file=sys.stderr)
    took, busy = time.perf_counter() - began[0], _busy() - began[1]
    print(f"all: {took:.0f} s, on a core for {busy:.0f} of them", file=sys.stderr)
    return {"environment": environment, "runs": runs}


def _busy() -> float:
    """CPU seconds of all processes that were started and have ended."""
    used = os.times()
    return used.children_user + used.children_system


def commit_of(checkout: Path) -> str:
    """The commit that lies there, "+" for changes of its source."""
    changed = _git(checkout, "status", "--porcelain", "--", "src")
    return _git(checkout, "rev-parse", "HEAD") + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
