"""What diffusers notes in a file's metadata: `lora_adapter_metadata`, a LoRA config for each part.

Its keys are those of a PEFT config behind the name of the part, "transformer.lora_alpha". Without
them α is r.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

from flexlora.adapters import lora_scale
from flexlora.errors import AdapterError, shown
from flexlora.formats.peft_config import PerLayer, scaling_of
from flexlora.formats.plain_lora import changed_base, require_plain, unsupported

KEY: Final = "lora_adapter_metadata"
_LONGEST: Final = 1 << 20  # Characters of it.


@final
class Noted:
    """The scales that it says. Raises AdapterError where it is damaged, or no plain LoRA."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        text = metadata.get(KEY)
        self._path = path
        self._parts: dict[str, dict[str, Any]] = defaultdict(dict)
        self._alphas: dict[str, PerLayer] = {}
        if text is None:
            return
        try:
            found = json.loads(text) if len(text) <= _LONGEST else None
            if not isinstance(found, dict):
                raise ValueError(text[:1])
            for key, value in found.items():
                part, _, option = key.partition(".")
                self._parts[part][option] = value
        except (ValueError, TypeError, RecursionError) as error:
            raise AdapterError(f"{path} has {KEY} that is not readable; save it again") from error
        for part, config in self._parts.items():
            if init := changed_base(config):
                raise AdapterError(
                    f"{path} was initialised by {shown(init)}, which changes the base model, and a "
                    "single file does not say how it began; save it as a PEFT folder, and merge "
                    "that with the folder that its training began from (--initial)"
                )
            require_plain(path, config)
            if config.get("target_parameters"):
                raise unsupported(path, "LoRA on bare parameters (target_parameters)")
            if "lora_alpha" in config:
                self._alphas[part] = PerLayer(path, config, "lora_alpha")

    def scale(self, name: str, rank: int) -> float:
        part, _, rest = name.partition(".")
        if part not in self._alphas:
            return 1.0
        return lora_scale(self._alphas[part].of(rest), rank, scaling_of(self._parts[part]))
