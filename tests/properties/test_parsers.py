"""Every reader of what others wrote, on valid files that were changed: a value, or our own error.

Bytes are flipped, cut, doubled, put in; entries of JSON and TOML become odd ones. Each reading ends
within seconds, holds no memory that its file does not have, and changes nothing. Run directories
have their own (`runs/test_damaged_runs.py`), and so have whole adapter folders, merged and
inspected (`merging/test_strange_folders.py`), configs as they are prepared
(`config/test_hostile.py`), and answers of clients (`federation/test_malformed.py`).
"""

from __future__ import annotations

import copy
import io
import json
import random
import resource
import signal
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import tomli_w
import torch

from flexlora.adapters import Payload
from flexlora.config.config_file import load_config
from flexlora.config.devices import read_devices
from flexlora.errors import FlexLoRAError
from flexlora.flower.client_file import load_client
from flexlora.flower.packets import Address, Packet, packed, read_header, unpacked
from flexlora.formats.adapter_formats import open_adapter
from flexlora.formats.payloads import from_bytes, load_tensors, open_payload, to_bytes
from flexlora.formats.peft import load_peft
from flexlora.tasks.source import open_source
from peft_folders import pair, write_folder
from reference import as_in_production
from small import small

SECONDS = 20  # A reading takes milliseconds.
MEMORY = 400 << 20  # Bytes by which all of them together may raise the process's peak.

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 10**30, 1.5, 1e308, float("nan"), "", "x", "\ud800", "\x1b[2J"),
    *("F32", "../..", "a" * 5000, "(a+)+$", [], [[]], [0, 2**62], [None], {}, {"x": 1}, {"": ""}),
)
PIECES = (
    *(b"\0", b"\xff", b"\r\n", b'"', b"{", b"}", b"[", b"]", b",", b"=", b".", b"null", b"NaN"),
    *(b"9" * 4400, b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"\xe2\x80\xae", b"1e999", b"\n\n"),
    *(b"\xff" * 8, b"\0" * 8, b"PAR1", b"[[a]]", b"a." * 200, b"1979-05-27T07:32:00", b"0x" * 9),
)


@dataclass(frozen=True)
class Parser:
    """name: of its file; data: a valid one; read: what is to hold for any other."""

    name: str
    data: bytes
    read: Callable[[Path], object]
    loads: Callable[[bytes], Any] | None = None
    dumps: Callable[[Any], bytes] | None = None


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def of_toml(data: bytes) -> Any:
    return tomllib.loads(data.decode())


def as_toml(value: Any) -> bytes:
    def plain(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items()}
        return [plain(v) for v in x] if isinstance(x, list) else "null" if x is None else x

    return tomli_w.dumps(plain(value)).encode(errors="replace")


def of_header(data: bytes) -> Any:
    """Of a safetensors file, with what lies behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return {"header": json.loads(data[8:end]), "rest": data[end:].hex()}


def as_header(value: Any) -> bytes:
    header = json.dumps(value.get("header")).encode()
    rest = value.get("rest")
    body = bytes.fromhex(rest) if isinstance(rest, str) and is_hex(rest) else b""
    return len(header).to_bytes(8, "little") + header + body


def is_hex(text: str) -> bool:
    return len(text) % 2 == 0 and all(x in "0123456789abcdef" for x in text)


def packet(path: Path) -> object:
    data = path.read_bytes()
    size = int.from_bytes(data[:4], "big")
    header = read_header(data[4 : 4 + size])
    return unpacked(header, data[4 + size :])


def of_packet(data: bytes) -> Any:
    size = int.from_bytes(data[:4], "big")
    return {"header": json.loads(data[4 : 4 + size]), "rest": data[4 + size :].hex()}


def as_packet(value: Any) -> bytes:
    rest = value.get("rest")
    header = json.dumps(value.get("header")).encode()
    body = bytes.fromhex(rest) if isinstance(rest, str) and is_hex(rest) else b""
    return len(header).to_bytes(4, "big") + header + body


def rows(kind: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        options = {"path": str(path), "prompt": "q", "response": "a", "category": "k", "seed": 0}
        return [task.name for task in open_source(kind, options).load().train]

    return read


def payload(path: Path) -> object:
    found = from_bytes(path.read_bytes(), limit_bytes=1 << 20)
    with open_payload(path) as file:
        for name in found.tensors:
            file.tensor(name)
    return found


def tensors(path: Path) -> object:
    found, _ = load_tensors(path)
    return [found[name] for name in found]


def adapter(path: Path) -> object:
    open_adapter(path.parent)
    return load_peft(path.parent)


def parsers(folder: Path) -> list[Parser]:
    layers = pair("q", 5, 4, 3)
    stored = write_folder(folder / "adapter", layers, r=3, target_modules=["q"])
    weights = (stored / "adapter_model.safetensors").read_bytes()
    config = (stored / "adapter_config.json").read_bytes()
    tree = {"b": torch.ones(3, 2), "a": torch.zeros(2, 4).bfloat16()}
    given = to_bytes(Payload("memory", tree, {"client": "x", "round": "3"}))
    header, body = packed(
        Packet("train", Address("a1", 3, "3-0", "north", "77"), {"payload": b"abc"}, {"seed": "9"})
    )
    sent = len(header).to_bytes(4, "big") + header + body
    data = [{"q": f"what is {i}?", "a": str(i % 3), "k": f"k{i % 2}"} for i in range(8)]
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), table, row_group_size=3)
    head = "q,a,k\n" + "\n".join(f"what {i},{i % 3},k{i % 2}" for i in range(8))
    jsonl = "".join(json.dumps(row) + "\n" for row in data).encode()
    speeds = {"bandwidth": "300 GB/s", "uplink": "20 Mbit/s", "downlink": "100 Mbit/s"}
    clinics = {"clients": ["a", "b"], "examples": 500, "memory": "16GB", **speeds}
    devices = {"clinics": {**clinics, "flops": {"float32": "8 TFLOPS"}}}
    client = {
        "client": {"name": "north", "rank": 4},
        "model": {"name": "tiny", "device": "cpu"},
        "data": {"source": "jsonl", "path": "rows.jsonl"},
        "run": {"threads": 3},
    }
    small_toml = small().to_toml().encode()
    return [
        Parser("adapter/adapter_model.safetensors", weights, adapter, of_header, as_header),
        Parser("adapter/adapter_config.json", config, adapter, json.loads, as_json),
        Parser("payload.safetensors", given, payload, of_header, as_header),
        Parser("state.safetensors", given, tensors, of_header, as_header),
        Parser("config.toml", small_toml, load_config, of_toml, as_toml),
        Parser("devices.toml", as_toml(devices), read_devices, of_toml, as_toml),
        Parser("devices.json", as_json(devices), read_devices, json.loads, as_json),
        Parser("client.toml", as_toml(client), load_client, of_toml, as_toml),
        Parser("packet", sent, packet, of_packet, as_packet),
        Parser("rows.jsonl", jsonl, rows("jsonl")),
        Parser("rows.json", as_json(data), rows("jsonl"), json.loads, as_json),
        Parser("rows.csv", head.encode(), rows("csv")),
        Parser("rows.parquet", table.getvalue(), rows("parquet")),
    ]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        yield (*path, key)
        yield from nodes(item, (*path, key))


def structured(document: Any, draw: random.Random) -> Any:
    """One or two entries are gone, odd, renamed, or another's."""
    for _ in range(draw.randint(1, 2)):
        found = list(nodes(document))
        if not found:
            break
        *way, last = draw.choice(found)
        holder = document
        for step in way:
            holder = holder[step]
        what = draw.randrange(4)
        if what == 0:
            del holder[last]
        elif what == 1 and isinstance(holder, dict):
            holder[draw.choice(("", "x", "\u202e", "__metadata__", "a" * 300))] = holder.pop(last)
        else:
            holder[last] = copy.deepcopy(draw.choice(ODD))
    return document


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 3)):
        at, what = draw.randrange(len(data) + 1), draw.randrange(5)
        if what < 2 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif what == 2:
            data = data[:at] + data[at + draw.randrange(40) :]
        elif what == 3:
            data = data[:at] + data[draw.randrange(at + 1) :]
        else:
            data = data[:at] + draw.choice(PIECES) + data[at:]
    return data


def changed(parser: Parser, seed: int) -> bytes:
    draw = random.Random(seed)
    if parser.loads is None or parser.dumps is None or draw.random() < 0.5:
        return of_bytes(parser.data, draw)
    return parser.dumps(structured(parser.loads(parser.data), draw))


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def lying(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def tried(folder: Path, parser: Parser, seeds: range) -> dict[str, int]:
    """How many were read, and how many refused; anything else fails with its seed."""
    path, found = folder / parser.name, {"read": 0, "refused": 0}
    path.write_bytes(parser.data)
    parser.read(path)  # As it is, it can be read.
    there, before = lying(folder), peak()
    for seed in seeds:
        data = changed(parser, seed)
        path.write_bytes(data)
        try:
            with in_time():
                parser.read(path)
            found["read"] += 1
        except FlexLoRAError as error:
            said = str(error)
            assert "\n" not in said, (parser.name, seed, said)
            assert len(said) < 5_000, (parser.name, seed, len(said))
            said.encode()
            found["refused"] += 1
        except Exception as error:
            error.add_note(f"{parser.name}, seed {seed}")
            raise
        assert path.read_bytes() == data, (parser.name, seed)
    path.write_bytes(parser.data)
    assert lying(folder) == there
    assert peak() - before < MEMORY, parser.name
    return found


NAMES = (
    *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "payload.safetensors"),
    *("state.safetensors", "config.toml", "devices.toml", "devices.json", "client.toml", "packet"),
    *("rows.jsonl", "rows.json", "rows.csv", "rows.parquet"),
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Parser]]:
    folder = tmp_path_factory.mktemp("parsers")
    return folder, {parser.name: parser for parser in parsers(folder)}


@pytest.mark.parametrize("name", NAMES)
def test_what_was_changed_is_read_or_refused(
    known: tuple[Path, dict[str, Parser]], name: str
) -> None:
    folder, found = known
    with as_in_production():
        counts = tried(folder, found[name], range(60))
    assert counts["refused"] > 5


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_changes_are_read_or_refused(
    known: tuple[Path, dict[str, Parser]], name: str
) -> None:
    folder, found = known
    with as_in_production():
        counts = tried(folder, found[name], range(1_000, 11_000))
    print(name, counts)
