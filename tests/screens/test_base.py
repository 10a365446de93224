"""What a screen's own lines do wrong is told by screen, method and line, whoever asks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, Factors
from flexlora.errors import RuleError
from flexlora.screens import Products, Screen, Verdict


class Mine(Screen):
    name, source = "mine", "a test"

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        if self.wrong == "raises":
            return {"ann": Verdict(weight=0.0)}
        found: dict[str, Any] = {
            "list": [Verdict(0.5)],
            "number": {"ann": 0.5},
            "stranger": {"nobody": Verdict(0.5)},
        }
        return found.get(self.wrong, {"ann": Verdict(0.5)})

    def at_client(self, trained: Adapter, sent: Adapter, generator: torch.Generator) -> Adapter:
        if self.wrong == "sent":
            sent["x"].b.add_(1.0)
        x = trained["x"]
        found: dict[str, Any] = {
            "factors": x,
            "rank": Adapter({"x": x.cut(1)}),
            "layer": Adapter({"y": x}),
            "scale": Adapter({"x": Factors(x.b, x.a, 2.0 * x.scale)}),
            "dtype": Adapter({"x": Factors(x.b.double(), x.a.double(), x.scale)}),
            "raises": None,
        }
        if self.wrong == "raises":
            raise KeyError(x.scale)
        return found.get(self.wrong, trained)


def adapter() -> Adapter:
    return Adapter({"x": Factors(torch.ones(4, 2), torch.ones(2, 3), 0.5)})


def products() -> Products:
    return Products({"ann": 3, "bob": 5}, {"ann": 0.4, "bob": 0.6}, lambda: ())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("raises", r"verdicts of screen mine: ValueError: a verdict leaves .* \(test_base\.py, li"),
        ("list", "verdicts of screen mine gives list, expected client → Verdict; give {} where"),
        ("number", "verdicts of screen mine gives float for client 'ann', expected flexlora.scr"),
        ("stranger", "verdicts of screen mine judges client 'nobody', who is not in the round"),
    ],
)
def test_at_the_server(wrong: str, words: str) -> None:
    assert Mine("nothing").judged(products()) == {"ann": Verdict(0.5)}
    with pytest.raises(RuleError, match=words):
        Mine(wrong).judged(products())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("raises", r"at_client of screen mine: KeyError: 0\.5 \(test_base\.py, line "),
        ("sent", "at_client of screen mine changes in place what it is given as sent"),
        ("factors", "at_client of screen mine gives Factors, expected a flexlora.Adapter"),
        *(
            (x, "at_client of screen mine gives other layers, shapes, scales or dtypes")
            for x in ("rank", "layer", "scale", "dtype")
        ),
    ],
)
def test_at_a_client(wrong: str, words: str) -> None:
    draws = torch.Generator()
    assert Mine("nothing").passed(given := adapter(), adapter(), draws) is given
    with pytest.raises(RuleError, match=words):
        Mine(wrong).passed(adapter(), adapter(), draws)


def test_what_every_screen_does_is_no_name_for_a_half() -> None:
    with pytest.raises(RuleError, match="screen taken has a 'passed' of its own, which is what"):

        class Taken(Screen):
            name = "taken"

            def passed(self) -> None:  # type: ignore[override, misc]
                """What every screen does with its halves."""
