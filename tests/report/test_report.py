"""What the page says of runs of every kind, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flexlora.errors import RunError
from flexlora.federation import run
from flexlora.report import write_report
from flexlora.report.blocks import Mark, Table
from flexlora.report.histograms import histogram
from flexlora.report.read import read_runs
from flexlora.report.runs import Measure, differing_data
from flexlora.runs.events import Failed
from flexlora.runs.run_directory import Run
from report.pages import figures, words
from report.synthetic import synthetic_run
from resealed import reseal
from small import small

LIMIT_BYTES = 5_000_000
TINY: dict[str, Any] = {"rounds": 3, "clients": 8, "unseen": 4, "labels": 3, "layers": 1}


def test_a_real_run(tmp_path: Path) -> None:
    config = small(federation={"rounds": 2}, evaluation={"metrics": ["loss"]})
    folder = run(config, tmp_path / "real").folder
    page = write_report([folder])
    assert page == folder / "report.html"
    text = words(page)
    for part in ("Validation loss by round", "Effective rank by round", "No client failed."):
        assert part in text
    assert "ROUGE-L by category" not in text
    assert all(figure["data"] for figure in figures(page))


def test_a_large_run_is_small(tmp_path: Path) -> None:
    page = write_report([synthetic_run(tmp_path / "big")])
    assert page.stat().st_size <= LIMIT_BYTES
    assert "Not shown: 1,550 more rows" in words(page)


def test_nothing_is_loaded(tmp_path: Path) -> None:
    html = write_report([synthetic_run(tmp_path / "r", **TINY)]).read_text()
    assert "default-src 'none'" in html
    outside = html.split("<script>")[0]
    assert not re.search(r'(src|href)="(?!#|data:)', outside)


def test_hidden_characters_of_names_are_seen_in_texts_and_plots(tmp_path: Path) -> None:
    """A line separator in a name would end the expressions that the plotting library makes."""
    evil = "n\u2028b\u202ec\x1b\nd"
    folder = synthetic_run(tmp_path / "r", **TINY, prefix=evil)
    run = Run.open(folder)
    run.append_event(Failed(1, evil, f"reason {evil}"))
    page = write_report([folder])
    shown = r"n\u2028b\u202ec\x1b"
    assert f"reason {shown}" in words(page)

    def texts(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set().union(*map(texts, [*value, *value.values()]))
        if isinstance(value, list):
            return set().union(*map(texts, value))
        return {value} if isinstance(value, str) else set()

    found = texts(figures(page))
    assert any(text.startswith(rf"{shown}\nd 000") for text in found)
    assert all(text.isprintable() for text in found)
    body = page.read_text().split("<script>")[0]
    assert not {"\u2028", "\u202e", "\x1b"} & set(body)


def test_several_runs_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        synthetic_run(tmp_path / f"{rule}-seed{seed}", **TINY, rule=rule, seed=seed, lift=lift)
        for rule, lift in (("fedit", 0.3), ("flexlora", 2.0))
        for seed in (0, 1)
    ]
    assert [r.arm for r in read_runs(runs)] == ["fedit", "fedit", "flexlora", "flexlora"]
    monkeypatch.chdir(tmp_path)
    page = write_report(runs)
    assert page.resolve() == (tmp_path / "report.html").resolve()
    assert "Mean ± standard deviation over seeds" in words(page)
    best = re.findall(r'best">.*?</tr>', page.read_text())
    assert best


def test_labels_are_unique_whatever_folders_are_called(tmp_path: Path) -> None:
    names = ("a/x", "b/x", "c/x (2)", "d/x", "e/x (2)")
    for name in names:
        (tmp_path / name).parent.mkdir()
    found = read_runs([synthetic_run(tmp_path / name, **TINY) for name in names])
    assert [run.label for run in found] == ["x", "x (2)", "x (2) (2)", "x (3)", "x (2) (3)"]


def began(folder: Path, parent: Path | None, seed: int, **record: Any) -> Path:
    """A run that continues another, or begins from an adapter."""
    made = synthetic_run(folder, **TINY, seed=seed)
    known = {"path": str(parent), "kind": "run", "rule": "flexlora", "round": 3, "commit": None}
    known |= {"fingerprint": f"of {parent}", "start": 0}
    (made / "parent.json").write_text(json.dumps({**known, **record}))
    return reseal(made)


def test_runs_that_began_elsewhere_differ_in_more_than_the_seed(tmp_path: Path) -> None:
    """Seeds of one chain are one arm; fresh runs, other chains and other rounds are not."""
    first = [synthetic_run(tmp_path / f"first-{s}", **TINY, seed=s) for s in (0, 1)]
    other = synthetic_run(tmp_path / "other", **TINY, rule="fedit")
    second = [began(tmp_path / f"second-{s}", first[s], s) for s in (0, 1)]
    third = [began(tmp_path / f"third-{s}", second[s], s) for s in (0, 1)]
    of_other = began(tmp_path / "of other", other, 0)
    earlier = began(tmp_path / "earlier", first[0], 0, round=2)
    gone = [began(tmp_path / f"gone-{s}", tmp_path / f"no {s}", s) for s in (0, 1)]
    same = [began(tmp_path / f"same-{s}", None, s, kind="adapter") for s in (0, 1)]
    runs = [*first, *second, *third, of_other, earlier, *gone, *same]
    arms: dict[str, list[str]] = {}
    for found in read_runs(runs):
        arms.setdefault(found.arm, []).append(found.label)
    assert list(arms.values()) == [
        ["first-0", "first-1"],
        ["second-0", "second-1"],
        ["third-0", "third-1"],
        ["of other"],
        ["earlier"],
        ["gone-0"],
        ["gone-1"],
        ["same-0", "same-1"],
    ]


def test_a_run_that_says_it_began_from_itself_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    began(folder, folder, 0)
    assert [run.label for run in read_runs([folder])] == ["r"]


def test_best_is_marked_in_the_metric_s_own_direction(tmp_path: Path) -> None:
    runs = [
        synthetic_run(tmp_path / name, **TINY, lift=lift, metrics=("loss",))
        for name, lift in (("weak", 0.1), ("strong", 2.0))
    ]
    html = write_report(runs, tmp_path / "page.html").read_text()
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th><td class=\"n best\">", html)
    assert set(rows) == {"strong"}


@pytest.mark.parametrize(("lifts", "marked"), [((2.0, 2.0), True), ((2.0, 0.01), False)])
def test_an_arm_is_best_where_it_is_on_every_seed(
    tmp_path: Path, lifts: tuple[float, float], marked: bool
) -> None:
    """In the second case its mean is the better one, still."""
    runs = [
        synthetic_run(tmp_path / f"{name}-seed{s}", **TINY, seed=s, rule=rule, lift=lift)
        for name, rule, of in (("a", "fedit", (0.4, 0.4)), ("b", "flexlora", lifts))
        for s, lift in enumerate(of)
    ]
    html = write_report(runs, tmp_path / "page.html").read_text()
    (table,) = re.findall(
        r"<caption>Mean ± standard deviation over seeds, full state, unseen.*?</table>", html, re.S
    )
    assert ('n best"' in table) == marked


def test_other_data_is_said(tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / name, **TINY) for name in "ab"]
    data = json.loads((runs[1] / "data.json").read_text())
    (runs[1] / "data.json").write_text(json.dumps({**data, "fingerprint": "0"}))
    reseal(runs[1])
    assert differing_data(read_runs(runs)) == ["data"]
    page = write_report(runs, tmp_path / "page.html")
    assert "differ in their data: do not compare their scores directly" in words(page)
    assert "best:" not in words(page)


def test_data_that_follows_the_seed_is_no_warning(tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / f"r-seed{seed}", **TINY, seed=seed) for seed in (0, 1)]
    data = json.loads((runs[1] / "data.json").read_text())
    (runs[1] / "data.json").write_text(json.dumps({**data, "fingerprint": "0"}))
    reseal(runs[1])
    text = words(write_report(runs, tmp_path / "page.html"))
    assert "The data differ by seed" in text
    assert "do not compare" not in text


def test_an_unfinished_run(tmp_path: Path) -> None:
    folder = synthetic_run(tmp_path / "r", **{**TINY, "rounds": 1}, finished=False)
    assert "(1 of 1 round played)" in words(write_report([folder]))


def test_a_run_that_has_played_nothing(tmp_path: Path) -> None:
    folder = synthetic_run(tmp_path / "r", **{**TINY, "rounds": 0, "labels": 2}, finished=False)
    text = words(write_report([folder]))
    assert "No round has been played yet." in text
    assert "No run has records of its singular values." in text


def test_older_runs_have_no_spectra_and_no_partition(tmp_path: Path) -> None:
    folder = synthetic_run(tmp_path / "r", **TINY)
    (folder / "spectra.jsonl").unlink()
    data = json.loads((folder / "data.json").read_text())
    del data["partition"]
    (folder / "data.json").write_text(json.dumps(data))
    reseal(folder)
    text = words(write_report([folder]))
    assert "No run has records of its singular values." in text
    assert "no record of who holds which examples" in text


def test_a_metric_of_the_user_s_own(tmp_path: Path) -> None:
    folder = synthetic_run(tmp_path / "r", **TINY, metrics=("politeness", "loss"))
    assert Measure.of("politeness").higher is None
    assert Measure.of("politeness", {"politeness": False}).heading == "politeness ↓"
    assert "Validation politeness by round" in words(write_report([folder]))
    with (folder / "resolved.toml").open("a") as file:
        file.write("[higher_is_better]\npoliteness = true\nloss = false\n")
    reseal(folder)
    assert "politeness ↑" in words(write_report([folder]))


def test_an_existing_report_is_replaced_and_runs_stay_as_they_are(tmp_path: Path) -> None:
    folder = synthetic_run(tmp_path / "r", **TINY)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    page = write_report([folder], tmp_path / "page.html")
    page.write_text("old")
    assert write_report([folder], page).stat().st_size > 1000
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_is_no_run_or_damaged_writes_nothing(tmp_path: Path) -> None:
    folder = synthetic_run(tmp_path / "r", **TINY)
    page = tmp_path / "page.html"
    (folder / "results.json").write_text('{"rows": [{"state": "base", "unseen": 3}]}')
    reseal(folder)
    with pytest.raises(RunError, match=r"results\.json is missing or damaged"):
        write_report([folder], page)
    with pytest.raises(RunError, match="given twice"):
        write_report([folder, tmp_path / "." / "r"], page)
    with pytest.raises(RunError, match="at least one run"):
        write_report([], page)
    assert not page.exists()


@pytest.mark.parametrize("name", ["results.json", "SHA256SUMS", "config.toml"])
def test_a_run_s_own_files_are_not_replaced_by_a_page(tmp_path: Path, name: str) -> None:
    folder = synthetic_run(tmp_path / "r", **TINY)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=rf"{name} is no name for a page.*ends in \.html"):
        write_report([folder], folder / name)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_many_rounds_are_thinned_in_a_table_that_says_so(tmp_path: Path) -> None:
    text = words(write_report([synthetic_run(tmp_path / "r", **TINY | {"rounds": 500})]))
    assert "Of 500 rounds one in 3 is here, and the last; metrics.jsonl has them all." in text
    assert "one in" not in words(write_report([synthetic_run(tmp_path / "few", **TINY)]))


def test_without_javascript_a_page_says_where_the_numbers_are(tmp_path: Path) -> None:
    assert "Figures need JavaScript" in words(write_report([synthetic_run(tmp_path / "r", **TINY)]))


@pytest.mark.parametrize("seeds", [(1, 2), (10, 11), (1, 10), (1, 103)])
def test_an_arm_is_not_named_by_half_a_seed(tmp_path: Path, seeds: tuple[int, int]) -> None:
    runs = [synthetic_run(tmp_path / f"flexlora-seed{seed}", **TINY, seed=seed) for seed in seeds]
    assert {run.arm for run in read_runs(runs)} == {"flexlora"}


def test_columns_share_their_digits_and_beyond_the_limit_is_counted() -> None:
    table = Table.of("t", ["a", "b"], [["x", 12.345], ["y", Mark(-1.0, best=True)]] * 2, limit=3)
    assert [row[1].text for row in table.rows] == ["12.35", "−1.00", "12.35"]
    assert table.numeric == (False, True)
    assert table.more == "Not shown: 1 more row."


def test_every_value_is_in_one_bin() -> None:
    values = [-3.0, -0.5, 0.0, 0.2, 7.0, 7.0]
    _, bins = histogram({"a": values}, x="x", y="y", series=["a"], whole=False)
    assert sum(n for *_, n in bins) == len(values)
    assert {low for _, low, _, _ in bins} >= {0.0}
    _, same = histogram({"a": [4.0, 4.0]}, x="x", y="y", series=["a"], whole=True)
    assert sum(n for *_, n in same) == 2
