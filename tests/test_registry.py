"""A name is taken once, and what is not there is said with the nearest that is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flexlora.errors import ConfigError
from flexlora.registry import Registry


class Small:
    def __init__(self, size: int = 1) -> None:
        self.size = size


class Other:
    def __init__(self, depth: int = 1) -> None: ...


def kinds() -> Registry[type]:
    made: Registry[type] = Registry("kind", "thing.kind")
    made.add("small", Small)
    made.add("other", Other)
    return made


def test_it_is_a_mapping_in_order() -> None:
    made = kinds()
    assert list(made.items()) == [("small", Small), ("other", Other)]
    assert len(made) == 2
    assert "small" in made
    assert 3 not in made  # type: ignore[comparison-overlap]
    assert made == {"small": Small, "other": Other}
    assert repr(made) == "Registry(kind: small, other)"
    before = dict(made)
    made["small"] = Other
    made.clear()
    made.update(before)
    assert made["small"] is Small


def test_a_name_is_taken_once() -> None:
    made = kinds()
    assert made.add("small", Small) is Small
    with pytest.raises(ConfigError) as caught:
        made.add("small", Other)
    assert str(caught.value) == (
        "kind 'small' is registered already, by Small; choose another name"
    )
    with pytest.raises(ConfigError, match="'small' is registered already"):
        made.add_later("small", "flexlora.errors", "RunError")
    assert made["small"] is Small


def test_one_thing_may_be_added_again_now_or_later() -> None:
    """As a module does that is run twice, in any order."""
    for steps in ("ll", "ln", "nl", "lnl", "nln", "lgl", "lgn"):
        made: Registry[type] = Registry("kind")
        for step in steps:
            if step == "l":
                made.add_later("error", "flexlora.errors", "ConfigError")
            elif step == "n":
                assert made.add("error", ConfigError) is ConfigError
            else:
                assert made["error"] is ConfigError
        assert list(made.values()) == [ConfigError]
    made.add_later("later", "flexlora.errors", "RunError")
    for module, attribute in (("flexlora.errors", "ConfigError"), ("nowhere", "RunError")):
        with pytest.raises(ConfigError, match="'later' is registered already"):
            made.add_later("later", module, attribute)
    with pytest.raises(ConfigError, match="'later' is registered already"):
        made.add("later", ConfigError)


def test_names_that_are_not_there_are_said() -> None:
    with pytest.raises(ConfigError, match=r"^thing\.kind is 'smal'; did you mean 'small'\?$"):
        kinds().named("smal")
    several: Registry[int] = Registry("number", hint=" (write it out)")
    several.add("one", 1)
    with pytest.raises(ConfigError, match=r"^number 'on' is unknown \(write it out\); did you"):
        several.named("on")
    with pytest.raises(KeyError):
        several["on"]


def test_it_makes_what_it_names() -> None:
    assert kinds().make("small", {"size": 3}).size == 3
    assert kinds().make("small").size == 1
    with pytest.raises(ConfigError, match=r"thing\.depth is not an option of 'small'; .*'other'"):
        kinds().make("small", {"depth": 3})


def test_options_may_stand_in_a_table_of_each() -> None:
    made: Registry[type] = Registry("kind", tables="kinds")
    made.add("small", Small)
    made.add("other", Other)
    assert made.make("small", {"size": 3}).size == 3
    for options, message in (
        ({"sise": 3}, r"^kinds\.small\.sise is not an option of 'small'; did you mean 'size'\?$"),
        ({"depth": 3}, r"^kinds\.small\.depth is not an option of 'small'; known: size$"),
        ({"size": "a"}, r'^kinds\.small\.size is "a", expected a whole number; correct it$'),
    ):
        with pytest.raises(ConfigError, match=message):
            made.make("small", options)


def test_what_comes_later_is_imported_when_it_is_asked_for() -> None:
    code = (
        "import sys; from flexlora.registry import Registry\n"
        "made = Registry('kind'); made.add_later('x', 'fractions', 'Fraction')\n"
        "assert list(made) == ['x'] and 'x' in made and 'fractions' not in sys.modules\n"
        "from fractions import Fraction\n"
        "assert made['x'] is Fraction and made.named('x') is Fraction"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
