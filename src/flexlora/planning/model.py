"""A model that is planned for: its sizes, and what a pass through it takes, found when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flexlora.allocation.devices import Device
from flexlora.allocation.memory import Memory, Setting, training_memory
from flexlora.allocation.shape import Footprint, ModelShape
from flexlora.allocation.work import step_seconds
from flexlora.models.base import quiet
from flexlora.models.outlined import config_alone
from flexlora.models.shape import shape_of
from flexlora.models.weights import outline
from flexlora.training.foreseen import footprint_of


@final
class Planned:
    """By name, folder or config.json; see `config_alone`. Raises ModelError."""

    def __init__(self, name: str, targets: Sequence[str] = ("all-linear",)) -> None:
        self.name = name
        self._targets = tuple(targets)
        with quiet():
            self._config: Any = config_alone(name)
            self.shape: ModelShape = shape_of(outline(self._config, name, None), name, targets)
        text = self._config.get_text_config()
        self.context = int(getattr(text, "max_position_embeddings", 0) or 0)
        self._found: dict[tuple[str, int, bool, bool], Footprint] = {}

    def footprint(self, setting: Setting) -> Footprint:
        """At this length: attention may take more of long examples than in proportion."""
        alone = setting.tokens == setting.length
        key = setting.dtype, setting.length, setting.checkpointing, alone
        if key not in self._found:
            with quiet():
                self._found[key] = footprint_of(
                    self._config,
                    self.name,
                    dtype=setting.dtype,
                    length=setting.length,
                    checkpointing=setting.checkpointing,
                    targets=self._targets,
                    alone=alone,
                )
        return self._found[key]

    def memory(self, ranks: Mapping[str, int], setting: Setting) -> Memory:
        return training_memory(self.shape, self.footprint(setting), ranks, setting)

    def seconds(self, ranks: Mapping[str, int], setting: Setting, device: Device) -> float:
        """Of one step."""
        return step_seconds(self.shape, self.footprint(setting), ranks, setting, device)
