"""How many CPU threads torch computes with: other numbers round differently."""

from __future__ import annotations

import torch

# torch's number before it was set here, and what it was set to since.
_own: int | None = None
_set: int | None = None


def use_threads(threads: int | None) -> int:
    """Set torch's number for this process, and return it. None: torch's own choice.

    That is what it was before anything was set here, or what somebody else has set it to since:
    never what an earlier federation in this process asked for.
    """
    global _own, _set
    if _own is None or torch.get_num_threads() != _set:
        _own = torch.get_num_threads()
    _set = threads or _own
    torch.set_num_threads(_set)
    return _set
