"""Options are held to the types and ranges that stand beside the arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from flexlora.errors import ConfigError
from flexlora.options import Option, arguments_of, checked, require

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

Share = Annotated[float | None, Option("share that is kept; none: all", above=0.0, most=1.0)]


@dataclass(frozen=True)
class Base:
    count: Annotated[int, Option("how many", least=1)]
    names: str | tuple[str, ...] = ()
    mode: Literal["fast", "exact"] = "fast"

    def __post_init__(self) -> None:
        require(self, "thing")


@dataclass(frozen=True)
class Thing(Base):
    share: Share = None
    rate: Annotated[float, Option("", least=0.0, below=1.0)] = 0.5
    loud: bool = False


class Plain:
    def __init__(  # type: ignore[no-untyped-def]
        self, gamma: float = 0.5, sizes: list[int] | None = None, untyped=None
    ) -> None:
        self.gamma = gamma

    def other(self) -> None: ...


class Bare:
    """Without a constructor of its own."""


class Foreign:
    def __init__(self, what: Unknown = None, **more: Any) -> None: ...


def make(made: Any = Thing, /, others: Any = None, **options: Any) -> dict[str, Any]:
    return checked(
        made, options, chooser="thing.kind", name="x", others=others, beside=("kind", "limit")
    )


@pytest.mark.parametrize(
    "options",
    [
        {"count": 3},
        {"count": 1, "share": 1, "rate": 0, "loud": True, "mode": "exact"},
        {"count": 1, "share": None, "names": "one"},
    ],
)
def test_what_fits_is_taken_as_it_is(options: dict[str, Any]) -> None:
    assert make(**options) == options
    Thing(**options)


def test_a_list_becomes_the_tuple_that_is_wanted() -> None:
    assert make(count=1, names=["a", "b"])["names"] == ("a", "b")
    assert make(Plain, sizes=[1, 2])["sizes"] == [1, 2]


WRONG = [
    ({"count": 0}, "thing.count is 0, expected a whole number of 1 or more (how many); correct it"),
    ({"count": 2.0}, "thing.count is 2.0, expected a whole number of 1 or more"),
    ({"count": True}, "thing.count is true, expected a whole number"),
    ({"count": None}, "thing.count is null, expected a whole number"),
    ({"count": "3"}, 'thing.count is "3", expected a whole number'),
    ({"share": 0.0}, "thing.share is 0.0, expected a number above 0 and at most 1 (share that"),
    ({"share": math.nan}, "thing.share is nan, expected a number above 0 and at most 1"),
    ({"share": 10**400}, "expected a number above 0 and at most 1"),
    ({"rate": 1.0}, "thing.rate is 1.0, expected a number of 0 or more and below 1; correct it"),
    ({"rate": math.inf}, "thing.rate is inf, expected a number"),
    ({"loud": 1}, "thing.loud is 1, expected true or false"),
    ({"names": 3}, "thing.names is 3, expected text in quotes or a list of text"),
    ({"names": ["a", 3]}, 'thing.names is ["a", 3], expected text in quotes or a list of text'),
    ({"mode": "exat"}, "thing.mode is \"exat\"; did you mean 'exact'?"),
    ({"mode": 3}, "thing.mode is 3; known: exact, fast"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(x)[:40] for x, _ in WRONG])
def test_what_does_not_fit_is_said(options: dict[str, Any], message: str) -> None:
    for build in (make, Thing):
        with pytest.raises(ConfigError) as caught:
            build(**{"count": 1, **options})
        assert message in str(caught.value)


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(ConfigError) as caught:
        make(count="x" * 999)
    assert len(str(caught.value)) < 150


def test_unknown_and_missing_options_are_said() -> None:
    for options, message in (
        ({"count": 1, "shar": 1}, "thing.shar is not an option of 'x'; did you mean 'share'?"),
        ({"count": 1, "limt": 1}, "thing.limt is not an option of 'x'; did you mean 'limit'?"),
        ({"share": 0.5}, "thing.kind is 'x', which needs thing.count; give it"),
    ):
        with pytest.raises(ConfigError) as caught:
            make(**options)
        assert str(caught.value) == message


def test_an_option_of_another_is_told_apart_from_a_slip() -> None:
    others = {"x": Thing, "y": Plain, "z": Plain}
    with pytest.raises(ConfigError, match=r"leave it out, or set thing\.kind to 'y' or 'z'$"):
        make(others=others, count=1, gamma=0.1)


def test_who_takes_nothing_says_so() -> None:
    with pytest.raises(ConfigError, match=r"a\.b is not an option of 'x'; it takes no options"):
        checked(Bare, {"b": 1}, chooser="a.kind", name="x")
    assert checked(Bare, {}, chooser="a.kind", name="x") == {}


def test_hidden_arguments_are_no_options() -> None:
    others = {"x": Thing, "y": Thing}
    known: dict[str, Any] = {
        "chooser": "thing.kind",
        "name": "x",
        "others": others,
        "hidden": ("count",),
    }
    assert checked(Thing, {"share": 0.5}, **known) == {"share": 0.5}
    with pytest.raises(ConfigError, match=r"thing\.count is not an option of 'x'; known: "):
        checked(Thing, {"count": 1}, **known)


def test_plain_constructors_are_held_to_what_they_say() -> None:
    assert make(Plain, gamma=1, untyped=[3]) == {"gamma": 1, "untyped": [3]}
    with pytest.raises(ConfigError, match=r"thing\.gamma is \"low\", expected a number; correct"):
        make(Plain, gamma="low")
    with pytest.raises(ConfigError, match="expected a list of numbers"):
        make(Plain, sizes=["a"])


def test_types_that_cannot_be_found_are_not_checked() -> None:
    assert list(arguments_of(Foreign)) == ["what"]
    assert make(Foreign, what=3) == {"what": 3}


class Slipped:
    def __init__(self, count: Annotated[int, Option("how many", min=1)] = 2) -> None:
        self.count = count


def test_an_option_that_is_none_is_told_and_leaves_nothing_unchecked() -> None:
    with pytest.raises(ConfigError, match=r"options of Slipped cannot be read: .* 'min'; an Op"):
        arguments_of(Slipped)
