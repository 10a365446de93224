"""A rehearsal: what becomes of a federation when some of its clients are hostile."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flexlora.config.table import Table

Attack = Literal[
    "none", "scaled", "sign_flip", "random", "label_flip", "shuffled", "little_is_enough"
]


class HostileConfig(Table):
    """[hostile]: a rehearsal in which some clients send what they should not."""

    attack: Attack = Field(
        default="none",
        description="what they send: scaled: their change times `strength`; sign_flip: minus that; "
        "random: noise, so many times as long; label_flip: what they trained on others' answers; "
        "shuffled: their factors, each as it was, but paired wrongly; little_is_enough: all the "
        "same, so many standard deviations off their mean",
    )
    share: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        default=0.2, description="of the clients that are hostile, rounded down, one at least"
    )
    strength: Annotated[float, Field(gt=0.0, le=1e6)] | None = Field(
        default=None, description="see attack; none: the attack's own"
    )
