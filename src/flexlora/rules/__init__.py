"""Floor 1: how adapters of different ranks are combined; one file per rule."""

from flexlora.rules.base import Combined as Combined
from flexlora.rules.base import Contribution as Contribution
from flexlora.rules.base import LayerState as LayerState
from flexlora.rules.base import Rule as Rule
from flexlora.rules.base import Spec as Spec
from flexlora.rules.base import State as State
from flexlora.rules.base import Summary as Summary
from flexlora.rules.base import Traits as Traits
from flexlora.rules.registry import RULES as RULES
from flexlora.rules.registry import make_rule as make_rule
from flexlora.rules.registry import register as register
