"""Tables at the widths that people have: stacked where they are too wide, never cut."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import Flexlora
from flexlora.cli.console import Screen
from flexlora.cli.results_view import results_table
from flexlora.cli.sheets import Column, Sheet
from flexlora.federation import run
from flexlora.runs import Result
from flexlora.runs.run_directory import Run
from flexlora.runs.spectra import read_spectra
from small import small
from terminal import lines_on_a_terminal
from warm import Warm

NUMBERS = st.lists(st.integers(0, 10**9).map(lambda n: f"{n:,}"), min_size=1, max_size=12)


def printed(sheet: Sheet, width: int) -> list[str]:
    file = io.StringIO()
    sheet.print(Screen(file=file, width=width))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
@given(name=st.text("ab_", min_size=1, max_size=70), row=NUMBERS)
def test_no_number_is_cut_and_no_line_is_too_long(width: int, name: str, row: list[str]) -> None:
    columns = [Column(f"column\n{place}", [number]) for place, number in enumerate(row)]
    lines = printed(Sheet("a table", Column("name", [name]), columns), width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert all(number in words for number in row)
    assert "…" not in "".join(lines)


def test_words_are_folded_and_not_cut() -> None:
    rounds = ", ".join(map(str, range(1, 400, 3)))
    sheet = Sheet("", Column("client", ["a"]), [Column("rounds", [rounds], left=True)])
    lines = printed(sheet, 80)
    assert max(map(len, lines)) <= 80
    assert all(f"{number}" in " ".join(lines) for number in range(1, 400, 3))
    assert "…" not in "".join(lines)


def test_what_fits_is_one_table_and_what_does_not_repeats_the_names() -> None:
    columns = [Column(f"metric {place}", ["1,234.567"]) for place in range(6)]
    sheet = Sheet("", Column("adapter", ["full state"], left=True), columns)
    assert sum("adapter" in line for line in printed(sheet, 120)) == 1
    narrow = printed(sheet, 50)
    assert sum("adapter" in line for line in narrow) == 2
    assert sum(line.count("1,234.567") for line in narrow) == 6


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    types = {"a type with a long name": {"attention": 2, "all": 4}, "low": 2}
    clients = {"mix": dict.fromkeys(types, 0.5), "types": types}
    return run(small(clients=clients), tmp_path_factory.mktemp("runs") / "r")


@pytest.mark.parametrize("width", [80, 120])
def test_every_table_of_a_run_fits(result: Result, warm: Warm, width: int) -> None:
    ended = Run.open(result.folder).ended()
    assert ended is not None
    config = result.folder / "config.toml"
    for command in (["inspect", result.folder], ["resume", result.folder]):
        lines = lines_on_a_terminal(warm, *command, width=width)
        # Sentences are never wrapped; no number of a table has a comma behind it.
        tables = [line for line in lines if ", " not in line or "attention 2" in line]
        tables = [line for line in tables if str(result.folder) not in line]
        assert max(map(len, tables)) <= width
        text = "\n".join(lines)
        for row in ended.rows:
            assert f"{row.unseen['loss']:.3f}" in text
        assert "a type with a long name (attention 2, mlp 4)" in " ".join(text.split())
    lines = lines_on_a_terminal(warm, "run", config, "--dry-run", width=width)
    assert any("attention 2, mlp 4" in line for line in lines)


def test_inspect_shows_what_was_learned_and_scored(result: Result, flexlora: Flexlora) -> None:
    told = flexlora("inspect", result.folder).out
    spectra = Run.open(result.folder).read_spectra()[-1]["layers"]
    ranks = sorted(layer["effective_rank"] for layer in spectra.values())
    assert f"effective rank {ranks[0]:.1f} to {ranks[-1]:.1f}" in told
    assert "self_attn.q_proj" in told
    for row in result.rows:
        assert f"{row.unseen.mean()['loss']:.3f}" in told


def test_a_run_that_has_ended_is_not_scored_again(
    result: Result, flexlora: Flexlora, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was prepared")

    monkeypatch.setattr("flexlora.federation.place.prepare", never)
    before = {p: p.stat().st_mtime_ns for p in result.folder.rglob("*")}
    done = flexlora("resume", result.folder)
    assert (done.code, done.err) == (0, "")
    assert "has ended: 3 rounds played" in done.out
    assert f"{result.rows[1].unseen.mean()['loss']:.3f}" in done.out
    assert flexlora("resume", result.folder, "--quiet").out == f"{result.folder}\n"
    assert '"event": "result"' in flexlora("resume", result.folder, "--json").out
    assert {p: p.stat().st_mtime_ns for p in result.folder.rglob("*")} == before


def test_lost_results_are_made_again(result: Result, flexlora: Flexlora, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(result.folder, tmp_path / "copy"))
    before = (copy / "results.json").read_bytes()
    (copy / "results.json").unlink()
    assert flexlora("resume", copy).code == 0
    assert (copy / "results.json").read_bytes() == before


def test_what_a_row_was_not_scored_by_is_a_dash(
    result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = Run.open(result.folder).ended()
    assert ended is not None
    base, full, *others = ended.rows
    lacking = replace(full, unseen=replace(full.unseen, values={}), own=None)
    results_table([replace(ended, rows=(base, lacking, *others))])
    line, *_ = (x for x in capsys.readouterr().out.splitlines() if x.startswith("  full state"))
    assert line.split()[2:4] == ["–", "–"]


def test_what_the_full_state_lacks_is_told(
    result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(result.folder)
    ended = run.ended()
    assert ended is not None
    results_table([ended])
    told = capsys.readouterr().out
    (record,) = (x for x in run.records() if x.round == ended.scored_round)
    (seen,) = (x for x in read_spectra(run) if x.round == ended.scored_round)
    assert record.cut is not None
    kept = sum(layer.norm**2 for layer in seen.layers.values())
    share = record.cut.error**2 / (record.cut.error**2 + kept)
    assert f"lacks {share:.2%} of its sum's energy, cut off in round {record.round}" in told
