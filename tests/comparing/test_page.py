"""The report page of a comparison: its own section first, then one run of each arm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flexlora.comparing.figures import by_arm
from flexlora.comparing.findings import Findings
from flexlora.comparing.page import write_comparison
from flexlora.comparing.sentences import primary
from flexlora.comparing.statistics import interval
from flexlora.errors import RunError
from report.pages import figures, words


def test_the_page_begins_with_the_comparison(compared: Path, tmp_path: Path) -> None:
    page = write_comparison(compared, tmp_path / "page.html")
    text = words(page)
    sentence = primary(Findings.of(compared))
    assert text.index("Comparison flexlora against fedit") < text.rindex("Outcome")
    assert sentence in text
    assert "All sections below show one run of each arm: seed 0." in text
    assert text.startswith("FlexLoRA report out A comparison of 4 arms over 3 seeds")
    assert "mine, |a| *b*" in text
    by_arm, by_round, by_bytes = figures(page)[:3]
    assert by_arm["description"].startswith("loss by arm.")
    assert by_round["description"].startswith("loss by round.")
    assert {row["series"] for row in by_bytes["data"]["values"]} == {
        "flexlora",
        "fedit",
        "mine, |a| *b*",
    }
    assert sorted({row["x"] for row in by_round["data"]["values"]}) == [1, 2, 3]


def test_a_line_is_the_mean_over_seeds(compared: Path, tmp_path: Path) -> None:
    from flexlora.runs.run_directory import Run

    scores = [
        next(r.scores["loss"] for r in Run.open(folder).records() if r.round == 2)
        for folder in sorted((compared / "cells" / "fedit").iterdir())
    ]
    page = write_comparison(compared, tmp_path / "page.html")
    rows = figures(page)[1]["data"]["values"]
    (point,) = (row for row in rows if (row["run"], row["x"]) == ("fedit", 2))
    assert point["y"] == pytest.approx(sum(scores) / 3, rel=1e-4)


def test_while_the_rest_runs_the_seed_with_most_arms_is_shown(
    compared: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    (out / "cells" / "fedit" / "0" / "results.json").unlink()
    page = write_comparison(out)
    assert page == out / "report.html"
    text = words(page)
    assert "seed 1." in text
    assert "some arms have fewer: fedit (2)" in text


def test_a_page_of_nothing_is_refused(compared: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    shutil.rmtree(out / "cells")
    with pytest.raises(RunError, match=r"no cell of .* is finished yet; play it with: flexlora"):
        write_comparison(out)


def test_the_arms_are_drawn_with_their_intervals(compared: Path) -> None:
    figure = by_arm(Findings.of(compared))
    assert figure is not None
    found = Findings.of(compared).values("own", "full")
    for row in figure.spec["data"]["values"]:
        around = interval(list(found[row["name"]].values()))
        assert around is not None
        assert row["x"] == pytest.approx(around.mean, rel=1e-4)
        assert (row["low"], row["high"]) == pytest.approx((around.low, around.high), rel=1e-4)
    assert [row[0].text for row in figure.table.rows] == list(Findings.of(compared).arms)
