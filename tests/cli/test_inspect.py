"""flexlora inspect: what it prints of an adapter and of a run, narrow and wide, and as JSON."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import Flexlora, assert_one_sentence
from flexlora.adapters import About, Adapter, Factors, dissect
from flexlora.cli.adapter_view import bars
from flexlora.federation import run
from flexlora.formats.peft import load_peft, save_peft
from flexlora.formats.words import count, size, span
from flexlora.runs.events import Failed
from flexlora.runs.run_directory import Run
from peft_folders import pair, write_folder
from reference import gaussian
from resealed import reseal
from small import small
from terminal import lines_on_a_terminal
from warm import Warm


def adapter(blocks: int, rank: int = 4, *, base: str = "", base_fingerprint: str = "") -> Adapter:
    layers = {
        f"model.layers.{i}.{name}": Factors(
            0.1 * (i + 1) * gaussian(12, rank, seed=i), gaussian(rank, 10, seed=i + 50), 8.0 / rank
        )
        for i in range(blocks)
        for name in ("self_attn.q_proj", "mlp.up_proj")
    }
    return Adapter(layers, About(base, base_fingerprint))


@pytest.fixture
def peft(tmp_path: Path) -> Path:
    known = adapter(2, base="org/base", base_fingerprint="float32:" + "ab" * 32)
    save_peft(known, tmp_path / "a", compact=True)
    return tmp_path / "a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(rule={"name": "hetlora"}), tmp_path_factory.mktemp("runs") / "r").folder


def test_bars_are_as_high_as_their_values() -> None:
    assert bars([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert bars([1.0, 1e-9, 0.0], 8) == "█▁ "
    assert bars([4, 4, 2, 2, 1, 1], 3) == "█▄▂"
    assert bars([0.0, 0.0], 4) == "  "
    assert bars([], 4) == ""
    assert len(bars(list(range(100)), 32)) == 32


def test_numbers_as_people_read_them() -> None:
    shown = (0, 999, 999_940, 1_000_000, 3_200_000_000)
    assert [size(x) for x in shown] == ["0 bytes", "999 bytes", "999.9 kB", "1.0 MB", "3.2 GB"]
    assert [count(1, "round"), count(2_000, "round")] == ["1 round", "2,000 rounds"]
    assert [span([3, 3]), span([8, 2]), span([0.12345, 2.0], 2)] == ["3", "2–8", "0.12–2"]
    assert span([12345, 67890]) == "12,345–67,890"


def test_a_small_adapter_is_shown_layer_by_layer(flexlora: Flexlora, peft: Path) -> None:
    done = flexlora("inspect", peft)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"adapter {peft}, made for org/base (float32, weights abababababab)"
    assert lines[1].startswith("4 layers, 352 parameters of float32, ")
    assert lines[2].startswith("rank 4, α 8, scale α/r = 2, ‖ΔW‖ = ")
    assert lines[3] == "names begin with model.layers."
    for layer in dissect(load_peft(peft)):
        name = layer.name.removeprefix("model.layers.")
        (line,) = [line for line in lines if line.startswith(name)]
        cells = line.split()
        assert f"{layer.norm:.3g}" in cells
        assert f"{layer.effective_rank:.1f}" in cells
        assert bars(layer.singular_values, 32) in cells


def test_many_layers_are_shown_by_kind_unless_all_are_asked_for(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    save_peft(adapter(30), tmp_path / "a")
    lines = flexlora("inspect", tmp_path / "a").out.splitlines()
    (attention,) = [line for line in lines if line.startswith("self_attn.q_proj")]
    assert attention.split()[1:3] == ["30", "4"]
    assert bars([x.norm for x in dissect(adapter(30))[1::2]], 40) in attention
    assert lines[-1] == "60 layers, by kind; --all shows each of them"
    everything = flexlora("inspect", tmp_path / "a", "--all").out
    assert all(f"{i}.self_attn.q_proj" in everything for i in range(30))
    assert "--all" not in everything


def test_unused_directions_and_unknown_bases_are_said(flexlora: Flexlora, tmp_path: Path) -> None:
    one = Factors(torch.ones(6, 3), torch.ones(3, 5), 1.0)
    save_peft(Adapter({"x": one}), tmp_path / "a")
    done = flexlora("inspect", tmp_path / "a")
    assert "made for a base model that it does not name" in done.out
    assert "1 of 3" in done.out


def test_rslora_has_its_own_alpha(flexlora: Flexlora, tmp_path: Path) -> None:
    save_peft(adapter(1), tmp_path / "a", compact=True)
    config = tmp_path / "a" / "adapter_config.json"
    written = {**json.loads(config.read_text()), "use_rslora": True, "lora_alpha": 6}
    config.write_text(json.dumps(written))
    assert "α 6, scale α/√r = 3," in flexlora("inspect", tmp_path / "a").out


def test_what_stands_beside_lora_is_said(flexlora: Flexlora, tmp_path: Path) -> None:
    """Embeddings that PEFT saved whole are no reason not to show the layers."""
    tensors = pair("x.q", 6, 5, 2) | {
        "lm_head.weight": torch.ones(9, 5),
        "conv.lora_A.weight": torch.ones(2, 4, 3),
        "conv.lora_B.weight": torch.ones(6, 2, 1),
    }
    write_folder(tmp_path / "a", tensors, r=2)
    done = flexlora("inspect", tmp_path / "a")
    head = "base_model.model.lm_head.weight"
    assert f"beside LoRA it holds 1 tensor whole: {head}" in done.out.splitlines()
    assert any(line.startswith("x.q") for line in done.out.splitlines())
    told = json.loads(flexlora("inspect", tmp_path / "a", "--json").out)
    assert told["whole"] == [head]
    assert {name: layer["n"] for name, layer in told["layers"].items()} == {"x.q": 5, "conv": 12}


def test_experts_are_layers_of_one_kind(flexlora: Flexlora, tmp_path: Path) -> None:
    tensors = pair("x.experts", 6, 5, 150) | pair("x.q", 6, 5, 3)
    options: dict[str, Any] = {"target_modules": ["q"], "target_parameters": ["experts.w"]}
    write_folder(tmp_path / "a", tensors, r=3, **options)
    lines = flexlora("inspect", tmp_path / "a").out.splitlines()
    assert any(line.split()[:3] == ["experts.w[*]", "50", "3"] for line in lines)
    told = json.loads(flexlora("inspect", tmp_path / "a", "--json").out)["layers"]
    assert set(told) == {"x.q", *(f"x.experts.w[{i}]" for i in range(50))}
    assert told["x.experts.w[7]"]["alpha"] == 3


def test_a_folder_of_several_adapters_is_told_from_one(flexlora: Flexlora, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_peft(adapter(1), tmp_path / "both" / name)
    done = flexlora("inspect", tmp_path / "both")
    assert_one_sentence(done, "it holds adapters of their own ('one', 'two'); give one of them")


def test_an_adapter_as_json(flexlora: Flexlora, peft: Path) -> None:
    found = json.loads(flexlora("inspect", peft, "--json").out)
    given = load_peft(peft)
    assert (found["kind"], found["base"], found["scaling"]) == ("adapter", "org/base", "lora")
    assert found["parameters"] == given.parameters
    assert found["norm"] == pytest.approx(given.norm())
    assert set(found["layers"]) == set(given)
    for layer in dissect(given):
        told = found["layers"][layer.name]
        assert told["singular_values"] == list(layer.singular_values)
        assert (told["rank"], told["alpha"]) == (layer.rank, pytest.approx(8.0))


def test_a_run_is_shown(flexlora: Flexlora, folder: Path) -> None:
    done = flexlora("inspect", folder)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"run {folder}: round 3 of 3, finished"
    assert lines[1] == "rule hetlora; model tiny (float32, 8 layers)"
    assert re.match(r"best round \d: train loss \d", lines[2])
    assert any(line.startswith("2 clients a round; 3 rounds played, 6 replies") for line in lines)
    assert any(re.match(r"high +4 +2 ", line) for line in lines)
    kept = Run.open(folder).load_checkpoint(3)
    assert kept is not None
    client = next(iter(kept[1]["store"]["clients"]))
    assert client not in done.out
    assert client in flexlora("inspect", folder, "--all").out
    found = json.loads(flexlora("inspect", folder, "--json").out)
    assert (found["kind"], found["state"]) == ("run", "finished")


def test_a_diverged_run_is_json_all_the_same(
    flexlora: Flexlora, folder: Path, tmp_path: Path
) -> None:
    """Its scores are no numbers: null, for JSON has no NaN."""
    copy = Path(shutil.copytree(folder, tmp_path / "r"))
    log = copy / "metrics.jsonl"
    lines = log.read_text().splitlines()
    last = json.loads(lines[-1])
    last["train_loss"] = None
    last["validation"]["loss"] = None
    log.write_text("\n".join([*lines[:-1], json.dumps(last), ""]))
    reseal(copy)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    done = flexlora("inspect", copy, "--json")
    assert done.code == 0, done
    found = json.loads(done.out, parse_constant=refuse)
    assert found["last"]["train_loss"] is None
    assert found["last"]["validation"]["loss"] is None


def test_failures_are_grouped_by_reason(flexlora: Flexlora, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "r"))
    opened = Run.open(copy)
    for i in range(7):
        for reason in ("its disk is full", f"reason {i}"):
            opened.append_event(Failed(1 + i % 3, f"c{i}", reason))
    lines = flexlora("inspect", copy).out.splitlines()
    wanted = "failed 7 ×, rounds 1–3, clients c0, c1, c2 and 4 more: its disk is full"
    assert wanted in lines
    assert lines[-1] == "3 more reasons; --all shows each of them"
    everything = flexlora("inspect", copy, "--all").out
    assert "clients c0, c1, c2, c3, c4, c5, c6: its disk is full" in everything
    assert "reason 6" in everything


def test_refused_answers_are_no_failures(flexlora: Flexlora, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "r"))
    for i in range(4):
        Run.open(copy).append_event(Failed(1, f"c{i % 2}", f"answers job 1-{i}", "stray"))
    said = " ".join(flexlora("inspect", copy).out.split())
    assert "replies, 0 failures" in said
    assert "4 answers of 2 clients refused, to nothing that was open" in said
    assert "answers job" not in said
    everything = flexlora("inspect", copy, "--all").out
    assert "refused, no failure, 1 ×, rounds 1, clients c0: answers job 1-0" in everything


def test_a_run_that_has_not_begun_says_how_to_begin(flexlora: Flexlora, tmp_path: Path) -> None:
    Run.create(small(), tmp_path / "r", resolved={"layers": 8, "clients_per_round": 2})
    done = flexlora("inspect", tmp_path / "r")
    assert done.code == 0, done.err
    words = f"round 0 of 3, never started; begin with: flexlora resume {tmp_path / 'r'}"
    assert words in done.out
    assert "no checkpoint" in done.out


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_shows_whole_lines(tmp_path: Path, warm: Warm, width: int) -> None:
    """In a terminal of this width no table line is wrapped or cut."""
    mixed = dict(adapter(12))
    one = Factors(torch.ones(12, 9), torch.ones(9, 10), 16 / 9)
    save_peft(Adapter(mixed | {"model.layers.11.self_attn.q_proj": one}), tmp_path / "a")
    lines = lines_on_a_terminal(warm, "inspect", tmp_path / "a", width=width)
    assert not any("…" in line for line in lines)
    tables = [line for line in lines if re.match(r"\d+\.(self_attn.q|mlp.up)_proj ", line)]
    assert len(tables) == 24
    assert all(len(line) <= width for line in tables)
    assert any("m × n" in line for line in lines) == (width > 100)
