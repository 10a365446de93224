"""The keys of diffusers and ai-toolkit: lora_A and lora_B without an alpha, so that α = r.

Also `.lora.down.weight` and `_lora.down.weight`, as older diffusers wrote, and an adapter's name
(`.lora_A.default.weight`). Newer diffusers note r and lora_alpha in the file's metadata.
"""

from __future__ import annotations

import re
from typing import Final

from flexlora.formats.key_style import KeyStyle

DIFFUSERS: Final = KeyStyle(
    "diffusers",
    re.compile(
        r"(?P<layer>.+?)(?:\.lora_(?:(?P<a>A)|B)(?:\.(?!bias$)[^.]+)?(?:\.weight)?"
        r"|[._]lora(?:_linear_layer)?\.(?:(?P<down>down)|up)\.weight)"
    ),
    alpha=False,
)
