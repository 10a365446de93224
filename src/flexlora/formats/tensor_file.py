"""A safetensors file written one tensor after another: memory is one tensor's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from flexlora.errors import AdapterError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
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
        if tensor.dtype not in _NAMES:
            raise AdapterError(f"tensor {name} has dtype {tensor.dtype}; save it as floats")
        size = tensor.numel() * tensor.element_size()
        self._header[name] = {
            "dtype": _NAMES[tensor.dtype],
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
