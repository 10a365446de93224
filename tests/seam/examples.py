"""The examples of this folder: one file each, as a stranger would write them."""

from __future__ import annotations

from flexlora.rules import Rule
from flexlora.screens import Screen
from seam.far_out import FarOut
from seam.fresh_a import FreshA

EXAMPLES: list[type[Rule]] = [FreshA]
SCREEN_EXAMPLES: list[type[Screen]] = [FarOut]
