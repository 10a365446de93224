"""flexlora merge: what it prints, narrow and wide, piped and as JSON; what it writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from commands import Done, Flexlora, assert_one_sentence
from flexlora.federation import run
from flexlora.formats.peft import load_peft
from flexlora.merging import merge
from peft_folders import add, config_of, edit, pair, stored, updates, weighted, write_folder
from reference import assert_all_close, gaussian
from small import small
from terminal import lines_on_a_terminal
from warm import Warm


def adapter(folder: Path, blocks: int, rank: int, seed: int = 0, mlp: bool = True) -> Path:
    tensors: dict[str, Tensor] = {}
    for i in range(blocks):
        tensors |= pair(f"model.layers.{i}.self_attn.q_proj", 12, 10, rank, seed + i)
        if mlp:
            tensors |= pair(f"model.layers.{i}.mlp.down_proj", 9, 14, rank, seed + i)
    return write_folder(folder, tensors, r=rank, alpha=2)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [adapter(tmp_path / "a", 2, 4), adapter(tmp_path / "b", 2, 3, 9, mlp=False)]


def cells(done: Done, layer: str) -> list[str]:
    (line,) = [line for line in done.out.splitlines() if line.startswith(layer)]
    return line.split()


def test_what_an_adapter_began_from_is_said(flexlora: Flexlora, two: list[Path]) -> None:
    """Paths may hold an = of their own."""
    odd = two[0].rename(two[0].parent / "a=b")
    start = adapter(two[0].parent / "s=t", 2, 4, seed=3)
    edit(odd, init_lora_weights="olora")
    given = ("--initial", f"{odd}={start}")
    done = flexlora("merge", odd, "b", *given, "--out", "out")
    assert done.out.splitlines()[0] == f"A = {odd} less {start}, which it began from, weight 0.5"
    assert cells(done, "0.self_attn.q_proj")[1:3] == ["8", "3"]
    told = json.loads(flexlora("merge", odd, "b", *given, "--out", "too", "--json").out)
    assert told["initial"] == [str(start), None]
    wanted = weighted([odd, start, two[1]], [0.5, -0.5, 0.5])
    assert_all_close(updates(two[1].parent / "out"), wanted)


def test_experts_are_shown_by_kind(flexlora: Flexlora, tmp_path: Path) -> None:
    tensors = pair("x.experts", 6, 5, 150) | pair("x.q", 6, 5, 3)
    options: dict[str, Any] = {"target_modules": ["q"], "target_parameters": ["experts.w"]}
    write_folder(tmp_path / "a", tensors, r=3, **options)
    done = flexlora("merge", tmp_path / "a", "--rank", 2, "--out", tmp_path / "out")
    row = cells(done, "experts.w[*]")
    assert row[1:4] == ["50", "3", "2"]
    assert row[-1] == "parameter"


def test_what_went_in_what_came_out_and_each_layer(flexlora: Flexlora, two: list[Path]) -> None:
    done = flexlora("merge", "a", "b", "--weights", "0.5,-0.3", "--rank", 5, "--out", "out")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    went_in = ["A = a, weight 0.5", "B = b, weight -0.3"]
    assert lines[:4] == [*went_in, "names begin with model.layers.", ""]
    again = merge(two, "again", weights=[0.5, -0.3], rank=5)
    for layer in again.layers:
        row = cells(done, layer.name.removeprefix("model.layers."))
        assert row[1:3] == ["4", "3" if "q_proj" in layer.name else "–"]
        assert row[3] == ("5" if "q_proj" in layer.name else "4")
        assert row[4] == f"{layer.norm:.3g}"
        assert row[5] == ("0" if layer.share == 0.0 else f"{100 * layer.share:.3g}")
    assert "– : B lacks 2 of 4 layers and counts as zero there" in lines
    assert lines[-2].startswith(f"4 layers, {again.parameters} parameters of float32, discarded")
    assert f"{100 * again.share:.3g} % of the energy" in lines[-2]
    written = sum(file.stat().st_size for file in Path("out").iterdir())
    assert lines[-1] == f"{written / 1000:.1f} kB written to out, rank 5 in every layer, α = r"
    assert done.err == ""
    assert_all_close(updates(Path("out")), updates(Path("again")), 0.0)


def test_the_default_is_the_mean(flexlora: Flexlora, two: list[Path]) -> None:
    done = flexlora("merge", "a", "b", "--rank", "full", "--out", "out")
    assert done.out.startswith("A = a, weight 0.5\nB = b, weight 0.5\n")
    assert_all_close(updates(Path("out")), weighted(two, [0.5, 0.5]), 1e-6)


def test_each_option_reaches_the_merge(flexlora: Flexlora, two: list[Path]) -> None:
    flags = ("--energy", 0.9, "--split", "balanced", "--dtype", "bfloat16", "--weights", "-1,2")
    assert flexlora("merge", "a", "b", *flags, "--out", "out").code == 0
    options: dict[str, Any] = {"energy": 0.9, "split": "balanced", "dtype": "bfloat16"}
    options |= {"weights": [-1.0, 2.0]}
    merge(two, "same", **options)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert Path("out", name).read_bytes() == Path("same", name).read_bytes()
    merge(two, "other", **options | {"split": "left"})
    ours, others = (stored(Path(folder)) for folder in ("out", "other"))
    assert any(not ours[key].equal(others[key]) for key in ours)


def test_one_adapter_resized_and_copied(flexlora: Flexlora, two: list[Path]) -> None:
    assert cells(flexlora("merge", "a", "--rank", 2, "--out", "small"), "0.self")[1:3] == ["4", "2"]
    assert set(load_peft("small").ranks.values()) == {2}
    done = flexlora("merge", "a", "--rank", "full", "--out", "one")
    assert done.out.endswith(" written to one, rank 4 in every layer, α = r\n")
    assert_all_close(updates(Path("one")), updates(two[0]), 1e-6)
    done = flexlora("merge", "a", "--rank", "full", "--out", "copy", "--compact")
    assert done.out.endswith(" written to copy, tensors as they were\n")
    before, after = stored(two[0]), stored(Path("copy"))
    assert all(before[key].equal(after[key]) for key in before)


@pytest.mark.usefixtures("two")
def test_the_kind_is_told_where_a_layer_is_not_linear(flexlora: Flexlora) -> None:
    tensors = {
        "embed.lora_embedding_A": gaussian(2, 7),
        "embed.lora_embedding_B": gaussian(5, 2),
        "conv.lora_A.weight": gaussian(2, 4, 3),
        "conv.lora_B.weight": gaussian(6, 2, 1),
    }
    write_folder(Path("c"), tensors, r=2)
    done = flexlora("merge", "a", "c", "--rank", 2, "--force", "--out", "out")
    found = {name: cells(done, name)[-1] for name in ("embed", "conv", "model.layers.0.mlp")}
    assert found == {"embed": "embedding", "conv": "convolution", "model.layers.0.mlp": "linear"}
    assert "names begin with" not in done.out
    assert "kind" not in flexlora("merge", "a", "--rank", 2, "--out", "plain").out


@pytest.mark.usefixtures("two")
def test_many_layers_are_shown_by_kind_unless_all_are_asked_for(flexlora: Flexlora) -> None:
    adapter(Path("c"), 30, 4)
    adapter(Path("d"), 20, 3, 5, mlp=False)
    done = flexlora("merge", "c", "d", "--rank", 4, "--out", "out")
    assert cells(done, "self_attn.q_proj")[1:7] == ["30", "4", "3", "or", "–", "4"]
    assert cells(done, "mlp.down_proj")[1:5] == ["30", "4", "–", "4"]
    assert "60 layers, by kind; --all shows each of them" in done.out
    assert "– : B lacks 40 of 60 layers and counts as zero there" in done.out
    again = merge([Path("c"), Path("d")], "again", rank=4)
    lost = [layer for layer in again.layers if "q_proj" in layer.name]
    share = sum(layer.error**2 for layer in lost) / sum(layer.norm**2 for layer in lost)
    assert f"{100 * share:.3g}" in cells(done, "self_attn.q_proj")
    everything = flexlora("merge", "c", "d", "--rank", 4, "--out", "more", "--all").out
    assert all(f"{i}.self_attn.q_proj" in everything for i in range(30))
    assert "--all" not in everything


def test_more_adapters_than_fit_have_one_column(flexlora: Flexlora, two: list[Path]) -> None:
    seven = [adapter(Path(f"x{i}"), 1, i + 1, i, mlp=i > 0) for i in range(7)]
    done = flexlora("merge", *seven, "--rank", 3, "--out", "out")
    assert cells(done, "self_attn.q_proj")[1:3] == ["1–7", "3"]
    assert cells(done, "mlp.down_proj")[1:4] == ["2–7", "or", "–"]
    assert "G = x6, weight 0.1429" in done.out
    many = flexlora("merge", *([two[0]] * 27), "--rank", 3, "--out", "many")
    assert "#27 = " in many.out
    assert many.code == 0


def test_as_json(flexlora: Flexlora, two: list[Path]) -> None:
    flags = ("--weights", "1,-0.5", "--rank", 2, "--out", "out", "--json")
    done = flexlora("merge", "a", "b", *flags)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    again = merge(two, "again", weights=[1.0, -0.5], rank=2)
    names = ("out", "adapters", "weights", "dtype")
    assert [told[x] for x in names] == ["out", ["a", "b"], [1.0, -0.5], "float32"]
    assert (told["parameters"], told["bytes"]) == (again.parameters, again.nbytes)
    assert told["error"] == again.error > 0.0
    assert (told["norm"], told["discarded"]) == (again.norm, again.share)
    assert list(told["layers"]) == [layer.name for layer in again.layers]
    for layer in again.layers:
        assert told["layers"][layer.name] == {
            "name": layer.name,
            "kind": "linear",
            "m": layer.m,
            "n": layer.n,
            "ranks": list(layer.ranks),
            "rank": layer.rank,
            "norm": layer.norm,
            "error": layer.error,
            "discarded": layer.share,
        }
    assert told["layers"]["model.layers.0.mlp.down_proj"]["ranks"] == [4, None]


@pytest.mark.parametrize("width", [80, 120])
def test_each_layer_is_one_line_in_a_terminal(tmp_path: Path, warm: Warm, width: int) -> None:
    folders = [adapter(tmp_path / f"{i}", 12, i + 2, i, mlp=i != 1) for i in range(4)]
    flags = ("--energy", 0.9, "--out", tmp_path / "out")
    lines = lines_on_a_terminal(warm, "merge", *folders, *flags, width=width)
    assert not any("…" in line for line in lines)
    tables = [line for line in lines if re.match(r"\d+\.(self_attn.q|mlp.down)_proj ", line)]
    assert len(tables) == 24
    assert all(len(line) <= width and line.endswith("%") for line in tables)
    assert (tmp_path / "out").is_dir()


def test_a_pipe_gets_the_table_alone(tmp_path: Path, warm: Warm) -> None:
    """No progress, no escape codes, no line cut to the width of a terminal."""
    folders = [adapter(tmp_path / ("long-" * 20 + f"{i}"), 2, i + 2, i) for i in range(2)]
    done = subprocess.run(
        ["flexlora", "merge", *folders, "--rank", "3", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        env={**os.environ, **warm.environment, "COLUMNS": "40"},
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith(f"A = {folders[0]}, weight 0.5\n")
    assert len([line for line in done.stdout.splitlines() if line.endswith("%")]) == 4
    assert "Traceback" not in done.stderr


def test_an_adapter_that_changes_nothing_is_said(flexlora: Flexlora, two: list[Path]) -> None:
    """As one that was saved before any training, or whose B was lost."""
    tensors = stored(two[1])
    add(two[1], **{key: torch.zeros_like(x) for key, x in tensors.items() if "lora_B" in key})
    said = "B changes nothing: its A or its B is zero in every layer"
    done = flexlora("merge", "a", "b", "--rank", 2, "--out", "out")
    assert said in done.out.splitlines()
    assert "A changes nothing" not in done.out
    told = json.loads(flexlora("merge", "a", "b", "--rank", 2, "--out", "n", "--json").out)
    assert told["zero"] == [False, True]
    flags = ("--rank", "full", "--weights", 1, "--out", "m", "--json")
    assert json.loads(flexlora("merge", "b", *flags).out)["zero"] == [True]
    assert "changes nothing" in flexlora("inspect", "b").out
    assert json.loads(flexlora("inspect", "b", "--json").out)["zero"] is True
    assert json.loads(flexlora("inspect", "a", "--json").out)["zero"] is False


@pytest.mark.usefixtures("two")
def test_layers_of_one_side_alone_stand_in_the_json(flexlora: Flexlora) -> None:
    told = json.loads(flexlora("merge", "a", "b", "--rank", 2, "--out", "out", "--json").out)
    mlp = [name for name in told["layers"] if "mlp" in name]
    assert told["lacking"] == [[], mlp]
    assert len(mlp) == 2


def test_who_is_to_read_it_is_told_by_a_word(flexlora: Flexlora, tmp_path: Path) -> None:
    tensors = pair("x.q", 12, 10, 4) | pair("x.down", 9, 14, 2, 1)
    a = write_folder(tmp_path / "a", tensors, r=4, rank_pattern={"down": 2})
    out = tmp_path / "out"
    done = flexlora("merge", a, "--rank", 3, "--serve", "vllm", "--out", out)
    assert done.out.endswith("rank 8 in every layer, α = r\n")
    assert config_of(out)["r"] == 8
    done = flexlora("merge", a, "--rank", 3, "--compact", "--out", tmp_path / "compact")
    assert done.out.endswith("by patterns that PEFT reads and others may pass over\n")
    assert config_of(tmp_path / "compact")["rank_pattern"]
    no = ("--out", tmp_path / "no")
    done = flexlora("merge", a, "--rank", 600, "--serve", "vllm", *no)
    assert_one_sentence(done, "rank 600 is above 512, the highest that vLLM serves; give a lower")
    both = flexlora("merge", a, "--rank", 3, "--serve", "vllm", "--compact", *no)
    assert_one_sentence(both, "give just one of compact and serve")
    unknown = flexlora("merge", a, "--rank", 3, "--serve", "tgi", *no)
    assert_one_sentence(unknown, "serve is 'tgi'; known: vllm")
    edit(a, modules_to_save=["score"])
    done = flexlora("merge", a, "--rank", 3, "--serve", "vllm", *no)
    assert_one_sentence(done, "score is saved whole beside LoRA")
    assert not (tmp_path / "no").exists()


def test_single_files_are_merged_without_another_word(flexlora: Flexlora, tmp_path: Path) -> None:
    """As people do who have two files of kohya's trainer: nothing is lost, and alpha is said."""
    for name, rank in (("a", 4), ("b", 2)):
        tensors = {
            "lora_unet_x.lora_down.weight": gaussian(rank, 6, seed=rank),
            "lora_unet_x.lora_up.weight": gaussian(7, rank),
            "lora_unet_x.alpha": torch.tensor(1.0),
            f"lora_unet_{name}.lora_down.weight": gaussian(rank, 5),
            f"lora_unet_{name}.lora_up.weight": gaussian(3, rank),
        }
        save_file(tensors, tmp_path / f"{name}.safetensors")
    a, b, out = (tmp_path / f"{name}.safetensors" for name in "abc")
    done = flexlora("merge", a, b, "--out", out)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f" written to {out}, each layer at its own rank, α = r\n")
    assert re.search(r"^(lora_unet_)?x +4 +2 +6 ", done.out, re.MULTILINE)
    assert set(load_file(out)) > {"lora_unet_x.lora_down.weight", "lora_unet_x.alpha"}
    assert float(load_file(out)["lora_unet_x.alpha"]) == 6.0
    told = json.loads(
        flexlora("merge", a, "--rank", 2, "--out", tmp_path / "d.safetensors", "--json").out
    )
    assert (told["one_rank"], told["bytes"]) == (2, (tmp_path / "d.safetensors").stat().st_size)
    assert_one_sentence(
        flexlora("merge", a, b, "--out", tmp_path / "e"), "name a file, like merged"
    )
    assert_one_sentence(flexlora("merge", a, b, "--out", out), "c.safetensors exists")


def test_a_run_is_no_adapter_and_says_how_to_get_one(flexlora: Flexlora, tmp_path: Path) -> None:
    folder = run(small(federation={"rounds": 1}), tmp_path / "r").folder
    done = flexlora("merge", folder, "--rank", 2, "--out", tmp_path / "m")
    assert_one_sentence(done, "it is a run: flexlora export", "--rank full --out ADAPTER")
    adapted = flexlora("eval", "tiny", "--data", "embedded", "--adapter", folder)
    assert_one_sentence(adapted, "it is a run: flexlora export")
