"""What a client keeps for itself: its own, by round, on its own machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.engines.in_process import InProcess
from flexlora.engines.memories import Memories
from flexlora.errors import ConfigError, RunError
from flexlora.evaluation import ClientScore, EvalClient, evaluate
from flexlora.federation import Setup, continue_run, resume, run
from flexlora.federation.loop import last
from flexlora.federation.observers import Silent
from flexlora.formats.payloads import from_bytes
from flexlora.rules import make_rule
from flexlora.runs.events import Event, Replied
from flexlora.runs.readout import load_state
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small, write

CONFIG = small(
    rule={"name": "fedsa"},
    federation={"rounds": 3, "clients_per_round": 3},
    run={"checkpoints": 1},
)


def remembered(folder: Path) -> Mapping[str, dict[str, Tensor]]:
    """By client's folder and round; the tensors as they stand, checked by nobody."""
    found = {}
    for path in sorted((folder / "memory").rglob("*.safetensors")):
        found[f"{path.parent.name}/{round_of(path)}"] = dict(from_bytes(path.read_bytes()).tensors)
    return found


def answered(folder: Path) -> dict[str, int]:
    """Client → the round that it answered last, as the last checkpoint says."""
    stands = last(Run.open(folder))
    assert stands is not None
    return stands.store.answered


def round_of(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def assert_same_memories(one: Path, other: Path) -> None:
    ours, theirs = remembered(one), remembered(other)
    assert ours.keys() == theirs.keys()
    assert ours
    for file, tensors in ours.items():
        assert tensors.keys() == theirs[file].keys()
        assert all(torch.equal(tensor, theirs[file][name]) for name, tensor in tensors.items())


@pytest.fixture(scope="module")
def whole(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    return run(CONFIG, tmp_path_factory.mktemp("personal") / "whole", setup=setup).folder


def test_every_client_remembers_its_own_of_the_rounds_that_count(setup: Setup, whole: Path) -> None:
    """Of the last, of the one before, and of those that had a checkpoint before its last round."""
    memories = Memories(whole / "memory")
    records = Run.open(whole).records()
    trained = [record.clients for record in records]
    losses = [record.scores["loss"] for record in records]
    for client in setup.examples.train:
        rounds = [k for k, clients in enumerate(trained, 1) if client in clients]
        folder = memories._of(client)
        kept = sorted(round_of(path) for path in folder.glob("*")) if folder.exists() else []
        begun = max(rounds, default=1) - 1
        best = 1 + losses.index(min(losses[:begun])) if begun else 0
        wanted = {max((k for k in rounds if k <= back), default=0) for back in (best, begun, 9)}
        assert kept == sorted(wanted - {0})
        for k in kept:
            assert bool(memories.read(client, k)["model.layers.0.mlp.down_proj"].any())
    one, other, *_ = (next(iter(tensors.values())) for tensors in remembered(whole).values())
    assert not torch.equal(one, other)


def test_what_is_remembered_is_in_no_checkpoint_and_no_client_names_a_path(
    setup: Setup, whole: Path
) -> None:
    state = load_state(Run.open(whole), "last")
    for layer in state.layers.values():
        assert not bool(layer["b"].any())
    names = "".join(str(path.relative_to(whole)) for path in (whole / "memory").rglob("*"))
    assert not any(client in names for client in setup.examples.train)


class StopsIn(Silent):
    """In the middle of a round, when one client has written its memory of it."""

    def __init__(self, round: int) -> None:
        self.round = round

    def told(self, event: Event) -> None:
        if isinstance(event, Replied) and event.round == self.round:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_is_stopped_and_resumed_ends_at_the_same_bits(
    setup: Setup, whole: Path, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "r", setup=setup, observer=StopsIn(stop))
    assert max(int(Path(file).name) for file in remembered(tmp_path / "r")) == stop
    resume(tmp_path / "r")
    assert_same_run(tmp_path / "r", whole)
    assert_same_memories(tmp_path / "r", whole)


KILLED = """
import os, signal
from flexlora.cli.main import main
from flexlora.engines.memories import Memories

does, calls = Memories.METHOD, []

def dies(*arguments):
    does(*arguments)
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Memories.METHOD = dies
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", ["_write", "keep"])
def test_a_killed_process_is_resumed_to_the_same_bits(
    whole: Path, tmp_path: Path, method: str
) -> None:
    """Right after the second client of round 2 has written what it remembers, or forgotten more."""
    (script := tmp_path / "killed.py").write_text(KILLED.replace("METHOD", method))
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests, tests.parent / "src")))
    command = [sys.executable, script, "run", write(CONFIG, tmp_path / "c.toml")]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "r")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert Run.open(tmp_path / "r").checkpoints() == [1]
    resume(tmp_path / "r")
    assert_same_run(tmp_path / "r", whole)
    assert_same_memories(tmp_path / "r", whole)


@pytest.fixture
def _first_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the scores are."""
    monkeypatch.setattr("flexlora.federation.session.decide", lambda *asked: float(asked[-1].round))


@pytest.mark.usefixtures("_first_is_best")
def test_what_was_remembered_after_the_checkpoint_that_is_resumed_from_does_not_count(
    setup: Setup, tmp_path: Path
) -> None:
    """Nor where more than one round is played again, for later checkpoints are lost."""
    whole = run(CONFIG, tmp_path / "whole", setup=setup).folder
    folder = shutil.copytree(whole, tmp_path / "r")
    first, *later = Run.open(folder).checkpoints()
    assert later == [3]
    assert max(int(Path(file).name) for file in remembered(folder)) == 3
    shutil.rmtree(folder / "checkpoints" / "round-0003")
    (folder / "results.json").unlink()
    resume(folder)
    assert_same_run(folder, whole)
    assert answered(folder) == answered(whole)
    ours, theirs = Memories(folder / "memory"), Memories(whole / "memory")
    for client, round in answered(whole).items():
        again, wanted = ours.read(client, round), theirs.read(client, round)
        assert all(torch.equal(again[name], wanted[name]) for name in wanted)
    assert first < 2  # Two rounds were played again.


def test_a_damaged_memory_ends_a_resume_by_name_and_restored_it_is_the_same_run(
    setup: Setup, whole: Path, tmp_path: Path
) -> None:
    """A flipped bit, a lost file, another client's: no round is played on any of them."""
    folder = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, folder, setup=setup, observer=StopsIn(3))
    clients = Run.open(whole).records()[2].clients
    stands = answered(folder)
    client, *others = sorted(stands.keys() & set(clients))
    memories = Memories(folder / "memory")
    (path,) = (x for x in memories._kept(client) if round_of(x) == stands[client])
    data = path.read_bytes()
    (other, *_) = memories._kept(others[0])
    for change, words in (
        (data[:-1] + bytes([data[-1] ^ 1]), "is damaged: .* is not as it was written"),
        (None, f"remembers of round {stands[client]} is missing"),
        (other.read_bytes(), "is damaged"),
    ):
        path.unlink() if change is None else path.write_bytes(change)
        with pytest.raises(RunError, match=f"{client}.*{words}.*; restore it, or start a new run"):
            resume(folder)
        assert len(Run.open(folder).committed()) == 2
    path.write_bytes(data)
    resume(folder)
    assert_same_run(folder, whole)
    assert_same_memories(folder, whole)


def test_workers_share_the_memory(setup: Setup, tmp_path: Path) -> None:
    """The same bits as in one process: whichever worker trains a client finds what it left."""
    quick: dict[str, dict[str, Any]] = {
        "rule": {"name": "fedsa"},
        "federation": {"rounds": 2, "clients_per_round": 4},
        "evaluation": {"unseen": False},
    }
    config, both = small(**quick), small(**quick, run={"workers": 2})
    alone = run(config, tmp_path / "alone", setup=setup).folder
    two = run(both, tmp_path / "two", setup=setup).folder
    assert_same_run(two, alone)
    assert_same_memories(two, alone)


def test_an_evaluation_is_of_what_the_client_would_use(setup: Setup, whole: Path) -> None:
    """The shared A with its own B, by hand; who never trained has the B that all begin with."""
    state, rule = load_state(Run.open(whole), "last"), make_rule("fedsa")
    memories = Memories(whole / "memory")
    scores: list[ClientScore] = []
    stands = answered(whole)
    for client in sorted(setup.examples.train):
        readout = rule.readout(state, rule.ranks_for(setup.spec, setup.roster.ranks["low"]))
        received = rule.receive(readout, memories.read(client, stands.get(client)))
        setup.model.set_delta({name: f.product() for name, f in received.items()})
        own = [EvalClient(client, tuple(setup.examples.held_out[client]))]
        scores += evaluate(setup.model, own, setup.settings.validation).clients
    setup.model.set_delta({})
    counts = [score.examples for score in scores]
    means = [score.means["loss"] for score in scores]
    wanted = sum(n * x for n, x in zip(counts, means, strict=True)) / sum(counts)
    found = Run.open(whole).read_metrics()[-1]["on_clients"]["global"]["metrics"]["loss"]
    assert found["mean"] == pytest.approx(wanted, rel=1e-4)
    assert found["spread"] > 0.0


def test_it_is_validated_and_scored_with_what_each_client_keeps(setup: Setup, whole: Path) -> None:
    """Not with what the server has, which is the base model in every round."""
    opened, rule = Run.open(whole), make_rule("fedsa")
    memories, stands = Memories(whole / "memory"), answered(whole)
    records = opened.records()
    assert len({record.scores["loss"] for record in records}) == len(records)
    state = load_state(opened, "last")
    found: list[ClientScore] = []
    for one in setup.examples.validation:
        ranks = rule.ranks_for(setup.spec, setup.roster.ranks["low"])
        kept = memories.read(one.id, stands.get(one.id))
        received = rule.receive(rule.readout(state, ranks), kept)
        setup.model.set_delta({name: f.product() for name, f in received.items()})
        found += evaluate(setup.model, [one], setup.settings.validation).clients
    setup.model.set_delta({})
    total = sum(score.examples for score in found)
    wanted = sum(score.examples * score.means["loss"] for score in found) / total
    assert records[-1].scores["loss"] == pytest.approx(wanted, rel=1e-4)
    results = opened.read_results()
    assert results is not None
    rows = {row["state"]: row for row in results["rows"]}
    assert rows["full"]["ranks"] == "own"
    assert rows["full"]["own"] != rows["base"]["own"]
    assert rows["full"]["unseen"]["clients"] == rows["base"]["unseen"]["clients"]


def test_a_continued_run_goes_on_with_what_clients_remember(
    setup: Setup, whole: Path, tmp_path: Path
) -> None:
    config = small(rule={"name": "fedsa"}, federation={"rounds": 2, "clients_per_round": 3})
    short = run(config, tmp_path / "short", setup=setup).folder
    more = continue_run(short, {"federation": {"rounds": 3}}, tmp_path / "more").folder
    one, other = (load_state(Run.open(folder), "last") for folder in (more, whole))
    for name, layer in one.layers.items():
        assert torch.equal(layer["a"], other.layers[name]["a"])
    stands = answered(more)
    assert stands == answered(whole)
    for client, round in stands.items():
        ours, theirs = (Memories(x / "memory").read(client, round) for x in (more, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.usefixtures("_first_is_best")
def test_a_run_continued_from_its_best_round_finds_what_clients_remembered_then(
    setup: Setup, tmp_path: Path
) -> None:
    """However many rounds ago that was."""
    shared: dict[str, dict[str, Any]] = {
        "rule": {"name": "fedsa"},
        "evaluation": {"unseen": False},
    }
    everybody = {"clients_per_round": 4}
    run(small(**shared, federation={"rounds": 1, **everybody}), tmp_path / "one", setup=setup)
    long = small(**shared, federation={"rounds": 5, **everybody}, run={"checkpoints": 1})
    folder = run(long, tmp_path / "long", setup=setup).folder
    assert Run.open(folder).checkpoints() == [1, 5]
    two = {"federation": {"rounds": 2}}
    late = continue_run(folder, two, tmp_path / "late", round="best").folder
    early = continue_run(tmp_path / "one", two, tmp_path / "early").folder
    assert_same_memories(late, early)


def test_a_rule_without_memory_writes_nothing(setup: Setup, tmp_path: Path) -> None:
    config = small(federation={"rounds": 1}, evaluation={"unseen": False})
    folder = run(config, tmp_path / "r", setup=setup).folder
    assert not (folder / "memory").exists()


def test_an_engine_without_a_folder_refuses_a_rule_with_memory(setup: Setup) -> None:
    with pytest.raises(ConfigError, match="clients of rule fedsa remember what is their own; give"):
        InProcess(setup.model, setup.examples.train, make_rule("fedsa"))


def test_no_run_is_made_of_one_whose_memory_is_damaged(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "r")
    client, round = max(answered(folder).items())
    (path,) = (x for x in Memories(folder / "memory")._kept(client) if round_of(x) == round)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RunError, match=f"client {client} remembers of round {round} is damaged"):
        continue_run(folder, {"federation": {"rounds": 4}}, tmp_path / "more")
    assert not (tmp_path / "more").exists()
