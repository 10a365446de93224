"""`flexlora compare`: what it prints, what it refuses, and processes that die in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from commands import PROCESS, Flexlora, assert_one_sentence
from comparing.comparisons import comparison, played
from flexlora.comparing.cells import finished
from same_run import assert_same_run

ASKED = comparison(None, {"federation": {"rounds": 3}}, controls=["base"])
CELLS = [f"{arm}/{seed}" for arm in ("flexlora", "fedit") for seed in (0, 1)]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    played(ASKED, out)
    return out


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "ours.toml"
    path.write_text(ASKED.to_toml())
    return path


def test_a_dry_run_counts_and_checks_and_writes_nothing(
    flexlora: Flexlora, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = flexlora("compare", config, "--dry-run")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("flexlora: flexlora, 0.")
    assert "MB up a round" in lines[0]
    assert lines[2:] == ["arms: flexlora, fedit, base", "2 arms to play on 2 seeds", "runs: 4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.toml"]


def test_a_dry_run_tells_of_the_tuning_and_the_primary_comparison(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    asked = comparison(
        rates=[1e-3, 1e-2], tuning_seeds=[7], primary=["fedit", "flexlora"], level=0.5
    )
    (tmp_path / "c.toml").write_text(asked.to_toml())
    done = flexlora("compare", tmp_path / "c.toml", "--dry-run")
    assert done.out.splitlines()[-3:] == [
        "tuning: 2 learning rates on 1 seed, 4 runs, more where the grid grows",
        "runs: 8",
        "primary comparison: fedit against flexlora",
    ]


def test_arms_that_do_not_fit_the_data_are_told_before_anything_is_played(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    types = {"low": {"no_proj": 2, "all": 2}, "high": 4}
    asked = comparison({"odd": {"clients": {"types": types}}})
    (tmp_path / "c.toml").write_text(asked.to_toml())
    for look in (["--dry-run"], []):
        done = flexlora("compare", tmp_path / "c.toml", "--out", tmp_path / "out", *look)
        assert_one_sentence(done, "arm odd: rank pattern 'no_proj' matches no adapted layer")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_looks_at_what_is_in_the_folder(
    flexlora: Flexlora, config: Path, once: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(once, tmp_path / "out"))
    (out / "cells" / "fedit" / "1" / "results.json").unlink()
    done = flexlora("compare", config, "--out", out, "--dry-run")
    assert done.out.splitlines()[-2:] == ["runs: 4", f"finished in {out}: 3 of 4 runs that count"]
    config.write_text(config.read_text().replace("rounds = 3", "rounds = 4"))
    done = flexlora("compare", config, "--out", out, "--dry-run")
    assert_one_sentence(done, "holds another comparison: federation.rounds is 4, was 3")


def test_arms_that_cannot_be_are_told_at_once(flexlora: Flexlora, tmp_path: Path) -> None:
    bad = {"rule": {"name": "flexlor"}}
    asked = comparison({"a": bad, "b": bad, "c": {"training": {"epochs": 0}}})
    (tmp_path / "c.toml").write_text(asked.to_toml())
    done = flexlora("compare", tmp_path / "c.toml", "--out", tmp_path / "out")
    assert_one_sentence(done, "arms a, b: rule.name is 'flexlor'", "; and arm c: config training.e")
    assert not (tmp_path / "out").exists()


def test_what_is_finished_is_shown_without_weights_while_the_rest_is_not(
    flexlora: Flexlora, config: Path, once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(once, tmp_path / "out"))
    (out / "cells" / "fedit" / "1" / "results.json").unlink()
    for checkpoint in out.glob("cells/*/*/checkpoints"):
        shutil.rmtree(checkpoint)
    monkeypatch.setattr("flexlora.config.base.load_model", None)
    done = flexlora("compare", config, "--out", out, "--show")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("loss on the clients' own test examples, full state; mean ± half of")
    assert "No primary comparison was fixed in the config" in done.out
    assert "Not finished: of 2 seeds, some arms have fewer: fedit (1)." in done.out
    assert "tables: table.csv, table.md, table.parquet, arms.svg" in lines
    assert "fedit" in (out / "table.md").read_text()
    for arm, seeds in (("flexlora", 2), ("fedit", 1), ("base", 2)):
        assert any(x.startswith(f"  {arm}: ") and f"({seeds} of 2" in x for x in lines), done.out


def test_a_second_start_has_nothing_to_do_and_a_changed_config_is_refused(
    flexlora: Flexlora, config: Path, once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(once, tmp_path / "out"))
    with monkeypatch.context() as without:
        without.setattr("flexlora.config.base.load_model", None)  # Not even the model is needed.
        done = flexlora("compare", config, "--out", out)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"comparison: {out}"
    config.write_text(config.read_text().replace("rounds = 3", "rounds = 4"))
    done = flexlora("compare", config, "--out", out)
    assert_one_sentence(done, "holds another comparison: federation.rounds is 4, was 3")


def test_what_cannot_be_is_refused(flexlora: Flexlora, config: Path, tmp_path: Path) -> None:
    done = flexlora("compare", config, "--out", tmp_path / "none", "--show")
    assert_one_sentence(done, "holds no comparison")
    assert_one_sentence(flexlora("compare", config, "--show", "--dry-run"), "exclude each other")
    assert_one_sentence(flexlora("compare", tmp_path / "no.toml"), "does not exist")


def test_a_cell_that_fails_makes_exit_code_1_and_is_shown(
    flexlora: Flexlora, config: Path, once: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(once, tmp_path / "out"))
    cell = out / "cells" / "fedit" / "1"
    (cell / "results.json").unlink()
    (cell / "resolved.toml").write_text("damage")
    done = flexlora("compare", config, "--out", out)
    assert done.code == 1
    assert "flexlora: fedit, seed 1 failed: " in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith(f"flexlora: 1 of the runs in {out} failed and will be tried again")
    assert "cells/fedit/1: " in last
    assert "failed: cells/fedit/1: " in done.out


def begin(config: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROCESS, "compare", str(config), "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.whole
def test_killed_in_the_middle_it_ends_at_the_same_bits_in_two_processes(
    config: Path, once: Path, tmp_path: Path
) -> None:
    """kill -9 takes the process that helped with it; then two are started by hand on one folder,
    one of them with a helper again."""
    out = tmp_path / "out"

    def in_the_middle() -> bool:
        rounds = [x for x in out.glob("cells/*/*/metrics.jsonl") if x.stat().st_size]
        return any(not x.with_name("results.json").exists() for x in rounds)

    with begin(config, out, "--workers", "2") as killed:
        until(in_the_middle, killed)
        helpers = psutil.Process(killed.pid).children()
        killed.send_signal(signal.SIGKILL)
        assert len(helpers) == 1
        psutil.wait_procs(helpers, timeout=60)
        assert not any(helper.is_running() for helper in helpers)
    assert len(finished(out)) < 6
    with begin(config, out, "--workers", "2") as one, begin(config, out) as other:
        told = [process.communicate(timeout=200) for process in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0), told
        assert [err for _, err in told] == ["", ""]
    for cell in CELLS:
        assert_same_run(out / "cells" / cell, once / "cells" / cell)
        ended = [line for out_, _ in told for line in out_.splitlines() if _of(cell) in line]
        assert len([line for line in ended if ": loss " in line]) <= 1  # Each by one of them.
    assert all("comparison: " in out_ for out_, _ in told)


def _of(cell: str) -> str:
    arm, seed = cell.split("/")
    return f"{arm}, seed {seed}"


def test_a_stop_says_with_which_command_to_go_on(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(config, out) as process:
        until(lambda: any(out.glob("cells/*/*/metrics.jsonl")), process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    wanted = f"flexlora: stopped by SIGTERM; go on with: flexlora compare {config} --out {out}"
    assert err.splitlines()[-1] == wanted
    assert not (out / "failed.json").exists()
