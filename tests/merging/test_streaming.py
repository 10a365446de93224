"""A merge holds one layer at a time, and what it writes is there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flexlora.errors import AdapterError
from flexlora.formats.peft_reader import PeftReader
from flexlora.merging import merge
from peft_folders import PREFIX, add, pair, write_folder
from wrong_input import contents

LAYERS, WIDTH, RANK = 48, 4096, 16
SCRIPT = r"""
import re, sys, torch
torch.set_num_threads(1)
from flexlora.merging import merge
peak = lambda: int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
merge(sys.argv[4:6], sys.argv[2], rank=1)
before = peak()
merge(sys.argv[6:], sys.argv[3], rank=int(sys.argv[1]))
print((peak() - before) * 1024)
"""


def large(folder: Path, layers: int, seed: int) -> Path:
    one = pair("up_proj", WIDTH, WIDTH, RANK, seed)
    tensors = {f"layers.{i}.{key}": x.clone() for i in range(layers) for key, x in one.items()}
    return write_folder(folder, tensors, r=RANK)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status")
def test_the_peak_of_memory_is_one_layers_work(tmp_path: Path) -> None:
    """A real process: four adapters of 48 layers, 100 MB in all, after two of one layer.

    One layer is 2 MB of inputs; with all its work it may take six times that.
    """
    few = [large(tmp_path / f"few{i}", 1, i) for i in range(2)]
    many = [large(tmp_path / f"many{i}", LAYERS, i) for i in range(4)]
    size = sum((folder / "adapter_model.safetensors").stat().st_size for folder in many)
    layer = size // LAYERS
    outs = (tmp_path / "one", tmp_path / "two")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(RANK), *map(str, (*outs, *few, *many))],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
    assert len(PeftReader(tmp_path / "two").layers) == LAYERS
    assert int(done.stdout) < 6 * layer < size / 8


def test_a_folder_is_opened_without_reading_its_layers(tmp_path: Path) -> None:
    """NaN in one layer is seen when that layer is asked for."""
    tensors = pair("first", 4, 4, 2) | pair("last", 4, 4, 2)
    tensors["last.lora_A.weight"][0, 0] = torch.nan
    folder = write_folder(tmp_path / "a", tensors, r=2)
    with PeftReader(folder) as reader:
        assert list(reader.layers) == ["first", "last"]
        assert reader.factors("first").rank == 2
        with pytest.raises(AdapterError, match="layer last of the adapter holds NaN or infinity"):
            reader.factors("last")


def test_a_failure_in_the_last_layer_leaves_nothing(tmp_path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for i in range(5):
        tensors |= pair(f"layers.{i}", 6, 6, 2, i)
    a = write_folder(tmp_path / "a", tensors, r=2)
    b = write_folder(tmp_path / "b", tensors, r=2)
    add(b, **{f"{PREFIX}layers.4.lora_B.weight": torch.full((6, 2), torch.inf)})
    before, seen = contents(tmp_path), []
    with pytest.raises(AdapterError, match=r"layer layers\.4 of the adapter"):
        merge([a, b], tmp_path / "out", rank=2, watch=lambda done, _: seen.append(done))
    assert seen == [1, 2, 3, 4]
    assert contents(tmp_path) == before


def test_an_input_cut_short_while_it_is_read_is_a_sentence(tmp_path: Path) -> None:
    """A mapped file would end the process here."""
    a = write_folder(tmp_path / "a", pair("x", 9999, 9, 2) | pair("y", 9999, 9, 2), r=2)
    weights = a / "adapter_model.safetensors"

    def shorten(*_: int) -> None:
        os.truncate(weights, weights.stat().st_size // 2)

    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is truncated"):
        merge([a], tmp_path / "out", rank=2, watch=shorten)
    assert sorted(tmp_path.iterdir()) == [a]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_process_that_is_killed_leaves_no_folder(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", pair("x", 6, 6, 2) | pair("y", 6, 6, 2), r=2)
    script = (
        "import os, signal, sys\nfrom flexlora.merging import merge\n"
        "merge([sys.argv[1]], sys.argv[2], rank=1,"
        " watch=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(a), str(tmp_path / "out")], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    # What is left aside is in nobody's way.
    assert merge([a], tmp_path / "out", rank=1).layers
