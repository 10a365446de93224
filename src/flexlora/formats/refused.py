"""What the system refused to read or write: which path, why, and what helps."""

from __future__ import annotations

import errno
import os

from flexlora.errors import FlexLoRAError, InputError

_WRONG_PATH = {
    errno.ENOTDIR: "a file stands where a folder should be; choose another path",
    errno.EEXIST: "a file stands where a folder should be; choose another path",
    errno.EISDIR: "a folder stands where a file should be; choose another path",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link there leads to itself; choose another path",
    errno.EACCES: "see who may use it, or choose another path",
    errno.EPERM: "see who may use it, or choose another path",
    errno.EROFS: "choose a folder that can be written",
}
_SHORT = {
    errno.ENOSPC: "free space there or choose another folder",
    errno.EDQUOT: "free space there or choose another folder",
    errno.EFBIG: "choose a folder on a disk that holds such files",
    errno.EIO: "see whether the disk is well, or the network drive there, then do it again",
    errno.ESTALE: "see whether the network drive is there, then do it again",
    errno.EREMOTEIO: "see whether the network drive is there, then do it again",
    errno.ENODEV: "see whether the disk is there, then do it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
}


def of_disk(error: OSError) -> bool:
    """Whether it tells of a disk, or of the system's limits: nothing that the network has."""
    return error.errno in _SHORT or error.errno == errno.EROFS


def from_disk(error: BaseException) -> bool:
    """Whether such an error, or one of ours that was made of it, is what came."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:  # Raised from itself, its causes are a circle.
        if isinstance(found, OSError) and of_disk(found):
            return True
        seen.append(found)
        found = found.__cause__
    return False


def refused(path: object, error: OSError, doing: str = "cannot write") -> FlexLoRAError:
    """The error to raise: an InputError where the path is wrong, else one that the run failed of.

    path: what is named. doing: what it was that failed.
    """
    reason = error.strerror or str(error)
    kind = InputError if error.errno in _WRONG_PATH else FlexLoRAError
    return kind(f"{doing} {os.fsdecode(str(path))}: {reason}; {cure_of(error)}")


def cure_of(error: OSError) -> str:
    """What helps against it."""
    known = {**_SHORT, **_WRONG_PATH}
    return known.get(error.errno or 0, "check the path, and whether the disk is well")
