"""An adapter less what it began from: any kind of layer, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.errors import AdapterError
from flexlora.formats.adapter_formats import open_adapter
from flexlora.formats.from_initial import FromInitial
from flexlora.formats.peft import load_peft
from flexlora.formats.peft_reader import PeftReader
from flexlora.merging import merge
from peft_folders import PREFIX, add, edit, pair, updates, write_folder
from reference import assert_close, gaussian, product

OPTIONS: dict[str, Any] = {
    "r": 2,
    "alpha": 3,
    "init_lora_weights": "pissa",
    "target_modules": ["q", "conv", "e"],
    "target_parameters": ["experts.w"],
}


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    found = {
        **pair("block.q", 6, 5, 2, seed),
        "block.conv.lora_A.weight": gaussian(2, 4, 2, 2, seed=seed),
        "block.conv.lora_B.weight": gaussian(7, 2, 1, 1, seed=seed + 1),
        "e.lora_embedding_A": gaussian(2, 9, seed=seed + 2),
        "e.lora_embedding_B": gaussian(5, 2, seed=seed + 3),
        **pair("block.experts", 6, 5, 8, seed + 4),
    }
    return {key: x.to(dtype) for key, x in found.items()}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """What was trained, and its start."""
    return (
        write_folder(tmp_path / "trained", tensors(0), **OPTIONS),
        write_folder(tmp_path / "start", tensors(50, torch.bfloat16), **OPTIONS),
    )


def test_every_layer_is_the_difference_at_both_ranks(two: tuple[Path, Path]) -> None:
    readers = [PeftReader(path, as_published=False) for path in two]
    with FromInitial(*two) as reader, readers[0], readers[1]:
        assert len(reader.layers) == 7
        for name, layer in reader.layers.items():
            factors = reader.factors(name)
            assert (layer.rank, factors.rank, layer.dtype) == (4, 4, torch.float32)
            ours, theirs = (product(x.factors(name)) for x in readers)
            assert_close(product(factors), ours - theirs, 1e-12)
            assert_close(product(reader.summand(name)), ours - theirs, 1e-6)


def test_a_small_change_keeps_its_digits_in_a_sum(tmp_path: Path) -> None:
    """B A and B₀ A₀ in float32 would lose what is a millionth of them."""
    start = pair("q", 40, 30, 4)
    moved = {key: x + 2e-6 * gaussian(*x.shape, seed=9) for key, x in start.items()}
    paths = [
        write_folder(tmp_path / name, x, r=4, init_lora_weights="olora")
        for name, x in (("trained", moved), ("start", start))
    ]
    b, a, b0, a0 = (x[f"q.lora_{y}.weight"].double() for x in (moved, start) for y in "BA")
    merge(paths[:1], tmp_path / "out", initial={paths[0]: paths[1]}, weights=[3.0], rank=8)
    assert_close(updates(tmp_path / "out")["q"], 3.0 * (b @ a - b0 @ a0), 1e-5)


def test_alone_it_is_refused_and_says_what_to_give(two: tuple[Path, Path]) -> None:
    for opened in (open_adapter, PeftReader, load_peft):
        with pytest.raises(AdapterError) as caught:
            opened(two[0])
        assert f"flexlora merge --initial {two[0]}=START" in str(caught.value)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a layer less": (
        lambda p: add(p, **{f"{PREFIX}block.q.lora_{x}.weight": None for x in "AB"}),
        "layer block.q is in {trained} alone; give",
    ),
    "a layer more": (
        lambda p: add(p, **{PREFIX + key: x for key, x in pair("a.q", 6, 5, 2).items()}),
        "layer a.q is in {start} alone; give",
    ),
    "another shape": (
        lambda p: add(p, **{f"{PREFIX}block.q.lora_B.weight": gaussian(7, 2)}),
        "layer block.q has linear A (2, 5) and B (6, 2) of scale 1.5 and linear A (2, 5) and B (7",
    ),
    "another rank": (
        lambda p: edit(
            add(p, **{PREFIX + key: x for key, x in pair("block.q", 6, 5, 3).items()}),
            rank_pattern={"q": 3},
            alpha_pattern={"q": 4.5},
        ),
        "layer block.q has linear A (2, 5) and B (6, 2) of scale 1.5 and linear A (3, 5)",
    ),
    "another scale": (lambda p: edit(p, lora_alpha=4), "of scale 1.5 and convolution A"),
    "rsLoRA": (lambda p: edit(p, use_rslora=True), "and B (7, 2, 1, 1) of scale 2.12132; give"),
    "another number of experts": (
        lambda p: add(p, **{PREFIX + k: x for k, x in pair("block.experts", 6, 5, 6).items()}),
        "layer block.experts.w[3] is in {trained} alone",
    ),
    "another initialisation": (
        lambda p: edit(p, init_lora_weights="olora"),
        "one was initialised by 'pissa', the other by 'olora'; give",
    ),
    "LoftQ": (
        lambda p: edit(p, init_lora_weights="loftq"),
        "was initialised by 'loftq', which puts a quantised model in place of the base: no adapter",
    ),
    "DoRA": (lambda p: edit(p, use_dora=True), "{start} holds DoRA (use_dora)"),
    "half a pair": (
        lambda p: add(p, **{f"{PREFIX}block.q.lora_B.weight": None}),
        "layer block.q in {start} has no B",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_start_that_does_not_fit_is_named(two: tuple[Path, Path], name: str) -> None:
    spoil, message = WRONG[name]
    spoil(two[1])
    with pytest.raises(AdapterError) as caught:
        FromInitial(*two)
    assert message.format(trained=two[0], start=two[1]) in str(caught.value)
    if name not in ("LoftQ", "DoRA", "half a pair"):
        assert f"{two[0]} did not begin from {two[1]}: " in str(caught.value)


def test_nothing_is_its_own_start(two: tuple[Path, Path]) -> None:
    with pytest.raises(AdapterError, match="trained is given as its own start; give the adapter"):
        FromInitial(two[0], two[0].parent / "start" / ".." / "trained")


@pytest.mark.parametrize("init", ["loftq", "LoftQ"])
def test_what_began_by_quantising_its_base_is_refused(two: tuple[Path, Path], init: str) -> None:
    edit(two[0], init_lora_weights=init)
    for initial in (None, two[1]):
        with pytest.raises(AdapterError, match="is its update to the base as published; save that"):
            open_adapter(two[0], initial)


def test_single_files_have_no_start(tmp_path: Path, two: tuple[Path, Path]) -> None:
    with pytest.raises(AdapterError, match=r"a\.safetensors is a single file, which does not say"):
        open_adapter(tmp_path / "a.safetensors", two[1])


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_other_initialisations_leave_the_base_alone(two: tuple[Path, Path], init: Any) -> None:
    with PeftReader(edit(two[0], init_lora_weights=init)) as reader:
        assert len(reader.layers) == 7
