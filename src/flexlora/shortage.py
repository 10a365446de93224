"""Whether an error says that memory has run out."""

from __future__ import annotations

import errno

import torch

_NO_ROOM = (
    "out of memory",
    "defaultcpuallocator",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cublas_status_not_initialized when calling `cublascreate",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether it says so, on any device: some of torch's are plain errors, known by their words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):  # A file that cannot be mapped.
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _NO_ROOM)
