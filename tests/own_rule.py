"""A rule in a file of the user's own: FedIT's maths."""

from __future__ import annotations

OWN_RULE = '''
"""The mean of factors, as FedIT's, with an option of its own."""

from flexlora.errors import ConfigError
from flexlora.rules import Rule, Traits
from flexlora.rules.fedit import FedIT
from flexlora.rules.kinds import OneRank


class Mine(OneRank):
    """FedIT under another name."""

    name = "mine"
    source = "a test"
    traits = FedIT.traits
    combine_layer = FedIT.combine_layer

    def __init__(self, bound: float = 1.0, sides: str = "both") -> None:
        if bound < 0.0:
            raise ConfigError(f"rule.bound is {bound}; give 0 or more")
        self.bound = bound + len(sides) / 0 if sides == "" else bound


class Half(Rule):
    """Nothing but a name."""

    name = "half"
    source = "a test"
    traits = Traits()


class Nameless(Mine):
    """It names no source."""

    source = ""


class Taken(Mine):
    """Another rule's name."""

    name = "fedit"


def helper(): ...


LIMIT = 3
'''
