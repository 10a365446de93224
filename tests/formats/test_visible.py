"""What others wrote is shown as it is, but for what would move a cursor or turn a line."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from flexlora.formats.visible import all_visible, brief, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\r\nb\tc\x00", "a\\r\\nb\\tc\\x00"),
        ("\x9b31m", "\\x9b31m"),  # One byte that many terminals take for ESC [.
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\u2066a\u2069\u200f", "\\u2066a\\u2069\\u200f"),
        ("n0\u2028b\u2029", "n0\\u2028b\\u2029"),
        ("half \ud800", "half \\ud800"),
        ("flag \U000e0067", "flag \\U000e0067"),
    ],
)
def test_controls_and_directions_are_seen(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_words_of_every_script_stay() -> None:
    for text in ("plain, C:\\x1b", "巴黎", "می‌خواهم", "👩‍👩‍👧", "naïve é", "שלום", ""):
        assert visible(text) == text


def test_what_is_kept_is_named() -> None:
    assert visible("a\n\x1bb", "\n") == "a\n\\x1bb"


@pytest.mark.parametrize("text", ["", "plain", "x" * 61, "\u202e" * 60, "\x1b\n" * 300])
@pytest.mark.parametrize("most", [1, 10, 60])
def test_what_is_brief_is_so_once_it_is_visible(text: str, most: int) -> None:
    told = brief(text, most)
    assert len(told) <= most
    assert told.isprintable()
    assert told == visible(text) or told.endswith("…")


def test_no_character_gets_through_that_a_terminal_obeys() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {unicodedata.category(x): x for x in visible(every)}
    assert {"Cc", "Zl", "Zp", "Cs"}.isdisjoint(left)
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not bidirectional & {unicodedata.bidirectional(x) for x in visible(every)}


def test_plain_values_are_gone_through() -> None:
    given = {"a\u2028": [1, None, ("b\x1b", {"c": "\u202e"})], "x": 2.5}
    assert all_visible(given) == {"a\\u2028": [1, None, ["b\\x1b", {"c": "\\u202e"}]], "x": 2.5}
