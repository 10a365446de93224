"""Whether what is to be written fits where it is to lie."""

from __future__ import annotations

import shutil
from pathlib import Path

from flexlora.errors import FlexLoRAError
from flexlora.formats.words import size


def require_space(target: Path, nbytes: int) -> None:
    """Raise FlexLoRAError, before anything is written, where the disk has not so many bytes left.

    It is of use for what takes long to write: another process may fill the disk meanwhile.
    """
    above = next(x for x in (target.parent, *target.parent.parents) if x == x.parent or x.exists())
    free = shutil.disk_usage(above).free
    if nbytes > free:
        raise FlexLoRAError(
            f"{target} takes {size(nbytes)}, and its disk has {size(free)} left; free space there, "
            "or choose another folder"
        )
