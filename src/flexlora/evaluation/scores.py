"""How good one predicted text is: ROUGE-L and exact match, each 0 to 100, best over references."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache
from typing import Any

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """The best ROUGE-L F1 over the references, with Porter stemming, as Natural Instructions does.

    The scorer keeps letters and digits alone: a text of other signs ("+", or another script)
    scores 0 even against itself. Raises ValueError without references.
    """
    if not references:
        raise ValueError("rouge_l got no references; give at least one")
    scorer = _scorer()
    return 100.0 * max(
        float(scorer.score(reference, prediction)["rougeL"].fmeasure) for reference in references
    )


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """100 if the prediction equals a reference after `normalise`, else 0."""
    if not references:
        raise ValueError("exact_match got no references; give at least one")
    text = normalise(prediction)
    return 100.0 * any(text == normalise(reference) for reference in references)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, single blanks: as Super-NaturalInstructions evaluates."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


@cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
