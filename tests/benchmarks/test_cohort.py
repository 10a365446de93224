"""The cohort benchmark runs at toy size, and its sides train the same clients alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cohort
import cohort_case
import cohort_view
import usual_loop
from flexlora.formats.peft_keys import pair_keys
from flexlora.models import AdaptedModel
from flexlora.tasks.prompts import Encoded
from flexlora.training import CohortSize, train
from flexlora.training.cohort_size import Measured
from training.clients import allowed

pytestmark = pytest.mark.whole

CASE = cohort_case.Case("tiny", 2, "12")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The script sets the number of threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> AdaptedModel:
    return cohort.adapted(cohort_case.MODELS["tiny"]("cpu"), 2)


def clients_of(model: AdaptedModel, case: cohort_case.Case = CASE, **changes: Any) -> Any:
    given = {"clients": 3, "examples": 5, "rank": 2, "steps": None, **changes}
    return cohort_case.clients_of(case, model.layers, 100, **given)


def ran(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "folder" / "cohort.json"
    small = ("--clients", "3", "--examples", "5", "--rank", "2", "--repetitions", "1")
    try:
        cohort.main([*arguments, *small, "--threads", "1", "--skip-memory", "--out", str(out)])
    finally:
        assert (out.parent / "cohort.svg").read_text().startswith("<svg")
    return json.loads(out.read_text())["cases"]


def test_an_out_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cohort.parsed(["tiny:1:8", "--out", str(tmp_path)])
    assert f"{tmp_path} is a folder; give a file to write" in capsys.readouterr().err


def row(name: str, seconds: float, extra: int | None) -> dict[str, Any]:
    return {"procedure": name, "seconds": seconds, "extra_bytes": extra}


def test_a_case_has_a_row_for_each_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (case,) = ran(tmp_path, "tiny:2:12", "--cohorts", "1", "2").values()
    names = ["usual loop", "in-place copies", "ours, 1 at once", "ours, 2 at once"]
    assert [x["procedure"] for x in case["rows"]] == names
    assert [x["at_once"] for x in case["rows"]] == [1, 1, 1, 2]
    assert case["tokens"] == 3 * 5 * 12
    assert case["tokens_of_an_example"] == 12
    assert case["refused"] == []
    assert case["environment"]["torch"] == torch.__version__
    usual = case["rows"][0]
    for x in case["rows"]:
        assert x["loss"] == pytest.approx(usual["loss"], rel=1e-5)
        assert x["tokens_per_second"] == pytest.approx(180 / x["seconds"])
        assert x["faster"] == pytest.approx(usual["seconds"] / x["seconds"])
        assert x["extra_bytes"] is None
    assert sum(x["best"] for x in case["rows"][2:]) == 1
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert shown.count("★") == 1


def test_what_a_run_would_choose_is_timed_against_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = CohortSize(3, (Measured(1, 1.0, None), Measured(2, 1.5, 7)))
    monkeypatch.setattr(cohort, "choose_cohort_size", lambda *_, **__: chosen)
    (case,) = ran(tmp_path, "tiny:2:12", "--cohorts", "2").values()
    took = {x["procedure"]: x["seconds"] for x in case["rows"]}
    assert [*took][2:] == ["ours, 1 at once", "ours, 2 at once", "ours, 3 at once"]
    over = took["ours, 3 at once"] / took["ours, 1 at once"]
    assert case["chosen"]["clients"] == 3
    assert case["chosen"]["tried"][1] == {"clients": 2, "speed": 1.5, "peak_bytes": 7}
    assert case["chosen"]["over_one_by_one"] == pytest.approx(over)
    told = f"Chosen before the runs: 3 at once, in {over:.2f} × the time of one by one."
    assert told in capsys.readouterr().out


def test_a_choice_without_a_row_is_compared_with_nothing() -> None:
    rows = [row(cohort.ours(k), 3.0 / k, None) for k in (1, 2)]
    assert cohort.over_one_by_one(rows, 2) == 0.5
    assert cohort.over_one_by_one(rows, 4) is None
    assert cohort.over_one_by_one(rows[1:], 2) is None


def test_a_side_that_trains_otherwise_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = cohort.procedures([1])

    def other(model: AdaptedModel, clients: Sequence[cohort_case.Client]) -> list[float]:
        return [loss * 1.002 for loss in cohort.in_cohorts(1, model, clients)]

    wrong = {**known, "other": cohort.Procedure(cohort.adapted, other)}
    monkeypatch.setattr(cohort, "procedures", lambda *_: wrong)
    with pytest.raises(SystemExit, match="did not train alike"):
        ran(tmp_path, "tiny:2:12")
    (case,) = json.loads((tmp_path / "folder" / "cohort.json").read_text())["cases"].values()
    assert "other" not in [x["procedure"] for x in case["rows"]]
    assert case["refused"][0]["loss_off"] == pytest.approx(0.002, rel=0.01)
    assert "other: no row" in capsys.readouterr().out


@pytest.mark.parametrize("loop", [usual_loop.by_state_dict, usual_loop.in_place])
def test_the_rivals_train_the_same_adapters(model: AdaptedModel, loop: Any) -> None:
    clients = clients_of(model)
    peft = usual_loop.PeftModel(cohort_case.MODELS["tiny"]("cpu"), 2)
    losses = loop(peft, clients)
    outcomes = [train(model, client.visit()) for client in clients]
    assert losses == pytest.approx([x.loss for x in outcomes], rel=1e-5)
    assert len(set(losses)) == len(clients)
    away, way = 0.0, 0.0
    for name, factors in outcomes[-1].adapter.items():  # Theirs are still in the tensors.
        for key, ours in zip(pair_keys(name), (factors.a, factors.b), strict=True):
            sent = usual_loop._state(clients[-1].adapter)[key]
            assert not torch.equal(sent, ours)
            away += float((peft.factors[key] - ours).square().sum())
            way += float((ours - sent).square().sum())
    # In all: one number whose gradient is rounding takes another step by AdamW.
    assert away**0.5 <= allowed(torch.float32, None) * way**0.5


def test_rows_of_unequal_length_arepadded_and_masked() -> None:
    short, long = (Encoded("", "", (5,) * n, (7, 2), ()) for n in (1, 3))
    found = usual_loop.padded([short, long], 0, torch.device("cpu"))
    assert found["input_ids"].tolist() == [[5, 7, 2, 0, 0], [5, 5, 5, 7, 2]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert found["labels"].tolist() == [[-100, 7, 2, -100, -100], [-100, -100, -100, 7, 2]]


def test_every_visit_of_a_client_is_the_same(model: AdaptedModel) -> None:
    first, *others = clients_of(model, examples=6, steps=2)
    assert first.visit().lesson.batches() == first.visit().lesson.batches()
    assert first.tokens == 2 * 2 * 12
    assert any(first.visit().lesson.batches() != other.visit().lesson.batches() for other in others)


def test_memory_is_that_of_the_heaviest_batch(model: AdaptedModel) -> None:
    light, heavy = (
        clients_of(model, cohort_case.Case("tiny", 2, n), clients=1)[0] for n in ("9", "15")
    )
    found = cohort_case.heaviest([light, heavy])
    assert [len(batch) for batch in found.batches()] == [2, 2, 2]
    assert found.tokens == 3 * 2 * 15
    assert found.adapter is heavy.adapter


def test_peak_memory_covers_weights_gradient_and_moments(model: AdaptedModel) -> None:
    clients = clients_of(model, clients=1, rank=48)
    options = cohort.parsed(["tiny:2:12", "--clients", "2", "--threads", "1"])
    side = {"procedure": cohort.ours(2), "at_once": 2}
    found = cohort.memory(CASE, side, clients, options)
    states = 2 * 16 * clients[0].adapter.parameters
    assert states < found < 2 * states


def test_one_client_more_costs_what_it_should() -> None:
    rows = [row(cohort.ours(k), 1.0, 1000 + 50 * k) for k in (1, 4, 16)]
    assert cohort.one_more(rows, 2) == {
        "between": [4, 16],
        "bytes": 50,
        "state_bytes": 32,
        "activation_bytes": 1050 - 32,
        "ratio": 50 / 1050,
    }
    assert cohort.one_more(rows[:2], 2) is None


def test_sides_are_compared_with_both_rivals() -> None:
    rows = [
        row(cohort.USUAL, 6.0, 100),
        row(cohort.IN_PLACE, 3.0, 80),
        row(cohort.ours(1), 2.0, 50),
        row(cohort.ours(2), 1.5, 120),
    ]
    cohort.compare(rows)
    assert [x["faster"] for x in rows] == [1, 2, 3, 4]
    assert [x["faster_than_copies"] for x in rows] == [0.5, 1, 1.5, 2]
    assert [x["memory_share"] for x in rows] == [1, 0.8, 0.5, 1.2]
    assert [x["best"] for x in rows] == [False, False, False, True]


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("ni", 1, 512),
        ("ni<96", 1, 95),
        ("ni96-256", 96, 256),
        ("plain>256", 257, 512),
        ("64", 64, 64),
    ],
)
def test_lengths_are_read(text: str, least: int, most: int) -> None:
    found = cohort_case.Lengths.of(text)
    assert (found.least, found.most) == (least, most)


@pytest.mark.usefixtures("shared")
def test_a_band_of_natural_instructions(model: AdaptedModel) -> None:
    band = cohort_case.Case("6m", 2, "plain<96")
    found = clients_of(model, band, clients=4)
    assert [len(client.data) for client in found] == [5] * 4
    assert all(cohort_case.length(x) < 96 for client in found for x in client.data)
    with pytest.raises(SystemExit, match="0 tasks have 1 examples of 1 to 60 tokens"):
        clients_of(model, cohort_case.Case("6m", 2, "ni<61"), clients=1, examples=1)


def test_what_was_measured_before_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "cohort.json"
    for name, value in (("b", 1), ("a", 2), ("b", 3)):
        cohort_view.update(out, name, {"value": value})
    assert json.loads(out.read_text()) == {"cases": {"a": {"value": 2}, "b": {"value": 3}}}


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("6m:1", "6m:1:ni is one"),
        ("7b:1:ni", "model is '7b'; give one of tiny, 6m"),
        ("6m:0:ni", "the batch is 0"),
        ("6m:1:ni<96-256", "give ni, ni<96"),
    ],
)
def test_an_odd_case_is_refused(case: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cohort.parsed([case])
    assert told in capsys.readouterr().err


def test_a_cohort_beyond_the_clients_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cohort.parsed(["6m:1:ni"]).cohorts == [1, 2, 4, 8, 16, 32]
    with pytest.raises(SystemExit):
        cohort.parsed(["6m:1:ni", "--cohorts", "64"])
    assert "give 1 to 32, the number of --clients" in capsys.readouterr().err
