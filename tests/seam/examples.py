"""The example rules of this folder: one file each, as a stranger would write them."""

from __future__ import annotations

from flexlora.rules import Rule
from seam.one_sided import FreezeA
from seam.per_client import Sketched
from seam.personal import OwnB

EXAMPLES: list[type[Rule]] = [FreezeA, OwnB, Sketched]
