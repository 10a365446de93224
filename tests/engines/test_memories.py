"""What clients remember, on the disk: by round, checked, and forgotten where it does not count."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flexlora.engines.memories import Memories
from flexlora.errors import RunError


def memory(value: float) -> dict[str, Tensor]:
    return {"x": torch.full((2,), value)}


def value(found: dict[str, Tensor]) -> float:
    return float(found["x"][0])


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_a_repeated_round_begins_from_what_stood_before_it(tmp_path: Path) -> None:
    memories = Memories(tmp_path / "m")
    assert memories.begin("../a", None) == {}
    memories.keep("../a", 1, memory(1.0))
    memories.keep("../a", 4, memory(4.0))
    memories.keep("../a", 6, memory(6.0))
    assert value(memories.read("../a", 4)) == 4.0
    assert value(memories.read("../a", 6)) == 6.0
    assert len(files(tmp_path)) == 2  # The newest are kept.
    # Round 6 is played again, for its reply did not count: what it left is gone, for whoever asks.
    assert value(memories.begin("../a", 4)) == 4.0
    with pytest.raises(
        RunError, match=r"client \.\./a remembers of round 6 is missing in .*; rest"
    ):
        memories.read("../a", 6)
    memories.keep("../a", 6, memory(7.0))
    assert value(memories.begin("../a", 6)) == 7.0
    assert memories.begin("b", None) == {}
    assert {path.parent.parent for path in files(tmp_path)} == {tmp_path / "m"}


def test_who_never_answered_begins_with_nothing(tmp_path: Path) -> None:
    memories = Memories(tmp_path / "m")
    memories.keep("a", 1, memory(1.0))
    assert memories.read("a", None) == {}
    assert memories.begin("a", None) == {}
    assert files(tmp_path) == []


def test_a_round_that_may_be_gone_back_to_is_not_forgotten(tmp_path: Path) -> None:
    """Nor what a client last had before it; what no round needs any more goes."""
    memories = Memories(tmp_path / "m")
    rounds = (1, 2, 3, 4, 6, 9)
    for round, kept in zip(rounds, ((), (1,), (2,), (2, 3), (2, 5), (5, 8)), strict=True):
        memories.keep("a", round, memory(float(round)), kept)
        for back in (*kept, round):
            newest = max(x for x in rounds if x <= back)
            assert value(memories.read("a", newest)) == newest
    assert len(files(tmp_path)) == 3
    other = Memories(tmp_path / "other")
    other.take_over(memories, {"a": 4})
    assert value(other.read("a", 4)) == 4.0
    assert len(files(tmp_path / "other")) == 1


def test_nothing_remembered_is_remembered_too(tmp_path: Path) -> None:
    """Else it could not be told from what is lost."""
    memories = Memories(tmp_path / "m")
    memories.keep("a", 1, {})
    assert memories.read("a", 1) == {}
    memories.keep("a", 2, memory(2.0))
    assert value(memories.read("a", 2)) == 2.0


def test_every_flipped_bit_is_told(tmp_path: Path) -> None:
    memories = Memories(tmp_path / "m")
    memories.keep("a", 1, memory(1.0))
    (path,) = files(tmp_path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(
            RunError, match=r"client a remembers of round 1 is damaged: .*; restore"
        ):
            memories.read("a", 1)
    path.write_bytes(data)
    assert value(memories.read("a", 1)) == 1.0


def test_what_is_cut_or_lost_or_foreign_is_told(tmp_path: Path) -> None:
    memories = Memories(tmp_path / "m")
    memories.keep("a", 1, memory(1.0))
    memories.keep("a", 2, memory(2.0))
    memories.keep("b", 2, memory(3.0))
    first, second = files(memories._of("a"))
    (theirs,) = files(memories._of("b"))
    whole = second.read_bytes()

    second.write_bytes(whole[: random.Random(0).randrange(len(whole))])
    with pytest.raises(RunError, match="is damaged"):
        memories.read("a", 2)
    second.unlink()
    with pytest.raises(RunError, match="is missing in"):
        memories.begin("a", 2)
    # The round before, or another client's, under a name that has its check.
    shutil.copyfile(first, second.with_name(first.name.replace("000001", "000002")))
    with pytest.raises(RunError, match=r"is foreign: .* is of another client or round"):
        memories.read("a", 2)
    files(memories._of("a"))[-1].unlink()
    shutil.copyfile(theirs, second.with_name(theirs.name))
    with pytest.raises(RunError, match="is foreign"):
        memories.read("a", 2)
    second.write_bytes(whole)
    with pytest.raises(RunError, match=r"is in .* and .*; remove the one that is foreign"):
        memories.read("a", 2)
    second.with_name(theirs.name).unlink()
    assert value(memories.read("a", 2)) == 2.0


def test_files_of_other_names_are_none_of_it(tmp_path: Path) -> None:
    memories = Memories(tmp_path / "m")
    memories.keep("a", 1, memory(1.0))
    for name in ("x.safetensors", "000002.safetensors", ".000002-x.tmp"):
        (memories._of("a") / name).write_bytes(b"x")
    assert value(memories.begin("a", 1)) == 1.0
    assert len(list(memories._of("a").iterdir())) == 4
