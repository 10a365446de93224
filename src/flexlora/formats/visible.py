"""Text that others wrote, with what moves a cursor or turns the reading direction made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from flexlora.errors import SHOWN, cut_short

# Controls, formats (bidirectional ones among them), line and paragraph separators, and halves of
# surrogate pairs, which no output can encode.
_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}
# Zero-width (non-)joiners spell words and emoji; neither moves nor turns anything.
_HARMLESS = {"\u200c", "\u200d"}


def visible(text: str, keep: str = "") -> str:
    """The text with such characters written as in Python: "\\x1b", "\\n", "\\u202e".

    keep: those of them that stay, as "\\n" where the text is shown in several lines. What is
    visible already stays as it is, so that doing it twice does no harm.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = _HARMLESS.union(keep)
    return "".join(
        x
        if x in kept or unicodedata.category(x) not in _HIDDEN
        else x.encode("unicode_escape").decode("ascii")
        for x in text
    )


def brief(text: str, most: int = SHOWN, keep: str = "") -> str:
    """The same in so many characters at most; "…" ends a text that was cut."""
    # What is beyond the first character that does not fit need not be made visible.
    return cut_short(visible(text[: most + 1], keep), most)


def all_visible(value: object) -> object:
    """Plain values (lists, tables, texts, numbers) with every text in them visible, keys too."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {all_visible(key): all_visible(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [all_visible(item) for item in value]
    return value
