"""How good one predicted text is: ROUGE-L and exact match, each 0 to 100, best over references."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import regex

from flexlora.evaluation.normalise import same_answer

# Scripts that put no blanks between words: a letter, with the marks on it, is a token of its own.
_APART = r"(?=[\p{L}\p{N}])[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_TOKENS = regex.compile(rf"{_APART}\p{{M}}*|(?:(?!{_APART})[\p{{L}}\p{{M}}\p{{N}}])+")
_INVISIBLE = regex.compile(r"\p{Cf}+")  # Joiners and directions: no part of a word.

_KEEPS = "it keeps a to z and digits alone (rouge_l_unicode keeps the letters of any script)"


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """The best ROUGE-L F1 over the references, with Porter stemming, as Natural Instructions does.

    That is its metric for English: the scorer keeps the letters a to z and digits alone, and a text
    of others scores 0 even against itself (`rouge_blank`). Raises ValueError without references.
    """
    return _best(_official(), prediction, references)


def rouge_l_unicode(prediction: str, references: Sequence[str]) -> float:
    """`rouge_l` for text of any script: the same number where all of it is ASCII.

    Tokens are runs of letters, their marks and digits (NFKC, lower case); of scripts without blanks
    each letter. ASCII tokens are stemmed. The official metric of the cross-lingual track of Natural
    Instructions takes the tokens of GPT-2's byte-level BPE instead, without stemming: its numbers
    differ. Raises ValueError without references.
    """
    return _best(_of_any_script(), prediction, references)


def rouge_blank(reference: str) -> str:
    """What `rouge_l` passes over in a reference, in words; "" where nothing is lost."""
    if not _official()._tokenizer.tokenize(reference):
        return f"{_KEEPS}, and nothing is left"
    lost = any(sign.isalnum() and not sign.isascii() for sign in reference)
    return f"{_KEEPS}, and other letters are lost" if lost else ""


def rouge_unicode_blank(reference: str) -> str:
    """The same for `rouge_l_unicode`."""
    tokens = _of_any_script()._tokenizer.tokenize(reference)
    return "" if tokens else "it keeps letters and digits alone, and nothing is left"


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """100 if the prediction is the same answer as a reference (`same_answer`), else 0.

    Stricter than Super-NaturalInstructions' `exact_match`, which drops all ASCII punctuation.
    """
    if not references:
        raise ValueError("exact_match got no references; give at least one")
    return 100.0 * any(same_answer(prediction, reference) for reference in references)


def _best(scorer: Any, prediction: str, references: Sequence[str]) -> float:
    if not references:
        raise ValueError("rouge_l got no references; give at least one")
    return 100.0 * max(
        float(scorer.score(reference, prediction)["rougeL"].fmeasure) for reference in references
    )


class _AnyScript:
    """A tokenizer as rouge-score takes one; it stems as theirs does."""

    def __init__(self) -> None:
        from rouge_score import tokenizers

        self._stem = tokenizers.DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        shown = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).lower()
        found: list[str] = []
        for token in _TOKENS.findall(shown):
            found += self._stem.tokenize(token) if token.isascii() else [token]
        return found


@cache
def _official() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


@cache
def _of_any_script() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=_AnyScript())
