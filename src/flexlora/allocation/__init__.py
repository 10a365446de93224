"""Floor 1: which ranks which clients afford."""

from flexlora.allocation.mixes import MIXES as MIXES
from flexlora.allocation.mixes import TYPES as TYPES
from flexlora.allocation.mixes import Mix as Mix
from flexlora.allocation.mixes import build_mix as build_mix
from flexlora.allocation.mixes import draw as draw
from flexlora.allocation.mixes import require_rank as require_rank
from flexlora.allocation.mixes import scaled_types as scaled_types
