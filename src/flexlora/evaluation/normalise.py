"""Two answers that mean the same, written alike: what exact match compares.

Super-NaturalInstructions' own `exact_match` lowers case, drops all ASCII punctuation and joins
blanks. That makes "<" equal ">" and nothing at all, "3.14" equal "314", "-5" equal "5" and "C++"
equal "C#". Here marks of prose are dropped as there, and what carries a meaning stays.
"""

from __future__ import annotations

import re

_MARKS = re.compile(r"""[!"'(),\-.:;?\[\]_`{}]""")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3})(?=\S)([^*]+)(?<=\S)\1(?!\w)")


def same_answer(one: str, other: str) -> bool:
    """Whether both are the same once they are normalised.

    Where nothing is left of one of them, as they stand, but for blanks around them.
    """
    left, right = normalise(one), normalise(other)
    if left and right:
        return left == right
    return one.strip() == other.strip()


def normalise(text: str) -> str:
    """Lower case, single blanks, no marks of prose.

    Dropped are quotes, brackets, and . , : ; ! ? _ and - among words, commas between thousands,
    and the asterisks of emphasis. Kept are signs (# $ % & * + / < = > @ \\ ^ | ~), points, colons
    and commas between digits, a point or minus before them, the minus of an exponent, a minus after
    a word ("A-"), and what makes an operator ("!=", "->"). What is not ASCII stays as it is, but
    for the true minus.
    """
    text = text.lower().replace("\u2212", "-")
    while (done := _once(text)) != text:  # What goes may have held apart what then goes, too.
        text = done
    return text


def _once(text: str) -> str:
    text = _EMPHASIS.sub(r"\2", text)
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    kept = _MARKS.sub(lambda found: found[0] if _means(text, found.start()) else "", text)
    return " ".join(kept.split())


def _means(text: str, at: int) -> bool:
    """Whether the mark at this place is part of a number, a word or an operator."""
    mark, before, after = text[at], text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if mark == "!":
        return after == "="
    if mark in ",:":
        return before.isdigit() and after.isdigit()
    if mark == ".":
        return after.isdigit() and not before.isalpha()
    if mark == "-":
        number = after.isdigit() or (after == "." and text[at + 2 : at + 3].isdigit())
        exponent = before == "e" and text[at - 2 : at - 1].isdigit()  # 2e-5
        last = before.isalnum() and (not after or after.isspace())
        arrow = after in ("=", ">") or before == "<"
        return (number and (exponent or not before.isalpha())) or last or arrow
    return False
