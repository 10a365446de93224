"""Floor 1: laws that any aggregator can be held to, ours or a stranger's."""

from flexlora.laws.aggregator import Aggregator as Aggregator
from flexlora.laws.aggregator import Given as Given
from flexlora.laws.aggregator import Make as Make
from flexlora.laws.aggregator import Sent as Sent
from flexlora.laws.cases import CASES as CASES
from flexlora.laws.cases import Case as Case
from flexlora.laws.laws import LAWS as LAWS
from flexlora.laws.laws import Law as Law
from flexlora.laws.of_rule import excuses as excuses
from flexlora.laws.of_rule import of_rule as of_rule
from flexlora.laws.verdict import TOLERANCE as TOLERANCE
from flexlora.laws.verdict import Verdict as Verdict
from flexlora.laws.verdict import hold as hold
from flexlora.laws.verdict import hold_all as hold_all
