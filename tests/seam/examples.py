"""The examples of this folder: one file each, as a stranger would write them."""

from __future__ import annotations

from flexlora.rules import Rule
from flexlora.screens import Screen
from seam.fresh_a import FreshA
from seam.multi_krum import MultiKrum
from seam.one_sided import FreezeA
from seam.per_client import Sketched
from seam.personal import OwnB
from seam.residual import Residual

EXAMPLES: list[type[Rule]] = [FreezeA, FreshA, OwnB, Residual, Sketched]
SCREEN_EXAMPLES: list[type[Screen]] = [MultiKrum]
