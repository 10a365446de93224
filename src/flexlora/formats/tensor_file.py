"""A safetensors file written, or read, one tensor after another: memory is one tensor's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flexlora.errors import AdapterError
from flexlora.formats.closing import Closing

NAMES = {  # In the order in which safetensors lays tensors out: the widest first.
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Adapters on disk may have eight bits too; no payload does, since torch cannot sum them.
_STORED = {**NAMES, torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
DTYPES = {name: dtype for dtype, name in _STORED.items()}  # By the format's names for them.
_ENTRY_BYTES = 160  # Of one tensor's dtype, shape (≤ 5 numbers) and offsets in the header.
_CHUNK_BYTES = 1 << 24


class TensorFile:
    """A new safetensors file, open for writing. Use as a context manager.

    names: all tensors that may come. The header stands before the data but is known last, so its
    place is reserved (the format allows it to end in spaces). A body that raises leaves a file
    without a header, which nobody can read.
    """

    def __init__(
        self, path: Path, names: Iterable[str], metadata: Mapping[str, str] | None = None
    ) -> None:
        self._names = set(names)
        self._header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
        sizes = sum(len(json.dumps(name)) + _ENTRY_BYTES for name in self._names)
        self._reserved = (len(json.dumps(self._header)) + sizes + 7) // 8 * 8
        self._written = 0
        self._file = open(path, "xb")  # noqa: SIM115 - closed by __exit__
        self._file.write(bytes(8 + self._reserved))

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor. Raises AdapterError for a dtype that the format lacks."""
        assert name in self._names, name
        assert name not in self._header, name
        if tensor.dtype not in _STORED:
            raise _unheld(name, tensor)
        size = tensor.numel() * tensor.element_size()
        self._header[name] = {
            "dtype": _STORED[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._written, self._written + size],
        }
        if size:
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            for begin in range(0, size, _CHUNK_BYTES):
                self._file.write(raw[begin : begin + _CHUNK_BYTES].numpy().tobytes())
        self._written += size

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                header = json.dumps(self._header).encode()
                assert len(header) <= self._reserved
                self._file.seek(0)
                self._file.write(self._reserved.to_bytes(8, "little"))
                self._file.write(header.ljust(self._reserved))
        finally:
            self._file.close()


def require_dtype(name: str, tensor: Tensor) -> None:
    """Raise AdapterError for a dtype that no payload has."""
    if tensor.dtype not in NAMES:
        raise _unheld(name, tensor)


def _unheld(name: str, tensor: Tensor) -> AdapterError:
    return AdapterError(f"tensor {name} has dtype {tensor.dtype}; save it as floats")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file, not read yet. dtype: as the format names it. begin, end: its bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def part(self, place: int) -> Stored:
        """One of those that lie behind each other along the first dimension."""
        size = (self.end - self.begin) // self.shape[0]
        begin = self.begin + place * size
        return Stored(self.dtype, self.shape[1:], begin, begin + size)

    def read(self, file: Any) -> Tensor | None:
        """The tensor, in memory of its own, of a dtype in `DTYPES`; None where the file is shorter.

        file: open for reading bytes.
        """
        raw = torch.empty(self.end - self.begin, dtype=torch.uint8)
        file.seek(self.begin)
        if file.readinto(raw.numpy().data) != raw.numel():
            return None
        return raw.view(DTYPES[self.dtype]).reshape(self.shape)


def layout(header: bytes, begin: int) -> dict[str, Stored]:
    """Where the tensors of this header lie, in a file whose tensors begin at byte `begin`."""
    tensors = json.loads(header)
    tensors.pop("__metadata__", None)
    return {
        name: Stored(x["dtype"], tuple(x["shape"]), *(begin + at for at in x["data_offsets"]))
        for name, x in tensors.items()
    }


@final
class TensorReader(Closing):
    """A safetensors file, open for reading. Use as a context manager, or `close()` it.

    stored: name → `Stored`. Tensors are read, not mapped: pages of a mapped file would count as
    memory of this process, and a file that is cut short under it would kill it.
    Raises AdapterError for a file that is truncated or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            str(path).encode()
            with safe_open(str(path), framework="pt"):
                pass  # It holds every limit: of the header's size, of offsets, of shapes.
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close
        except OSError as error:
            # safetensors leaves out what the system says of a file that is gone.
            reason = error.strerror or str(error).partition(":")[0]
            raise AdapterError(f"{path} cannot be read ({reason}); check the path") from error
        except UnicodeError as error:
            raise AdapterError(
                f"{path} has a name that is no UTF-8, which safetensors does not open; rename it"
            ) from error
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise self._broken() from error
        begin = 8 + int.from_bytes(self._file.read(8), "little")
        header = self._file.read(begin - 8)
        self.stored = layout(header, begin)
        self.metadata: dict[str, str] = json.loads(header).get("__metadata__") or {}

    def read(self, name: str, part: int | None = None) -> Tensor:
        """One tensor, or one part along its first dimension, in memory of its own.

        Raises AdapterError for a dtype that torch lacks.
        """
        stored = self.stored[name] if part is None else self.stored[name].part(part)
        if stored.dtype not in DTYPES:
            raise AdapterError(
                f"tensor {name} in {self._path} is stored as {stored.dtype}; save it as floats"
            )
        found = stored.read(self._file)
        if found is None:
            raise self._broken()
        return found

    def close(self) -> None:
        self._file.close()

    def _broken(self) -> AdapterError:
        return AdapterError(
            f"{self._path} is truncated or no safetensors file; save the adapter again"
        )
