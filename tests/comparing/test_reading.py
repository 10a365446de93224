"""The tidy table is what the cells' own files say, read without weights; and what holds it."""

from __future__ import annotations

import csv
import json
import math
import shutil
import statistics
from pathlib import Path

import pyarrow.parquet
import pytest

from comparing.comparisons import comparison
from comparing.made_up import row
from flexlora.comparing.cells import finished
from flexlora.comparing.folder import begin
from flexlora.comparing.reading import _beyond, tidy
from flexlora.comparing.table import COLUMNS, Row, Tidy
from flexlora.comparing.written import csv_text, write_parquet, write_tables
from flexlora.runs.run_directory import Run
from flexlora.runs.spectra import Layer


@pytest.fixture(scope="module")
def table(compared: Path) -> Tidy:
    return tidy(finished(compared))


def only(table: Tidy, **wanted: object) -> Row:
    """The one row with these entries."""
    (found,) = (r for r in table.rows if all(getattr(r, k) == x for k, x in wanted.items()))
    return found


def test_final_scores_are_those_of_results_json(compared: Path, table: Tidy) -> None:
    results = json.loads((compared / "cells/flexlora/1/results.json").read_text())
    seen = 0
    for told in results["rows"]:
        for part in ("own", "unseen"):
            scores = told[part]
            groups = [("", "", scores["mean"])]
            groups += [("", name, x) for name, x in scores["categories"].items()]
            groups += [(name, "", x) for name, x in scores.get("types", {}).items()]
            alike = {"arm": "flexlora", "seed": 1, "part": part, "state": told["state"]}
            singles = [r for r in table.rows if r.client and not alike.items() - vars(r).items()]
            told_singles = [
                (x["client"], x["category"], x["examples"], metric, x[metric])
                for x in scores["clients"]
                for metric in ("loss", "token_loss")
            ]
            assert told_singles == [
                (r.client, r.category, r.examples, r.metric, r.value) for r in singles
            ]
            for clients, category, values in groups:
                for metric in ("loss", "token_loss"):
                    found = only(
                        table,
                        arm="flexlora",
                        seed=1,
                        final=True,
                        part=part,
                        state=told["state"],
                        clients=clients,
                        category=category,
                        client="",
                        metric=metric,
                    )
                    assert (found.value, found.ranks) == (values[metric], told["ranks"])
                    assert found.examples == values["examples"]
                    seen += 1
    means = (r for r in table.rows if r.final and not r.client)
    in_parts = (r for r in means if (r.arm, r.seed) == ("flexlora", 1))
    assert seen == sum(r.part != "validation" for r in in_parts)
    assert {told["state"] for told in results["rows"]} == {"base", "full", "low", "high"}


def test_costs_add_up_to_those_of_the_run(compared: Path, table: Tidy) -> None:
    run = Run.open(compared / "cells/fedit/0")
    up = down = tokens = 0
    for record in run.records():
        up += record.bytes_up
        down += record.total_bytes_down
        tokens += record.tokens
        wanted = {"arm": "fedit", "seed": 0, "round": record.round, "final": False}
        found = only(table, **wanted, part="validation", state="full", metric="loss")
        assert (found.bytes_up, found.bytes_down, found.tokens) == (up, down, tokens)
        assert found.value == record.scores["loss"]
        assert only(table, **wanted, metric="train_loss").value == record.train_loss
    ended = run.ended()
    assert ended is not None
    of = {"arm": "fedit", "seed": 0, "final": True, "clients": "", "category": "", "client": ""}
    found = only(table, **of, part="own", state="full", metric="loss")
    assert (found.bytes_up, found.bytes_down) == (ended.bytes_up, ended.bytes_down)
    assert (found.tokens, found.round) == (tokens, ended.scored_round)
    found = only(table, **of, part="own", state="base", metric="loss")
    assert (found.bytes, found.tokens, found.round) == (0, 0, 0)


def test_validation_s_outcome_is_that_of_the_round_that_was_scored(
    compared: Path, table: Tidy
) -> None:
    run = Run.open(compared / "cells/flexlora/2")
    ended = run.ended()
    assert ended is not None
    (record,) = (r for r in run.records() if r.round == ended.scored_round)
    assert table.finals("validation", "full", "loss")["flexlora"][2] == record.scores["loss"]


def test_the_training_is_described_by_round(compared: Path, table: Tidy) -> None:
    run = Run.open(compared / "cells/flexlora/0")
    (record,) = (r for r in run.records() if r.round == 2)
    at = {"arm": "flexlora", "seed": 0, "round": 2, "part": "training"}
    assert record.cut is not None
    assert only(table, **at, metric="cut").value == record.cut.error
    shares = [only(table, **at, metric=f"energy_{k}").value for k in (1, 2, 4)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=1e-4)  # Rank 4 is all that this rule keeps.
    assert 1.0 <= only(table, **at, metric="effective_rank").value <= 4.0
    layers = next(x for x in run.read_spectra() if x["round"] == 2)["layers"].values()
    beyond = [math.hypot(*x["values"][2:]) / x["norm"] for x in layers]
    lost = only(table, **at, metric="truncation", state="low")
    assert lost.value == pytest.approx(statistics.median(beyond))
    assert lost.ranks == "2"
    assert only(table, **at, metric="truncation", state="high").value == 0.0


def test_the_base_model_is_an_arm_without_training(table: Tidy) -> None:
    rows = [row for row in table.rows if row.arm == "base"]
    assert {row.state for row in rows} == {"base"}
    assert {(r.bytes, r.tokens, r.learning_rate, r.final) for r in rows} == {(0, 0, 0.0, True)}
    assert table.rates == dict.fromkeys(("flexlora", "fedit", "mine, |a| *b*"), 1e-2)
    base = table.finals("own", "full", "loss")["base"]
    assert base == table.finals("own", "base", "loss")["flexlora"]
    assert set(base) == {0, 1, 2}


def test_no_tensor_is_read(compared: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    for tensors in out.rglob("*.safetensors"):
        tensors.write_bytes(b"damage")
    assert tidy(finished(out)).rows == tidy(finished(compared)).rows


def test_csv_and_parquet_hold_the_same_and_read_back(table: Tidy, tmp_path: Path) -> None:
    lines = list(csv.DictReader(csv_text(table.rows).splitlines()))
    write_parquet(table.rows, tmp_path / "t.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert tuple(lines[0]) == tuple(read.column_names) == COLUMNS
    for of, line, typed in zip(table.rows, lines, read.to_pylist(), strict=True):
        assert Row(**typed) == of
        assert float(line["value"]) == of.value
        assert {k: str(x) for k, x in typed.items()} == line


def test_what_is_no_number_is_empty_in_csv() -> None:
    nothing = row("a", 0, math.nan)
    assert csv_text([nothing]).splitlines()[1] == (
        "a,0,0.01,3,True,own,full,full,,,,4,loss,,300,600,90,0.0"
    )


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    write_parquet([], tmp_path / "t.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").num_rows == 0


def test_without_pyarrow_the_others_are_written_and_it_is_said(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    assert [path.name for path in write_tables(out).files][2:] == ["table.parquet", "arms.svg"]
    monkeypatch.setattr("flexlora.extras.find_spec", lambda _: None)
    written = write_tables(out)
    assert [path.name for path in written.files] == ["table.csv", "table.md"]
    assert not (out / "table.parquet").exists()
    assert not (out / "arms.svg").exists()
    assert written.told[-2:] == (
        "table.parquet is asked for, but pyarrow is not installed; install the extra "
        "flexlora[parquet]; table.csv holds the same.",
        "arms.svg is asked for, but altair and vl_convert are not installed; install the extra "
        "flexlora[report]; table.md holds its numbers.",
    )


def test_a_damaged_cell_is_named(compared: Path, tmp_path: Path) -> None:
    from flexlora.errors import RunError

    out = Path(shutil.copytree(compared, tmp_path / "out"))
    path = out / "cells/fedit/1/results.json"
    path.write_text(path.read_text().replace('"loss"', '"lost"', 1))
    with pytest.raises(RunError, match=r"fedit/1/results\.json is missing or damaged"):
        write_tables(out)


def test_what_a_rank_cannot_hold_is_told_of_spectra_that_are_longer_than_what_is_kept() -> None:
    """Of rank 40, the first 32 singular values are kept: what is beyond them is in the norm."""
    values = (2.0, *(1.0 for _ in range(31)))
    longer = Layer(values, 30.0, 40, math.sqrt(4.0 + 39.0))
    assert _beyond(longer, 1) == pytest.approx(math.sqrt(39.0))
    assert _beyond(longer, 32) == pytest.approx(math.sqrt(8.0))
    assert _beyond(longer, 33) is None
    assert _beyond(longer, 39) is None
    assert _beyond(longer, 40) == _beyond(longer, 64) == 0.0
    assert _beyond(Layer((3.0, 1.0), 1.5, 2, math.sqrt(10.0)), 1) == 1.0
    assert _beyond(Layer((3.0, 1.0), 1.5, 2, math.sqrt(10.0)), 8) == 0.0


def test_of_a_comparison_that_has_just_begun_there_are_tables_too(tmp_path: Path) -> None:
    begin(comparison(primary=["flexlora", "fedit"], level=0.5), tmp_path / "out")
    (tmp_path / "out" / "arms.svg").write_text("of before")
    written = write_tables(tmp_path / "out")
    assert not (tmp_path / "out" / "arms.svg").exists()
    assert written.told[0].endswith("not known yet, for no seed has a value of both.")
    assert (tmp_path / "out" / "table.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert (
        "No finished run has a round that was validated by loss"
        in (tmp_path / "out" / "table.md").read_text()
    )
