"""What the system refused: whether a disk is behind an error."""

from __future__ import annotations

import errno

import pytest

from flexlora.errors import FlexLoRAError
from flexlora.formats.refused import from_disk, refused

FULL = OSError(errno.ENOSPC, "No space left on device")


def caused(error: Exception, by: BaseException) -> Exception:
    error.__cause__ = by
    return error


def circle() -> Exception:
    one, other = ValueError("x"), ValueError("y")
    one.__cause__, other.__cause__ = other, one
    return one


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FULL, True),
        (caused(refused("x", FULL), FULL), True),
        (caused(FlexLoRAError("more words"), caused(refused("x", FULL), FULL)), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (FlexLoRAError("training diverged"), False),
        (circle(), False),
    ],
)
def test_whether_a_disk_is_behind_it(error: Exception, told: bool) -> None:
    assert from_disk(error) is told
