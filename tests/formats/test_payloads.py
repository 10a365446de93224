"""Payloads travel bit for bit, and bytes that need not be trusted do no harm."""

import contextlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from flexlora.adapters import Adapter, Factors, Payload, factors_payload, payload_adapter
from flexlora.errors import AdapterError
from flexlora.formats.payloads import (
    from_bytes,
    load_tensors,
    open_payload,
    save_tensors,
    to_bytes,
)
from flexlora.formats.tensor_file import NAMES

LIMIT = 1 << 20
DTYPES = list(NAMES)
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensor = torch.randn(shape, generator=generator).mul(3).to(draw(st.sampled_from(DTYPES)))
    return tensor.mT if tensor.ndim > 1 and draw(st.booleans()) else tensor


payloads = st.builds(
    Payload,
    schema=st.text(max_size=8),
    tensors=st.dictionaries(st.text("abc.é", min_size=1, max_size=5), tensors(), max_size=4),
    meta=st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=3),
)


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    as_bytes = [t.contiguous().flatten().view(torch.uint8) for t in (first, second)]
    return torch.equal(*as_bytes)


def small() -> Payload:
    return Payload("factors", {"x.b": torch.ones(3, 2), "x.a": torch.ones(2, 4)}, {"x.scale": "2"})


@quick
@given(payloads)
def test_round_trip_is_bit_for_bit(payload: Payload) -> None:
    back = from_bytes(to_bytes(payload), limit_bytes=LIMIT)
    assert (back.schema, dict(back.meta), back.version) == (payload.schema, payload.meta, 1)
    assert sorted(back.tensors) == sorted(payload.tensors)
    assert all(same(back.tensors[name], payload.tensors[name]) for name in payload.tensors)


@quick
@given(payloads)
def test_the_bytes_are_those_of_the_format_s_own_library(payload: Payload) -> None:
    wire = to_bytes(payload)
    header = json.loads(wire[8 : 8 + int.from_bytes(wire[:8], "little")])
    tensors = {name: tensor.contiguous() for name, tensor in payload.tensors.items()}
    assert wire == save(tensors, header["__metadata__"])


def test_one_tensor_under_two_names_travels_twice() -> None:
    one = torch.randn(4, 3)
    back = from_bytes(to_bytes(Payload("x", {"a": one, "b": one[1:]})), limit_bytes=LIMIT)
    assert same(back.tensors["a"], one)
    assert same(back.tensors["b"], one[1:])


def test_a_dtype_that_is_no_payload_s_is_not_written() -> None:
    for dtype in (torch.complex64, torch.float8_e4m3fn):
        with pytest.raises(AdapterError, match=rf"tensor t has dtype {dtype}"):
            to_bytes(Payload("x", {"t": torch.ones(2).to(dtype)}))


def test_not_a_number_and_negative_zero_survive() -> None:
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        back = from_bytes(to_bytes(Payload("x", {"t": odd.to(dtype)})), limit_bytes=LIMIT)
        assert same(back.tensors["t"], odd.to(dtype))


def test_an_adapter_of_mixed_ranks_travels() -> None:
    layers = {f"l{r}": Factors(torch.randn(5, r), torch.randn(r, 4), 16 / 3) for r in (0, 1, 3)}
    wire = to_bytes(factors_payload(Adapter(layers)))
    back = payload_adapter(from_bytes(wire, limit_bytes=LIMIT))
    for name, factors in layers.items():
        assert back[name].scale == factors.scale
        assert same(back[name].b, factors.b)
        assert same(back[name].a, factors.a)


def test_bytes_do_not_depend_on_insertion_or_process() -> None:
    names = ["b", "a", "c", "k1", "k2"]
    ordered = Payload("s", {n: torch.ones(2) for n in names}, {n: n for n in names})
    turned = Payload("s", {n: torch.ones(2) for n in names[::-1]}, {n: n for n in names[::-1]})
    assert to_bytes(ordered) == to_bytes(turned)
    code = (
        "import torch, sys; from flexlora.adapters import Payload;"
        "from flexlora.formats.payloads import to_bytes;"
        f"n = {names}; p = Payload('s', {{k: torch.ones(2) for k in n}}, {{k: k for k in n}});"
        "sys.stdout.buffer.write(to_bytes(p))"
    )
    other = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path}; {code}"],
        capture_output=True,
        check=True,
    )
    assert other.stdout == to_bytes(ordered)


def test_the_limit_comes_before_parsing() -> None:
    with pytest.raises(AdapterError, match=r"payload is 100 bytes, above the limit of 99"):
        from_bytes(b"\xff" * 100, limit_bytes=99)


BROKEN = {
    "empty": b"",
    "cut": to_bytes(small())[:-1],
    "longer": to_bytes(small()) + b"x",
    "pickled": pickle.dumps({"a": 1}),
    "huge header": b"\xff" * 8 + b"{}",
    "no metadata": b"\x02" + b"\0" * 7 + b"{}",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_bytes_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="payload is truncated or was not written by FlexLoRA"):
        from_bytes(data, limit_bytes=LIMIT)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(AdapterError, match="truncated or was not written by FlexLoRA"):
        open_payload(tmp_path / "x")


@pytest.mark.parametrize(
    "head",
    [
        [],
        {"schema": 1, "version": 1, "meta": {}},
        {"schema": "x", "version": "1", "meta": {}},
        {"schema": "x", "version": 1, "meta": {"a": 1}},
        {"schema": "x", "version": 1},
    ],
)
def test_a_foreign_head_is_refused(head: object) -> None:
    with pytest.raises(AdapterError, match="was not written by FlexLoRA"):
        from_bytes(_with_head(json.dumps(head)), limit_bytes=LIMIT)


def test_a_newer_version_is_refused() -> None:
    head = json.dumps({"schema": "x", "version": 2, "meta": {}})
    with pytest.raises(AdapterError, match="format version 2, this FlexLoRA reads up to 1; update"):
        from_bytes(_with_head(head), limit_bytes=LIMIT)


@quick
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damaged_bytes_never_raise_anything_else(place: int, noise: bytes) -> None:
    data = to_bytes(small())
    place = min(place, len(data))
    damaged = data[:place] + noise + data[place + len(noise) :]
    with contextlib.suppress(AdapterError):
        from_bytes(damaged, limit_bytes=LIMIT)


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(to_bytes(small()))
    with open_payload(path) as file:
        assert (file.schema, file.version, file.meta) == ("factors", 1, {"x.scale": "2"})
        assert file.names == ("x.a", "x.b")
        a = file.tensor("x.a")
        with pytest.raises(AdapterError, match="holds no tensor 'y'"):
            file.tensor("y")
    path.write_bytes(b"")  # what was read does not hang on the file
    assert same(a, torch.ones(2, 4))
    with pytest.raises(AdapterError, match="is missing"):
        open_payload(tmp_path / "none")
    path.write_bytes(to_bytes(small()))


@quick
@given(st.dictionaries(st.text("ab|", min_size=1), tensors(), max_size=3))
def test_saved_tensors_come_back(tmp_path: Path, found: dict[str, torch.Tensor]) -> None:
    save_tensors(tmp_path / "t", found, {"round": "3"})
    back, meta = load_tensors(tmp_path / "t")
    assert meta == {"round": "3"}
    assert back.keys() == found.keys()
    assert all(same(back[name], found[name]) for name in found)


def _with_head(head: str) -> bytes:
    text = json.dumps({"__metadata__": {"flexlora": head}}).encode()
    return len(text).to_bytes(8, "little") + text


class Interrupted:
    """A file that reads nothing the first `times`, as torch tells it of a lost Ctrl-C."""

    def __init__(self, times: int) -> None:
        self.times = times

    def get_tensor(self, name: str) -> torch.Tensor:
        self.times -= 1
        if self.times >= 0:
            raise ValueError("could not determine the shape of object type 'UntypedStorage'")
        return torch.ones(2)

    def __exit__(self, *_: object) -> None: ...


def test_ctrl_c_that_torch_swallows_is_no_damage(tmp_path: Path) -> None:
    save_tensors(tmp_path / "p", {"x": torch.ones(2)})
    with open_payload(tmp_path / "p") as file:
        file._file = Interrupted(1)
        with pytest.raises(KeyboardInterrupt):
            file.tensor("x")
        assert torch.equal(file.tensor("x"), torch.ones(2))
        file._file = Interrupted(2)
        with pytest.raises(AdapterError, match="truncated or was not written by FlexLoRA"):
            file.tensor("x")
