"""Cells that were not played alike: read from their own files, and told first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flexlora.comparing.cells import finished
from flexlora.comparing.findings import Findings
from flexlora.comparing.sentences import standing
from flexlora.comparing.unlike import unlike
from flexlora.errors import RunError
from resealed import reseal


def played_elsewhere(out: Path, cell: str, **changes: Any) -> None:
    path = out / "cells" / cell / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    reseal(path.parent)


def test_what_can_change_a_number_is_told_with_how_many_cells_have_it(
    compared: Path, tmp_path: Path
) -> None:
    assert unlike(finished(compared)) == {}
    assert standing(Findings.of(compared)) == []
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    commit = json.loads((out / "cells/fedit/0/environment.json").read_text())["commit"]
    other = "0123456789" * 4
    played_elsewhere(out, "fedit/0", platform="another kernel", cpu_count=99)
    assert unlike(finished(out)) == {}
    played_elsewhere(out, "fedit/1", commit=other + "+", gpus=["A", "B"])
    played_elsewhere(out, "flexlora/1", commit=other, cpu_capability=None)
    found = unlike(finished(out))
    assert found.keys() == {"commit", "gpus", "cpu_capability"}
    here = "none" if commit is None else commit[:10] + commit[40:]
    assert found["commit"] == {here: 7, "0123456789+": 1, "0123456789": 1}
    assert found["gpus"]["A, B"] == 1
    assert found["cpu_capability"]["none"] == 1
    (told,) = standing(Findings.of(out))
    assert told.startswith("Not all cells were played alike (how many): commit ")
    assert "0123456789+ (1)" in told


def test_what_cells_were_played_on_comes_first(compared: Path, tmp_path: Path) -> None:
    """As where cells of other data were laid beside those that are there."""
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    played_elsewhere(out, "fedit/1", torch="0.0")
    path = out / "cells/fedit/1/data.json"
    changes = {"fingerprint": "f" * 64, "model_fingerprint": "e" * 64}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    reseal(path.parent)
    found = unlike(finished(out))
    assert sorted(found) == ["base model tiny", "data at seed 1", "torch"]
    assert list(found)[-1] == "torch"
    assert found["data at seed 1"]["f" * 10] == 1
    assert found["base model tiny"]["e" * 10] == 1
    assert all(len(counts) == 2 for counts in found.values())
    (told,) = standing(Findings.of(out))
    assert "data at seed 1 " in told.partition("torch")[0]


def test_an_environment_that_cannot_be_read_names_its_file(compared: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    (out / "cells/fedit/2/environment.json").write_text("{")
    reseal(out / "cells/fedit/2")
    with pytest.raises(RunError, match=r"fedit/2/environment\.json"):
        unlike(finished(out))
