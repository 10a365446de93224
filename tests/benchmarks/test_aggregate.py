"""The aggregation benchmark runs at toy size, and what it measures is what it says."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import aggregate
import aggregate_view
import measuring
import one_layer
import procedures
import round_on_device
import whole_round
from flexlora.adapters import LayerSpec

pytestmark = pytest.mark.whole

LAYER = LayerSpec("mlp.up_proj", 96, 64)
QUICK = one_layer.Training(rounds=2, steps=3, tokens=32, shared=40, own=8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The script sets the number of threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def round(tmp_path_factory: pytest.TempPathFactory) -> procedures.Round:
    ranks = one_layer.ranks_of(8, LAYER, 0.1)
    folder = tmp_path_factory.mktemp("layer") / "trained"
    return procedures.Round(one_layer.train(folder, LAYER, ranks, 0, QUICK))


def ran(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "aggregate.json"
    common = ("--threads", "1", "--scratch", str(folder), "--out", str(out))
    aggregate.main([*arguments, *common])
    return json.loads(out.read_text())


def test_ten_clients_of_the_mix_have_ranks_of_722() -> None:
    assert sum(one_layer.ranks_of(10, LayerSpec("attn.q_proj", 4096, 4096))) == 722


def test_eighty_clients_are_a_quarter_of_each_type() -> None:
    assert sorted(one_layer.ranks_of(80, LayerSpec("attn.q_proj", 2048, 2048))) == (
        [8] * 20 + [30] * 40 + [200] * 20
    )
    assert sorted(one_layer.ranks_of(80, LayerSpec("mlp.up_proj", 5504, 2048))) == (
        [8] * 20 + [30] * 20 + [200] * 40
    )


def test_the_same_seed_gives_the_same_replies(tmp_path: Path) -> None:
    ranks = one_layer.ranks_of(8, LAYER, 0.1)
    first, again, other = (
        one_layer.train(tmp_path / name, LAYER, ranks, seed, QUICK)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    for client in range(8):
        assert torch.equal(first.factors(client).b, again.factors(client).b)
        assert not torch.equal(first.factors(client).b, other.factors(client).b)
    assert torch.equal(first.state()["vh"], again.state()["vh"])


def test_training_moves_what_was_sent_and_starts_near_it(round: procedures.Round) -> None:
    replies, state = round.replies, round.replies.state()
    sent = one_layer.sent_to(replies.spec, state, replies.ranks[0], torch.Generator())
    trained = replies.factors(0)
    assert not torch.equal(trained.b, sent.b)
    kept = procedures.original(round).spectrum
    leading = state["vh"][:3] @ kept.vh[:3].T
    assert float(leading.square().sum()) > 2.0  # Of 3: the last round's directions still lead.


def test_flat_replies_do_not_decay(tmp_path: Path) -> None:
    ranks = one_layer.ranks_of(8, LAYER, 0.1)
    drawn = procedures.Round(one_layer.draw(tmp_path / "flat", LAYER, ranks, 0))
    values = procedures.original(drawn).spectrum.s
    assert float(values[drawn.rank - 1]) > 0.5 * float(values[0])


def test_every_procedure_keeps_the_best_approximation(round: procedures.Round) -> None:
    known = procedures.procedures(round)
    assert set(known) == {"original", "ours", "exact", "formed", "implicit"}
    exact = procedures.Float64(round)
    for procedure in known.values():
        excess, _ = exact.compare(procedure(round).spectrum, round.rank)
        assert excess is not None
        assert abs(excess) < 1e-5


def test_a_worse_approximation_is_told_apart(round: procedures.Round) -> None:
    kept, exact = procedures.original(round), procedures.Float64(round)
    excess, distance = exact.compare(kept.spectrum, round.rank - 1)
    assert excess is not None
    assert excess > 1e-3
    assert distance > 1e-4


def test_both_sides_read_out_the_same_factors(round: procedures.Round) -> None:
    scale = round.replies.spec.scale
    theirs = procedures.readouts(procedures.original(round), round.ranks, scale)
    ours = procedures.readouts(procedures.ours(round), round.ranks, scale)
    for one, other, rank in zip(theirs, ours, round.ranks, strict=True):
        assert one.rank == other.rank == rank
        product = one.product().dense()
        assert torch.allclose(product, other.product().dense(), atol=1e-5 * float(product.norm()))


def test_a_case_has_a_row_for_each_procedure(tmp_path: Path) -> None:
    few = ("--repetitions", "1", "--rank-scale", "0.1", "--paths", "exact")
    case = ran(tmp_path, "64x64:10:trained", *few)["cases"]["64x64:10:trained:cpu"]
    names = ["original", "exact", "original, 1,613 readouts"]
    assert [row["procedure"] for row in case["rows"]] == names
    assert case["width"] == sum(one_layer.ranks_of(10, LayerSpec("attn.q_proj", 64, 64), 0.1))
    assert case["environment"]["torch"] == torch.__version__
    assert case["rows"][1]["certificate"]["kind"] == "exact"
    assert abs(case["rows"][1]["excess"]) < 1e-6
    for row in case["rows"][:2]:
        assert row["seconds"] > 0
        assert row["floors"] == pytest.approx(row["seconds"] / case["floor_seconds"])
        assert row["extra_bytes"] > 0
    assert (tmp_path / "aggregate.svg").read_text().startswith("<svg")
    assert not list(tmp_path.glob("tmp*"))


def test_what_was_measured_before_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "aggregate.json"
    for kind, name, value in (("cases", "b", 1), ("cases", "a", 2), ("rounds", "r", 3)):
        aggregate_view.update(out, kind, name, {"value": value})
    aggregate_view.update(out, "cases", "b", {"value": 4})
    assert json.loads(out.read_text()) == {
        "cases": {"a": {"value": 2}, "b": {"value": 4}},
        "rounds": {"r": {"value": 3}},
    }


def test_peak_memory_is_that_of_the_work() -> None:
    held = torch.ones(1 << 24)  # 67 MB that are there already.
    assert 130e6 <= measuring.peak_of(lambda: torch.cat([held, held]), "cpu") < 150e6


def test_own_memory_sees_what_is_gone_again() -> None:
    with measuring.own_memory() as found:
        held = torch.ones(1 << 24)
        time.sleep(0.2)  # It is sampled: what comes and goes between two looks is seen by chance.
        del held
    assert 60e6 <= found[0] < 150e6


def test_a_whole_round_ends_alike_on_both_sides(tmp_path: Path) -> None:
    toy = ("--layers", "2", "--clients", "4", "--hidden", "48", "--ffn", "80", "--seeds", "1")
    found = ran(tmp_path, "--whole-round", *toy, "--rank-scale", "0.1", "--dtype", "bfloat16")
    (measured,) = found["rounds"].values()
    ours, theirs = measured["ours"], measured["original"]
    assert measured["layers"] == 14
    assert sum(ours["certificates"].values()) == 14
    assert ours["error"] == pytest.approx(theirs["error"], rel=1e-4)
    ranks = ((1, 1), (3, 3), (3, 20), (20, 20))  # On attention, on the FFN.
    numbers = 2 * sum(4 * (48 + 48) * a + 3 * (48 + 80) * f for a, f in ranks)
    assert ours["reply_bytes"] == ours["spool_bytes"]
    assert 2 * numbers < ours["reply_bytes"] < 3 * numbers
    assert not list(tmp_path.glob("tmp*"))


def test_batches_of_layers_end_as_layers_do_one_by_one(tmp_path: Path) -> None:
    """The script of the GPU, on the CPU: its code runs, and every layer is combined once."""
    toy = ["--layers", "2", "--clients", "4", "--seeds", "1", "--rank-scale", "0.1"]
    options = aggregate.parsed([*toy, "--batch", "3"])
    options.device = "cpu"
    model = whole_round.Model(layers=2, hidden=48, ffn=80, key_value=24)
    measured = round_on_device.round_on_device(model, options, tmp_path)
    assert measured["ours"]["certificates"] == {"exact": 14}
    assert measured["ours"]["transfer_seconds"] > 0


@pytest.mark.parametrize("case", ["64x64:10", "64:10:flat", "64x64:10:round"])
def test_an_odd_case_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        aggregate.parsed([case])
    told = capsys.readouterr().err
    assert "4096x4096:10:trained is one" in told or "give trained or flat" in told
