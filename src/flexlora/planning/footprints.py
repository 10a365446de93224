"""What a pass through a model takes, found once for all who ask in one process."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from flexlora.allocation.memory import Setting
from flexlora.allocation.shape import Footprint
from flexlora.models.base import quiet
from flexlora.training.foreseen import footprint_of


def footprint(config: Any, name: str, setting: Setting, targets: tuple[str, ...]) -> Footprint:
    """Of a model of transformers at this dtype, length and checkpointing: see `footprint_of`.

    At this length: attention may take more of long examples than in proportion.
    """
    kind: Any = type(config)
    with quiet():
        return _played(
            kind,
            config.to_json_string(),
            name,
            setting.dtype,
            setting.length,
            setting.checkpointing,
            targets,
            setting.tokens == setting.length,
        )


@lru_cache(maxsize=64)
def _played(
    kind: Any,
    config: str,
    name: str,
    dtype: str,
    length: int,
    checkpointing: bool,
    targets: tuple[str, ...],
    alone: bool,
) -> Footprint:
    return footprint_of(
        kind.from_dict(json.loads(config)),
        name,
        dtype=dtype,
        length=length,
        checkpointing=checkpointing,
        targets=targets,
        alone=alone,
    )
