"""The keys of kohya's sd-scripts, which ComfyUI reads too: lora_down, lora_up and an alpha each.

`lora_unet_….lora_down.weight` is A, `.lora_up.weight` is B, `.alpha` a number; the scale is
alpha/r, and 1 where there is no alpha.
"""

from __future__ import annotations

import re
from typing import Final

from flexlora.formats.key_style import KeyStyle

KOHYA: Final = KeyStyle(
    "kohya",
    re.compile(r"(?P<layer>.+)\.lora_(?:(?P<a>down)|up)\.weight"),
    alpha=True,
)
