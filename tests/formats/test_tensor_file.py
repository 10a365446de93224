"""Files written tensor by tensor are what safetensors writes; what it writes is read so too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexlora.errors import AdapterError
from flexlora.formats import tensor_file
from flexlora.formats.tensor_file import TensorFile, TensorReader
from reference import gaussian

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
in_folders = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TENSORS = {
    "matrix": gaussian(3, 5),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "convolution": gaussian(2, 3, 1, 2, 2).half(),
    "turned": gaussian(4, 6).T,
    "every second": torch.arange(10)[::2],
    "é ∑": torch.tensor([True, False]),
}


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    with TensorFile(path, tensors) as file:
        for name, tensor in tensors.items():
            file.add(name, tensor)
    return path


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert torch.equal(got[name], tensor)


def read(path: Path) -> dict[str, Tensor]:
    with TensorReader(path) as file:
        return {name: file.read(name) for name in file.stored}


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "x", TENSORS)
    assert_same(load_file(path), TENSORS)
    assert_same(read(path), TENSORS)
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_safetensors_wrote_is_read(tmp_path: Path) -> None:
    save_file({name: x.contiguous() for name, x in TENSORS.items()}, tmp_path / "x", {"a": "b"})
    assert_same(read(tmp_path / "x"), TENSORS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_keeps_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    bits = torch.randint(
        0, 256, (24,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    tensor = (bits % 2).bool() if dtype is torch.bool else bits.view(dtype)
    path = write(tmp_path / "x", {"x": tensor})
    for got in (load_file(path)["x"], read(path)["x"]):
        assert got.dtype == dtype
        assert torch.equal(got.view(torch.uint8), tensor.view(torch.uint8))


@in_folders
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.lists(st.integers(0, 3), max_size=5), st.sampled_from(DTYPES)),
        max_size=6,
    ),
    metadata=st.none() | st.dictionaries(st.text("aé", max_size=3), st.text("b", max_size=9)),
)
def test_any_names_and_shapes(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[list[int], torch.dtype]],
    metadata: dict[str, str] | None,
) -> None:
    path = tmp_path_factory.mktemp("file") / "x"
    made = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in tensors.items()}
    with TensorFile(path, made, metadata) as file:
        for name, tensor in made.items():
            file.add(name, tensor)
    assert_same(load_file(path), made)
    assert_same(read(path), made)
    # Data begin at a multiple of eight bytes, as the format wants it.
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_the_largest_numbers_fit_the_header_that_is_reserved() -> None:
    """Each entry is reserved for before its numbers are known."""
    entry = {"dtype": "BF16", "shape": [2**31] * 5, "data_offsets": [10**14, 10**14]}
    assert len(f', "": {json.dumps(entry)}') <= tensor_file._ENTRY_BYTES


def test_names_that_never_come_leave_no_trace(tmp_path: Path) -> None:
    with TensorFile(tmp_path / "x", ["a", "b"]) as file:
        file.add("b", torch.ones(2))
    assert set(load_file(tmp_path / "x")) == {"b"}


def test_tensors_larger_than_a_chunk(tmp_path: Path) -> None:
    large = torch.arange(9_000_001, dtype=torch.int16)
    path = write(tmp_path / "x", {"before": torch.ones(3), "large": large, "after": torch.zeros(1)})
    got = read(path)
    assert torch.equal(got["large"], large)
    assert torch.equal(got["after"], torch.zeros(1))


def test_what_is_read_is_the_readers_own(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"a": torch.ones(3)})
    with TensorReader(path) as file:
        first = file.read("a")
        first.zero_()
        assert torch.equal(file.read("a"), torch.ones(3))
    path.unlink()
    assert torch.equal(first, torch.zeros(3))


def test_a_body_that_raises_leaves_what_nobody_can_read(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def stopped() -> None:
        with TensorFile(path, ["a", "b"]) as file:
            file.add("a", torch.ones(2))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    with pytest.raises(SafetensorError):
        load_file(path)
    with pytest.raises(AdapterError, match="x is truncated or no safetensors file; save"):
        TensorReader(path)


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("precious")
    with pytest.raises(FileExistsError):
        TensorFile(tmp_path / "x", [])
    assert (tmp_path / "x").read_text() == "precious"


def test_dtypes_that_cannot_be_held_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(
            AdapterError, match=r"tensor a has dtype torch\.complex64; save it as floats"
        ),
        TensorFile(tmp_path / "x", ["a"]) as file,
    ):
        file.add("a", torch.ones(2, dtype=torch.complex64))
    save_file({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "y")
    with (
        TensorReader(tmp_path / "y") as file,
        pytest.raises(AdapterError, match=r"tensor a in .*y is stored as C64; save"),
    ):
        file.read("a")


SOUND = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
BROKEN = {
    "nothing": b"",
    "a header alone": (10).to_bytes(8, "little"),
    "a header of 2⁶³ bytes": (2**63).to_bytes(8, "little") + b"{}",
    "no JSON": (2).to_bytes(8, "little") + b"[[" + bytes(8),
    "data cut short": json.dumps(SOUND).encode(),
    "offsets beyond the file": json.dumps(SOUND | {"b": SOUND["a"]}).encode(),
    "a shape that lies": json.dumps({"a": SOUND["a"] | {"shape": [2**62]}}).encode(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_damaged_is_refused(tmp_path: Path, name: str) -> None:
    raw = BROKEN[name]
    if raw.startswith(b"{"):
        data = bytes(8 - (name == "data cut short"))
        raw = len(raw).to_bytes(8, "little") + raw + data
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(AdapterError, match="x is truncated or no safetensors file; save the ada"):
        TensorReader(tmp_path / "x")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"gone cannot be read \(No such file or directory\)"):
        TensorReader(tmp_path / "gone")
