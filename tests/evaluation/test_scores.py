from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexlora.evaluation import exact_match, rouge_l
from flexlora.evaluation.scores import normalise


def test_rouge_l_is_f1_of_the_longest_common_subsequence() -> None:
    # LCS "the cat sat" = 3; precision 3/4, recall 3/6, F1 = 0.6.
    assert rouge_l("the cat sat down", ["the black cat sat quietly outside"]) == pytest.approx(60.0)
    assert rouge_l("a b", ["b a"]) == pytest.approx(50.0)


def test_rouge_l_stems_and_takes_the_best_reference() -> None:
    assert rouge_l("running dogs", ["run dog"]) == pytest.approx(100.0)
    assert rouge_l("yes", ["no", "Yes."]) == pytest.approx(100.0)
    assert rouge_l("", ["yes"]) == 0.0
    assert rouge_l("+", ["+"]) == 0.0  # only letters and digits count


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("  Yes!! ", ["no", "yes"], 100.0),
        ("the answer", ["answer"], 0.0),  # articles stay, as in Super-NaturalInstructions
        ("A,  b", ["a b"], 100.0),
        ("", ["."], 100.0),
        ("1", ["2"], 0.0),
    ],
)
def test_exact_match(prediction: str, references: list[str], score: float) -> None:
    assert exact_match(prediction, references) == score


@given(text=st.text(max_size=40))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert exact_match(f" {text}. ", ["other words", text]) == 100.0


@pytest.mark.parametrize("score", [rouge_l, exact_match])
def test_no_references(score: Callable[[str, Sequence[str]], float]) -> None:
    with pytest.raises(ValueError, match="no references"):
        score("x", [])
