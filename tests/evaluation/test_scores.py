from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexlora.evaluation import exact_match, rouge_l
from flexlora.evaluation.normalise import normalise
from flexlora.evaluation.scores import _AnyScript, rouge_blank, rouge_l_unicode


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
        ("", ["."], 0.0),  # where nothing is left, as they stand
        (".", [" ."], 100.0),
        ("", [""], 100.0),
        ("?", ["!"], 0.0),
        ("1", ["2"], 0.0),
        # Signs and points carry a meaning.
        ("<", [">"], 0.0),
        ("", ["+"], 0.0),
        ("=", ["=."], 100.0),
        ("3.14", ["314"], 0.0),
        ("3.14.", ["3.14"], 100.0),
        (".5", ["5"], 0.0),
        ("-5", ["5"], 0.0),
        ("\u22125", ["(-5)"], 100.0),
        ("-.5", ["-5"], 0.0),
        ("2e-5", ["2e5"], 0.0),
        ("1.5E-3.", ["1.5e-3"], 100.0),
        ("1/2", ["12"], 0.0),
        ("10:30", ["1030"], 0.0),
        ("2020-2021", ["20202021"], 0.0),
        ("1,5", ["15"], 0.0),
        ("1,234,567", ["1234567"], 100.0),
        ("C++", ["C#"], 0.0),
        ("C++.", ["c++"], 100.0),
        ("A-", ["A"], 0.0),
        ("a!=b", ["a==b"], 0.0),
        ("a -> b", ["a > b"], 0.0),
        ("50%", ["50"], 0.0),
        # Marks of prose do not.
        ("well-known", ["wellknown"], 100.0),
        ("GPT-4", ["gpt4"], 100.0),
        ("wave-5", ["wave5"], 100.0),
        ("don't", ["dont"], 100.0),
        ("U.S.", ["US"], 100.0),
        ("[1, 2]", ["1, 2"], 100.0),
        ("**Paris**.", ["Paris"], 100.0),
        ("Paris - France", ["Paris, France"], 100.0),
    ],
)
def test_exact_match(prediction: str, references: list[str], score: float) -> None:
    assert exact_match(prediction, references) == score


TEXTS = st.one_of(st.text(max_size=40), st.text("ae1 .,-!=<>+*'():_", max_size=12))


@given(text=TEXTS)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert exact_match(f" {text} ", ["other words", text]) == 100.0
    if normalise(text):
        assert exact_match(f" {text}. ", ["other words", text]) == 100.0


@given(one=TEXTS, other=TEXTS)
def test_what_is_the_same_here_is_the_same_officially(one: str, other: str) -> None:
    """Ours calls nothing right that theirs calls wrong, but for a true minus."""

    def official(text: str) -> str:
        text = text.lower().replace("\u2212", "-")
        kept = "".join(x for x in text if x not in string.punctuation)
        return " ".join(kept.split())

    if exact_match(one, [other]):
        assert official(one) == official(other)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("今天天气 hello-World_2", ["今", "天", "天", "气", "hello", "world", "2"]),
        ("मौसम अच्छा", ["मौसम", "अच्छा"]),
        ("мая погода", ["мая", "погода"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("ひらカー", ["ひ", "ら", "カ", "ー"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("cafe\u0301s", ["cafés"]),
        ("Ｒunning ２００８", ["run", "2008"]),
        ("+ — !", []),
    ],
)
def test_tokens_of_any_script(text: str, tokens: list[str]) -> None:
    assert _AnyScript().tokenize(text) == tokens
    assert rouge_l_unicode(text, [text]) == (100.0 if tokens else 0.0)


@pytest.mark.parametrize(
    ("one", "other"), [("北京 2008", "上海 2008"), ("öl", "ül"), ("mà", "má"), ("巴黎", "伦敦")]
)
def test_other_scripts_are_told_apart(one: str, other: str) -> None:
    assert rouge_l_unicode(one, [other]) < 50.0
    assert rouge_blank(one)


ASCII = st.text(st.characters(max_codepoint=127), max_size=30)


@given(one=ASCII, other=st.text("ab c.-", max_size=9))
def test_in_ascii_both_are_one(one: str, other: str) -> None:
    assert rouge_l_unicode(one, [other, one]) == rouge_l(one, [other, one])
    assert rouge_l_unicode(one, [other]) == rouge_l(one, [other])


@pytest.mark.parametrize("score", [rouge_l, rouge_l_unicode, exact_match])
def test_no_references(score: Callable[[str, Sequence[str]], float]) -> None:
    with pytest.raises(ValueError, match="no references"):
        score("x", [])
