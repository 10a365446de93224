"""What a client may send in place of an answer."""

from __future__ import annotations

import math
from typing import Any

from flexlora.engines.jobs import Reply, Scored
from flexlora.evaluation import ClientScore

SCORE = ClientScore("a", "x", 2, {"loss": 1.0})
GOOD = Reply("1-0", "a", b"x", 3, 1.0, 2, 20, 0.1, SCORE)
SCORED = Scored("1-0", "a", SCORE)


class Hostile:
    """Whatever is asked of it goes wrong."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise RuntimeError("no")


class Bytes(bytes):
    def __len__(self) -> int:
        raise RuntimeError("no")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"payload": None}, "its payload is of type NoneType, expected bytes"),
    ({"payload": Bytes(b"x")}, "its payload is of type Bytes"),
    ({"loss": "1.0"}, "its loss is of type str, expected a number"),
    ({"loss": None}, "its loss is of type NoneType"),
    ({"loss": 1j}, "its loss is of type complex"),
    ({"loss": True}, "its loss is of type bool"),
    ({"loss": math.nan}, "its loss is nan, expected a finite number"),
    ({"loss": -math.inf}, "its loss is -inf, expected a finite number"),
    ({"loss": 10**400}, "its loss is 10{58}…, expected a finite number"),
    ({"loss": 1e300}, r"its loss is 1e\+300"),
    ({"seconds": "1"}, "its seconds is of type str"),
    ({"seconds": -1.0}, "its seconds are -1, expected 0 or more"),
    ({"peak_bytes": -1}, "its peak_bytes are -1, expected a whole number from 0"),
    ({"peak_bytes": 1.5}, r"its peak_bytes are 1\.5"),
    ({"cohort": None}, "its cohort are of type NoneType"),
    ({"examples": -1}, "its examples are -1, expected a whole number from 0 to 9007199254740992"),
    ({"examples": 10**400}, "its examples are 10{58}…, expected"),
    ({"examples": 2.0}, r"its examples are 2\.0"),
    ({"examples": False}, "its examples are of type bool"),
    ({"steps": None}, "its steps are of type NoneType"),
    ({"tokens": 2**60}, "its tokens are 1152921504606846976, expected"),
    ({"score": {"loss": 1.0}}, "its score is of type dict, expected a score"),
    ({"score": Hostile()}, "its score is of type Hostile"),
]
BAD_SCORES: list[tuple[dict[str, Any], str]] = [
    ({"client": None}, "a name in it is of type NoneType, expected a text"),
    ({"category": 3}, "a name in it is of type int"),
    ({"examples": 10**400}, "its score's examples are 10{58}…"),
    ({"means": None}, "its score's values are of type NoneType"),
    ({"means": {"loss": None}}, "its score by loss is of type NoneType, expected a number"),
    ({"means": {"\ud800": "x"}}, r"its score by \\ud800 is of type str"),
    ({"means": {"loss": 1e300}}, r"its score by loss is 1e\+300"),
    (
        {"means": {str(i): 1.0 for i in range(2000)}},
        "values are of type dict, expected one a metric",
    ),
    ({"given": {"loss": 3}}, "its score brings metrics of its own, expected none"),
    ({"given": None}, "its score's metrics are of type NoneType"),
    ({"weights": [1.0]}, "its score's weights are of type list"),
    ({"weights": {"loss": "1"}}, "its score's weight by loss is of type str"),
    ({"weights": {"loss": -1.0}}, r"its score's weight by loss is -1\.0, expected one above 0"),
    ({"weights": {"loss": 0.0}}, r"its score's weight by loss is 0\.0, expected one above 0"),
    ({"weights": {"loss": math.inf}}, "its score's weight by loss is inf, expected a finite"),
    ({"means": {"loss": math.nan}}, "its score by loss is nan, expected a finite number"),
    ({"weights": {"other": 1.0}}, "its score's weight by other is"),
]
