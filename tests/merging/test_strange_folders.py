"""Whatever a folder holds, reading, merging and inspecting it end: well, or in one sentence."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flexlora.adapters import About, Adapter, Factors, dissect
from flexlora.errors import InputError
from flexlora.formats.peft import load_peft, save_peft
from flexlora.formats.peft_reader import PeftReader
from flexlora.merging import merge
from peft_folders import pair, stored, write_folder
from reference import as_in_production, gaussian

WEIGHTS, CONFIG, NOTES = "adapter_model.safetensors", "adapter_config.json", "flexlora.json"
ENDLESS_S = 60  # A try takes milliseconds: one that takes this long never ends.

STRANGE: list[Any] = [
    *[None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, -(2**63), 2**64, 10**400, 1.5, 1e308, -0.0],
    *[math.nan, math.inf, -math.inf, "", "x", "F32", "BF16", "I8", "F8_E4M3", "C64", "q", "none"],
    *["\0", "\x1b[2J", "\u202e", "\ud800", "é", "²", "٣", "../..", "a" * 5000, "LORA", "all", "~"],
    *[[], [0], [1, 2], [0, 2**62], [-1, 3], ["q"], [None], [[]], {}, {"q": 2}, {"": ""}, {"q": {}}],
    *[{"(a+)+b": 3}, {"(.*)*x": 2}, {"(": 1}, {"a{9999999999}": 2}, {".*" * 30: 3}, {"q": "x"}],
    *[{"(" * 3000: 1}, {r"(a)\1": 2}, {"(?=q)": 1}, {"q" * 2000: 1}, {"|": 2}, {r"\d": math.nan}],
    *[
        {"format": 3},
        [0, 24],
        [8, 0],
        [0, 10**30],
        "base_model.model.q.lora_A.weight",
        ["a"] * 3000,
    ],
]
KEYS = ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "modules_to_save"]
KEYS += ["use_rslora", "bias", "task_type", "base_model_name_or_path", "init_lora_weights", "x"]
KEYS += [
    "target_parameters",
    "fan_in_fan_out",
    "peft_type",
    "use_dora",
    "ranks",
    "scales",
    "base_fingerprint",
]
NAMES = [
    "base_model.model.q.lora_A.weight",
    "q.lora_B.weight",
    "_orig_mod.q.lora_A.weight",
    "lora_A",
]
NAMES += ["base_model.model.q.lora_A.a.weight", "lm_head.weight", "q.lora_magnitude_vector", ""]
NAMES += [
    "module." * 60 + "q.lora_A.weight",
    "x.lora_embedding_A",
    "x²2.lora_B.weight",
    "\x1b.weight",
]
NAMES += ["layers.0.experts.base_layer.base_layer.lora_A.weight", "layers.0.experts"]
NAMES += ["__metadata__", "base_layer.weight", "q.lora_A." * 50 + "weight", "e.base_layer.weight"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder of each kind of layer, of ours with notes, with patterns, and with parameters."""
    place = tmp_path_factory.mktemp("sound")
    tensors = {
        **pair("q", 6, 5, 2),
        "conv.lora_A.weight": gaussian(3, 4, 2, 2),
        "conv.lora_B.weight": gaussian(7, 3, 1, 1),
        "e.lora_embedding_A": gaussian(2, 9),
        "e.lora_embedding_B": gaussian(5, 2),
        "e.base_layer.weight": gaussian(9, 5),
        "score.weight": gaussian(2, 5).half(),
    }
    write_folder(
        place / "kinds",
        tensors,
        r=2,
        rank_pattern={"conv": 3},
        alpha_pattern={r".*\.conv|conv": 6},
        modules_to_save=["score"],
        base_model_name_or_path="org/m",
    )
    layers = {
        "layers.0.q": Factors(torch.zeros(6, 0), torch.zeros(0, 5), 1.0),
        "layers.1.q": Factors(gaussian(6, 3), gaussian(3, 5, seed=1), math.nextafter(1.0, 0)),
        "layers.2.q": Factors(gaussian(6, 2), gaussian(2, 5, seed=2), 0.7),
    }
    save_peft(Adapter(layers, About("org/m", "float32:ab")), place / "ours")
    plain = pair("layers.1.q", 6, 5, 4) | pair("q", 6, 5, 1)
    write_folder(place / "patterns", plain, r=4, rank_pattern={"^q": 1}, use_rslora=True)
    experts = {
        **pair("layers.0.experts", 6, 5, 4),
        **pair("layers.0.experts.base_layer", 7, 6, 8, 1),
        **pair("q", 6, 5, 2),
    }
    write_folder(
        place / "parameters",
        experts,
        r=2,
        rank_pattern={"up_proj": 4},
        target_modules=["q"],
        target_parameters=["experts.down_proj", "up_proj"],
    )
    return sorted(place.iterdir())


def strange(draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(STRANGE))


def a_node(draw: random.Random, value: Any) -> tuple[Any, Any] | None:
    """Some container within a JSON value, and one of its places."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        node = todo.pop()
        places = list(node) if isinstance(node, dict) else range(len(node))
        found += [(node, place) for place in places]
        todo += [node[place] for place in places if isinstance(node[place], dict | list)]
    return draw.choice(found) if found else None


def changed(draw: random.Random, value: Any, names: list[str]) -> Any:
    """A JSON value with one thing or two replaced, removed, added or renamed."""
    for _ in range(draw.choice((1, 1, 1, 2))):
        node = a_node(draw, value)
        what = draw.choice(("replace", "replace", "remove", "add", "rename"))
        if what == "add" and isinstance(value, dict):
            value[draw.choice(names)] = strange(draw)
        elif node is None or draw.random() < 0.03:
            value = strange(draw)
            if not isinstance(value, dict | list):
                break
        elif what == "remove":
            del node[0][node[1]]
        elif what == "rename" and isinstance(node[0], dict):
            node[0][draw.choice(names)] = node[0].pop(node[1])
        else:
            node[0][node[1]] = strange(draw)
    return value


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def spoil_json(name: str, draw: random.Random, folder: Path) -> None:
    path = folder / name
    held = json.loads(path.read_bytes()) if path.exists() else {"ranks": {}, "scales": {}}
    path.write_bytes(json_bytes(changed(draw, held, KEYS)))


def spoil_header(draw: random.Random, folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json_bytes(changed(draw, json.loads(raw[8:end]), NAMES))
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])


def spoil_names(draw: random.Random, folder: Path) -> None:
    """Sound tensors under other names: the header's own checks have nothing to say."""
    raw = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    held = json.loads(raw[8:end])
    for _ in range(draw.randint(1, 3)):
        held[draw.choice(NAMES)] = held.pop(draw.choice([x for x in held if x != "__metadata__"]))
    header = json_bytes(held)
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])


def spoil_bytes(draw: random.Random, folder: Path) -> None:
    path = draw.choice(sorted(folder.iterdir()))
    data = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        what = draw.choice(("flip", "cut", "insert", "remove", "fill"))
        if what == "flip" and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif what == "cut" and draw.random() < 0.3:
            del data[at:]
        elif what == "insert":
            data[at:at] = draw.randbytes(draw.randint(1, 9))
        elif what == "remove":
            del data[at : at + draw.randint(1, 9)]
        elif what == "fill":  # Numbers that are infinite, not numbers, or huge.
            data[at : at + 4] = draw.choice(
                (b"\0\0\x80\x7f", b"\xff\xff\xff\xff", b"\xff\xff\x7f\x7f")
            )
    path.write_bytes(data)


FACTORS = (0.0, -1.0, 1e-30, 1e18, 3e38, math.nan, math.inf)
OTHER_DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.float8_e4m3fn)


OTHERS: list[Callable[[Tensor], Tensor]] = [
    *[partial(torch.mul, other=factor) for factor in FACTORS],
    *[partial(Tensor.to, dtype=dtype) for dtype in OTHER_DTYPES],
    lambda x: x[:0],
    lambda x: x.reshape(-1),
    lambda x: x.T if x.ndim == 2 else x[0],
    lambda x: torch.cat([x, x]),
]


def spoil_tensors(draw: random.Random, folder: Path) -> None:
    """Sound tensors of other numbers, dtypes and shapes."""
    held = stored(folder)
    for key in draw.sample(sorted(held), draw.randint(1, 2)):
        held[key] = draw.choice(OTHERS)(held[key]).contiguous()
    save_file(held, folder / WEIGHTS)


SPOILERS: list[Callable[[random.Random, Path], None]] = [
    lambda draw, folder: spoil_json(CONFIG, draw, folder),
    lambda draw, folder: spoil_json(CONFIG, draw, folder),
    lambda draw, folder: spoil_json(NOTES, draw, folder),
    spoil_header,
    spoil_names,
    spoil_bytes,
    spoil_tensors,
    spoil_tensors,
]


# What one spoiler left may be nothing to the next.
SPOILT_ALREADY: tuple[type[Exception], ...] = (ValueError, KeyError, IndexError, AttributeError)
SPOILT_ALREADY += (TypeError, RuntimeError, SafetensorError)


def hold(folder: Path, other: Path, out: Path, draw: random.Random) -> int:
    """How many of the ways to use the folder end in an error that says what is wrong."""

    def inspected() -> None:
        with PeftReader(folder) as reader:
            dissect(reader.adapter())

    pair_of = [folder, other] if draw.random() < 0.5 else [other, folder]
    ways: list[Callable[[], object]] = [
        lambda: load_peft(folder),
        inspected,
        lambda: merge([folder], out / "alone", weights=[1.0], rank="full"),
        lambda: merge(pair_of, out / "both", rank=2, force=draw.random() < 0.7),
    ]
    refused = longest = 0
    for way in ways:
        try:
            way()
        except InputError as error:
            refused += 1
            longest = max(longest, len(str(error)))
    assert longest < 1500
    return refused


@contextmanager
def ended_in_time(words: str) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"{words} does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(ENDLESS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(sound: list[Path], place: Path, seed: int) -> int:
    draw = random.Random(seed)
    folder, out = place / "x", place / "out"
    shutil.copytree(draw.choice(sound), folder)
    out.mkdir()
    try:
        for _ in range(draw.choice((1, 1, 2))):
            try:
                draw.choice(SPOILERS)(draw, folder)
            except SPOILT_ALREADY:
                continue
        with ended_in_time(f"seed {seed}"):
            return hold(folder, draw.choice(sound), out, draw)
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(out)


def test_sound_folders_are_used_without_a_word(sound: list[Path], tmp_path: Path) -> None:
    for folder in sound:
        (tmp_path / folder.name).mkdir()
        # The training door alone refuses two: they have other layers than linear ones.
        refused = int(folder.name in ("kinds", "parameters"))
        assert hold(folder, folder, tmp_path / folder.name, random.Random(0)) == refused


def test_some_hundred_folders_spoilt(sound: list[Path], tmp_path: Path) -> None:
    with as_in_production():
        refused = [tried(sound, tmp_path, seed) for seed in range(300)]
    # Neither is everything refused, nor nothing.
    assert all(refused.count(count) > 10 for count in (0, 1, 4))


@pytest.mark.soak
def test_very_many_folders_spoilt(sound: list[Path], tmp_path: Path) -> None:
    with as_in_production():
        for seed in range(1000, 21_000):
            tried(sound, tmp_path, seed)
