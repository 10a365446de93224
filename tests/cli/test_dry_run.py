"""`flexlora run --dry-run`: clients, bytes and the partition, and that it is so."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora
from flexlora.cli import partition_view
from flexlora.cli.console import Screen
from flexlora.cli.partition_view import Legend, draw_partition
from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.federation import Setup, prepare, run
from flexlora.federation.census import Census, Holding
from flexlora.federation.preview import SparseForecast, forecast
from flexlora.formats.words import size
from flexlora.report import write_report
from flexlora.rules import RULES, make_rule
from flexlora.runs.run_directory import Run
from report.pages import words
from small import SMALL, small, write


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two dozen rows of three kinds, dealt to five clients."""
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    rows = [{"q": f"ask {i}", "a": "yes", "kind": f"kind {i % 3}"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {"source": "jsonl", "path": str(path), "prompt": "q", "response": "a"}
    data |= {"category": "kind", "test_share": 0.1, "max_tokens": 250}
    partition = {"by": "dirichlet", "clients": 5, "alpha": 0.5, "min_examples": 4}
    return parse_config({**SMALL, "data": data, "partition": partition})


def test_it_shows_types_bytes_and_the_partition_and_writes_nothing(
    flexlora: Flexlora, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").mkdir()
    done = flexlora("run", write(config, tmp_path / "c" / "c.toml"), "--dry-run")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert any("2 of 5 clients a round: on average" in line for line in lines)
    drawn = [line for line in lines if line.startswith("client-")]
    assert len(drawn) == 5
    census = prepare(config).census
    for line, holding in zip(drawn, census.clients, strict=True):
        name, kind, examples, bar = line.split()
        assert (name, kind, examples) == (holding.id, holding.type, str(holding.examples))
        # Letters stand for labels in the order of the legend, about as many as their share.
        letters = dict(zip(census.labels(), "ABC", strict=False))
        for label, letter in letters.items():
            share = holding.labels.get(label, 0) / holding.examples
            assert abs(bar.count(letter) - share * len(bar)) <= 1
    assert any(re.match(r"3 unseen +– +6 +A+B+C+", line) for line in lines)
    assert "skew" in lines[-1]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["c", "c.toml"]


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small())


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_forecast_is_what_is_sent(setup: Setup, rule: str, tmp_path: Path) -> None:
    """In a round of either side, where sides alternate, and to two of four clients that score."""
    config = small(
        rule={"name": rule},
        federation={"rounds": 3, "clients_per_round": 4},
        evaluation={"unseen": False, "every": 2, "on_clients": "global", "clients": 2},
    )
    told = forecast(prepare(config, setup), make_rule(rule))
    records = Run.open(run(config, tmp_path / "r", setup=setup).folder).records()
    assert records[0].bytes_down == sum(t.bytes_down * t.clients for t in told.types)
    assert told.bytes_down_per_round == pytest.approx(records[0].bytes_down)
    assert sum(t.examples for t in told.types) == records[0].examples
    if not told.prunes:
        assert records[0].bytes_up == sum(t.bytes_up * t.clients for t in told.types)
        assert records[1].bytes_up == sum(t.bytes_up_next * t.clients for t in told.types)
        assert told.bytes_up_per_round == (records[0].bytes_up, records[1].bytes_up)
    scoring = [x.total_bytes_down - x.bytes_down for x in records]
    shared = not make_rule(rule).traits.alone
    assert (scoring[0], scoring[1] > 0, scoring[2] > 0) == (0, shared, shared)
    sent = sum(x.bytes_down + x.bytes_up for x in records)
    if not (told.prunes or told.delta):
        assert told.total_bytes - told.bytes_evaluating == pytest.approx(sent)
    found = json.loads(json.dumps(told.to_json()))
    assert (found["clients_per_round"], found["total_bytes"]) == (4, told.total_bytes)


def test_what_clients_are_sent_to_score_is_in_the_forecast(
    flexlora: Flexlora, setup: Setup, tmp_path: Path
) -> None:
    config = small(evaluation={"on_clients": "global", "every": 2}, federation={"rounds": 3})
    told = forecast(prepare(config, setup), make_rule("flexlora"))
    records = Run.open(run(config, tmp_path / "r", setup=setup).folder).records()
    scoring = sum(x.total_bytes_down - x.bytes_down for x in records)
    assert told.bytes_evaluating == pytest.approx(scoring)  # Of all clients, in two rounds.
    assert scoring > 0
    words = " ".join(flexlora("run", write(config, tmp_path / "c.toml"), "--dry-run").out.split())
    assert f"{size(scoring)} of it to clients that score" in words
    off = write(small(evaluation={"on_clients": "off"}), tmp_path / "off.toml")
    assert "that score" not in " ".join(flexlora("run", off, "--dry-run").out.split())


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 10**9])
@pytest.mark.parametrize("sparse", [0, 1, 2])
def test_all_rounds_are_counted_in_no_more_time_for_many(
    setup: Setup, rounds: int, sparse: int
) -> None:
    """Odd ones return one side, even ones the other, those before adapters neither."""
    told = forecast(setup, make_rule("rolora"))
    odd, even = told.bytes_up_per_round
    before = SparseForecast(sparse, 5, {}, 5.0, 2.0) if sparse else None
    asked = replace(told, rounds=max(rounds, sparse), sparse=before, bytes_evaluating=11.0)
    if rounds < 9:
        each = [odd if r % 2 else even for r in range(sparse + 1, asked.rounds + 1)]
        wanted = sum(each) + told.bytes_down_per_round * len(each) + 7.0 * sparse + 11.0
        assert asked.total_bytes == pytest.approx(wanted, rel=1e-12)
    else:
        mean = asked.mean_bytes_up + told.bytes_down_per_round
        assert asked.total_bytes == pytest.approx(mean * rounds, rel=1e-6)


def test_sides_that_take_turns_are_both_told(flexlora: Flexlora, tmp_path: Path) -> None:
    path = write(small(rule={"name": "rolora"}), tmp_path / "c.toml")
    types = json.loads(flexlora("run", path, "--dry-run", "--json").out)["forecast"]["types"]
    assert all(x["bytes_up"] < x["bytes_up_next"] for x in types)
    words = " ".join(flexlora("run", path, "--dry-run").out.split())
    for x in types:
        assert f"{size(x['bytes_up'])} / {size(x['bytes_up_next'])}" in words


def test_whoever_is_asked_beyond_need_is_in_the_forecast(tmp_path: Path) -> None:
    config = small(federation={"rounds": 1, "over_sample": 2.0}, evaluation={"on_clients": "off"})
    told = forecast(prepare(config), make_rule("flexlora"))
    (record,) = Run.open(run(config, tmp_path / "r").folder).records()
    assert len(record.clients) == len(record.spare) == told.clients_per_round == 2
    assert record.bytes_down == told.bytes_down_per_round
    assert record.bytes_up == told.mean_bytes_up


def test_sparse_rounds_are_told_apart(flexlora: Flexlora, tmp_path: Path) -> None:
    config = small(training={"host": "slora", "sparse_rounds": 1}, federation={"rounds": 3})
    path = write(config, tmp_path / "c.toml")
    told = json.loads(flexlora("run", path, "--dry-run", "--json").out)["forecast"]["sparse"]
    assert told["rounds"] == 1
    assert told["bytes_up"].keys() == {"low", "high"}
    words = " ".join(flexlora("run", path, "--dry-run").out.split())
    assert "the first 1 round, of single weights, with " in words
    plain = write(small(), tmp_path / "plain.toml")
    assert "single weights" not in flexlora("run", plain, "--dry-run").out


def test_data_json_holds_every_example_once(config: Config, tmp_path: Path) -> None:
    quick = (
        {"rounds": 1},
        {
            "every": 0,
            "on_clients": "off",
            "unseen": True,
            "own_examples": 1,
            "types_at_end": False,
        },
    )
    document = config.document() | {"federation": SMALL["federation"] | quick[0]}
    document["evaluation"] = SMALL["evaluation"] | quick[1]
    folder = run(parse_config(document), tmp_path / "r").folder
    partition = Run.open(folder).data["partition"]
    assert (partition["by"], partition["label"]) == ("dirichlet", "category")
    assert partition["validators"] == []
    total: Counter[str] = Counter({})
    for held in (*partition["clients"], *partition["unseen"]):
        sizes = [held.get(part, 0) for part in ("train", "validation", "test")]
        assert sum(sizes) == sum(held["labels"].values())
        total.update(held["labels"])
    assert total == {f"kind {i}": 20 for i in range(3)}
    assert {held["type"] for held in partition["clients"]} == {"low", "high"}


def test_rows_of_clients_that_train_are_no_unseen_clients(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    """Those of a test file are unseen examples, and whose they are is said."""
    rows = [{"q": f"Name {i}.", "a": f"number {i}", "who": f"c{i % 2}"} for i in range(20)]
    tests = [{"q": f"Name {who}.", "a": "none", "who": who} for who in ("c0", "c1", "new")]
    for name, held in (("train", rows), ("test", tests)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    data = {"source": "jsonl", "path": str(tmp_path / "train.jsonl"), "max_tokens": 250}
    data |= {"test_path": str(tmp_path / "test.jsonl"), "prompt": "q", "response": "a"}
    document = {**SMALL, "data": {**data, "client": "who"}, "partition": {"by": "client"}}
    config = parse_config(document | {"federation": {"rounds": 1}})
    done = flexlora("run", write(config, tmp_path / "c.toml"), "--out", tmp_path / "r")
    assert done.code == 0, done.err
    text = done.out + done.err
    assert (
        "3 unseen groups (0 left out), 2 of them of clients that train, 3 unseen examples" in text
    )
    assert "unseen client" not in text
    assert "unseen examples, and the clients' own test examples" in text
    page = words(write_report([tmp_path / "r"], tmp_path / "r.html"))
    assert "3 examples in 3 groups, 2 of them of clients that train, stay unseen." in page
    assert "unseen client" not in page


# --- the drawing ---------------------------------------------------------------------------------


def holding(name: str, **labels: int) -> Holding:
    return Holding(name, "t", sum(labels.values()), 0, 0, labels)


def census(*clients: Holding, unseen: tuple[Holding, ...] = ()) -> Census:
    return Census("dirichlet", "category", clients, (), unseen)


def test_skew_is_the_mean_distance_from_the_whole() -> None:
    assert census(holding("a", x=2, y=2), holding("b", x=5, y=5)).skew() == 0.0
    assert census(holding("a", x=4), holding("b", y=4)).skew() == 0.5
    # (6 · ⅓ + 3 · ⅔) / 9: the larger client counts for more.
    assert census(holding("a", x=6), holding("b", y=3)).skew() == pytest.approx(4 / 9)


@pytest.mark.parametrize("width", [8, 33, 80])
def test_a_bar_is_as_wide_as_asked(width: int) -> None:
    legend = Legend.of({f"l{i}": 30 - i for i in range(20)}, colour=False)
    for labels in ({"l0": 1}, {"l0": 1, "l19": 2}, {f"l{i}": 1 for i in range(20)}):
        assert len(legend.bar(labels, width).plain) == width
    assert legend.bar({"l19": 1}, 3).plain == "···"


def drawn(monkeypatch: pytest.MonkeyPatch, held: Census, width: int, **options: Any) -> str:
    console = Screen(width=width, record=True, force_terminal=True, **options)
    monkeypatch.setattr(partition_view, "screen", lambda: console)
    draw_partition(held)
    return console.export_text()


@pytest.mark.parametrize("width", [50, 80, 200])
@pytest.mark.parametrize("colour", [None, "truecolor"])
@pytest.mark.parametrize("count", [3, 200])
def test_nothing_is_cut_or_wrapped_at_any_width(
    monkeypatch: pytest.MonkeyPatch, width: int, colour: Any, count: int
) -> None:
    clients = (holding(f"client-{i:03d}", sums=1 + i, tales=9, lists=i % 7) for i in range(count))
    held = census(*clients, unseen=(holding("test/sums", sums=5),))
    text = drawn(monkeypatch, held, width, color_system=colour)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    rows = [line for line in lines if "client-" in line]
    assert len(rows) == (3 if count == 3 else 7)
    assert ("most skewed" in text) == (count == 200)
    assert "1 unseen" in text
    assert {"sums", "tales", "lists"} <= set(text.split())


def test_without_colour_letters_fill_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    held = census(holding("a", x=1, y=3))
    plain = drawn(monkeypatch, held, 80, color_system="truecolor", no_color=True)
    assert plain == drawn(monkeypatch, held, 80, color_system=None)
    coloured = drawn(monkeypatch, held, 80, color_system="truecolor")
    row, bare = (
        next(x for x in text.splitlines() if x.startswith("a ")) for text in (coloured, plain)
    )
    assert set(bare.split()[-1]) == {"A", "B"}
    assert (row.count("A"), row.count("B")) == (1, 1)


def test_markup_in_names_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    held = census(holding("[red]a", **{"[bold]x": 2}), holding("b" * 90, y=1))
    text = drawn(monkeypatch, held, 60, color_system=None)
    assert "[red]a" in text
    assert "[bold]x" in text
    assert "bbb…" in text
