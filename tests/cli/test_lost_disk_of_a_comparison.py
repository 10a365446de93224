"""A comparison whose disk is full, read-only or gone ends at once, and loses nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from commands import Flexlora
from comparing.comparisons import comparison, played
from flexlora.comparing.cells import finished
from lost_disk import BROKEN, FULL, GONE, READ_ONLY, Disk, assert_said
from same_run import assert_same_run

pytestmark = pytest.mark.whole

ASKED = comparison(None, {"evaluation": {"on_clients": "off"}}, seeds=[0])
CELLS = ("flexlora/0", "fedit/0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    played(ASKED, out)
    return out


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "ours.toml"
    path.write_text(ASKED.to_toml())
    return path


@pytest.mark.parametrize("error", [FULL, READ_ONLY, GONE, BROKEN])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_it_ends_in_a_sentence_and_goes_on_to_the_same_bits(
    disk: Disk, whole: Path, config: Path, tmp_path: Path, flexlora: Flexlora, error: int, seed: int
) -> None:
    folder = tmp_path / "out"
    at = random.Random(10 * seed + error).randint(1, 200)
    with disk.refuses(folder, error, at):
        done = flexlora("compare", config, "--out", folder / "c")
    assert_said(done, error)
    assert not (folder / "c" / "failed.json").exists()
    assert "failed.json" not in done.err  # Nor did it try to count a run as failed.
    assert flexlora("compare", config, "--out", folder / "c").code == 0
    for cell in CELLS:
        assert_same_run(folder / "c" / "cells" / cell, whole / "cells" / cell)
    tables = [path.name for path in whole.glob("*.md")]
    assert all((folder / "c" / name).read_bytes() == (whole / name).read_bytes() for name in tables)


def test_what_a_cell_alone_could_not_write_is_no_failure_of_the_cell(
    disk: Disk, whole: Path, config: Path, tmp_path: Path, flexlora: Flexlora
) -> None:
    """A small file finds room where a state does not: the comparison would go on and fail at each
    cell's first state, after hours of training."""
    out = tmp_path / "out"
    with disk.refuses(out / "cells" / "flexlora" / "0" / "checkpoints", FULL, 1):
        done = flexlora("compare", config, "--out", out)
    assert_said(done, FULL)
    assert not (out / "failed.json").exists()
    assert not (out / "cells" / "fedit").exists()
    assert list(finished(out)) == []
    assert flexlora("compare", config, "--out", out).code == 0
    for cell in CELLS:
        assert_same_run(out / "cells" / cell, whole / "cells" / cell)
