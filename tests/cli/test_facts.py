"""Facts from the command line: bits by type of client, and what a dry run says beforehand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from commands import Flexlora
from flexlora.federation import prepare
from small import facts, small, write


def test_a_run_tells_bits_by_type(tmp_path: Path, flexlora: Flexlora) -> None:
    path = write(facts(), tmp_path / "facts.toml")
    done = flexlora("run", path, "--out", tmp_path / "run")
    assert done.code == 0
    assert "own bits ↑, by client type" in done.out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {row["state"]: row for row in results["rows"]}
    types = prepare(facts()).roster.types
    for row in rows.values():
        own = row["own"]
        by_type = {"weak": 0.0, "strong": 0.0}
        for client in own["clients"]:
            by_type[types[client["client"]]] += client["bits"]
        assert {k: v["bits"] for k, v in own["types"].items()} == pytest.approx(by_type)
        assert own["mean"]["bits"] == pytest.approx(sum(by_type.values()))
        assert sum(v["bits"] for v in own["categories"].values()) == pytest.approx(
            own["mean"]["bits"]
        )
        assert 0.0 <= own["mean"]["bits"] <= 12 * 3 * math.log2(10)
    assert rows["full"]["own"]["mean"]["bits"] > rows["base"]["own"]["mean"]["bits"] == 0.0
    done = flexlora("inspect", tmp_path / "run")
    assert done.code == 0
    assert "of strong" in done.out
    assert "of weak" in done.out


def test_a_dry_run_tells_the_ceiling_and_what_adapters_hold(
    tmp_path: Path, flexlora: Flexlora
) -> None:
    path = write(facts(), tmp_path / "facts.toml")
    done = flexlora("run", path, "--dry-run")
    assert done.code == 0
    assert "bits to remember, and what an adapter holds" in done.out
    assert "ceiling: 120 bits" in " ".join(done.out.split())
    assert "Every rank holds all of it" in " ".join(done.out.split())
    done = flexlora("run", path, "--dry-run", "--json", "--set", "data.facts=128")
    forecast = json.loads(done.out)["forecast"]
    kinds = {kind["name"]: kind for kind in forecast["types"]}
    # q and v of four layers, 128 → 128 each.
    assert kinds["weak"]["parameters"] == 8 * (128 + 128)
    assert kinds["strong"]["parameters"] == 4 * kinds["weak"]["parameters"]
    assert kinds["weak"]["capacity"] == pytest.approx(0.3 * 2_048)
    assert kinds["weak"]["bits"] == pytest.approx(64 * 3 * math.log2(10))
    assert forecast["ceiling"] == pytest.approx(128 * 3 * math.log2(10))


def test_other_data_has_no_ceiling(tmp_path: Path, flexlora: Flexlora) -> None:
    path = write(small(), tmp_path / "small.toml")
    done = flexlora("run", path, "--dry-run", "--json")
    forecast = json.loads(done.out)["forecast"]
    assert done.code == 0
    assert forecast["ceiling"] is None
    assert {kind["bits"] for kind in forecast["types"]} == {None}
    done = flexlora("run", path, "--dry-run")
    assert done.code == 0
    assert "ceiling" not in done.out
