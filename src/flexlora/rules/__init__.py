"""Floor 1: how adapters of different ranks are combined; one file per rule."""

from flexlora.rules.client import Encoded as Encoded
from flexlora.rules.client import Live as Live
from flexlora.rules.client import Memory as Memory
from flexlora.rules.contributions import Contribution as Contribution
from flexlora.rules.contributions import Contributions as Contributions
from flexlora.rules.contributions import Listed as Listed
from flexlora.rules.layer import ClientView as ClientView
from flexlora.rules.layer import Combined as Combined
from flexlora.rules.layer import Layer as Layer
from flexlora.rules.layer import LayerState as LayerState
from flexlora.rules.layer import Spec as Spec
from flexlora.rules.layer import State as State
from flexlora.rules.registry import RULES as RULES
from flexlora.rules.registry import make_rule as make_rule
from flexlora.rules.registry import register as register
from flexlora.rules.rule import Rule as Rule
from flexlora.rules.traits import Traits as Traits
from flexlora.rules.weighing import Weighing as Weighing
from flexlora.rules.weights import Summary as Summary
from flexlora.rules.weights import normalised as normalised
