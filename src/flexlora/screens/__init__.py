"""Floor 1: what stands between collecting and weighing: robust rules and clipping, step by step."""

from flexlora.screens.base import Screen as Screen
from flexlora.screens.products import Products as Products
from flexlora.screens.registry import SCREENS as SCREENS
from flexlora.screens.registry import make_screen as make_screen
from flexlora.screens.registry import register as register
from flexlora.screens.shrink import shrunk as shrunk
from flexlora.screens.verdict import Verdict as Verdict
