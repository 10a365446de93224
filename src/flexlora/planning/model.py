"""A model that is planned for: its sizes, and what a pass through it takes, found when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flexlora.allocation.devices import Device
from flexlora.allocation.memory import Memory, Setting, training_memory
from flexlora.allocation.shape import Footprint, ModelShape
from flexlora.allocation.work import step_seconds
from flexlora.models.base import quiet
from flexlora.models.context import positions_of
from flexlora.models.outlined import config_alone
from flexlora.models.shape import shape_of
from flexlora.models.weights import outline
from flexlora.planning.footprints import footprint


@final
class Planned:
    """By name, folder or config.json; see `config_alone`. Raises ModelError."""

    def __init__(self, name: str, targets: Sequence[str] = ("all-linear",)) -> None:
        self.name = name
        self._targets = tuple(targets)
        with quiet():
            self._config: Any = config_alone(name)
            model = outline(self._config, name, None)
            self.shape: ModelShape = shape_of(model, name, targets)
        self.context = positions_of(model)

    def footprint(self, setting: Setting) -> Footprint:
        return footprint(self._config, self.name, setting, self._targets)

    def memory(self, ranks: Mapping[str, int], setting: Setting) -> Memory:
        return training_memory(self.shape, self.footprint(setting), ranks, setting)

    def seconds(self, ranks: Mapping[str, int], setting: Setting, device: Device) -> float:
        """Of one step."""
        return step_seconds(self.shape, self.footprint(setting), ranks, setting, device)
