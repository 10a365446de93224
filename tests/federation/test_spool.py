"""What is put into the spool comes out again, tensor by tensor; a stop leaves nothing behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from flexlora.adapters import Payload
from flexlora.errors import RunError
from flexlora.federation.spool import Spool
from flexlora.formats.payloads import to_bytes
from reference import generator

DTYPES = {"x.b": torch.float32, "x.a": torch.bfloat16, "y": torch.float64, "none": torch.float16}


def payload(number: int, rank: int = 3) -> Payload:
    draw = generator(number)
    shapes = {"x.b": (5, rank), "x.a": (rank, 4), "y": (), "none": (0, 2)}
    tensors = {
        name: torch.randn(shape, generator=draw).to(DTYPES[name]) for name, shape in shapes.items()
    }
    return Payload("factors", tensors, {"number": "é"})


@contextmanager
def at_most_open(files: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_every_tensor_of_every_payload_comes_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = {number: payload(number, rank=1 + number % 3) for number in (4, 0, 7, 1)}
    for number, each in kept.items():
        spool.put(number, to_bytes(each))
    for number, each in reversed(kept.items()):
        found = spool.tensors(number, list(each.tensors))
        for tensor, wanted in zip(found, each.tensors.values(), strict=True):
            assert tensor.dtype == wanted.dtype
            assert torch.equal(tensor, wanted)


def test_what_is_read_is_the_reader_s_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(0, to_bytes(payload(0)))
    (first,) = spool.tensors(0, ["x.b"])
    first.zero_()
    assert torch.equal(spool.tensors(0, ["x.b"])[0], payload(0).tensors["x.b"])


def test_more_payloads_than_a_process_may_open_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with at_most_open(64):
        for number in range(100):
            spool.put(number, to_bytes(payload(number)))
        for number in range(100):
            assert torch.equal(spool.tensors(number, ["y"])[0], payload(number).tensors["y"])


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(0, to_bytes(payload(0)))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match="was cut short while in use; resume the run"):
        spool.tensors(0, list(DTYPES))


def test_clearing_removes_everything(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.put(0, to_bytes(payload(0)))
    spool.clear()
    spool.clear()
    assert not (tmp_path / "spool").exists()
