"""Each metric against an independent computation, and the registry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from flexlora.errors import ConfigError, DataError
from flexlora.evaluation import (
    METRICS,
    ClientScore,
    EvalClient,
    EvalSettings,
    MeanScore,
    Metric,
    evaluate,
    get_metric,
    register_metric,
)
from flexlora.evaluation.loss import ExampleLoss
from flexlora.evaluation.metric import ChoiceLoss
from flexlora.evaluation.metrics import chance_bits, resolve_metrics
from flexlora.tasks.prompts import Encoded

CHOICE = ("choice", "choice_norm")


class Letters:
    """Token i reads as i letters: texts of many lengths from few tokens."""

    pad_token_id, eos_token_id = 0, 2

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "é".join("x" * i for i in ids)


class Ascii(Letters):
    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "-".join("x" * i for i in ids)


@pytest.fixture(scope="module")
def tiny() -> SimpleNamespace:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return SimpleNamespace(model=LlamaForCausalLM(config).eval(), tokenizer=Letters(), context=64)


def log_likelihood(tiny: SimpleNamespace, prompt: Sequence[int], choice: Sequence[int]) -> float:
    """One choice at a time, the whole log-softmax in float64."""
    ids = torch.tensor([[*prompt, *choice]])
    with torch.no_grad():
        logits = tiny.model(input_ids=ids).logits[0].double()
    logs = logits - logits.logsumexp(dim=-1, keepdim=True)
    first = len(prompt) - 1
    return sum(float(logs[first + i, token]) for i, token in enumerate(choice))


# A prompt, the choices, the place of the right one.
Drawn = tuple[tuple[int, ...], list[tuple[int, ...]], int]

ids = st.lists(st.integers(3, 19), min_size=1, max_size=6).map(tuple)
EXAMPLES = st.tuples(ids, st.lists(ids, min_size=2, max_size=4, unique=True), st.integers(0, 3))


def encoded(index: int, drawn: Drawn) -> Encoded:
    prompt, texts, place = drawn
    choices = tuple((*text, 2) for text in texts)
    answer = place % len(choices)
    return Encoded(str(index), "x", prompt, choices[answer], ("x",), choices=choices, answer=answer)


@settings(max_examples=25)
@given(st.lists(EXAMPLES, min_size=1, max_size=5), st.integers(1, 9))
def test_choices_agree_with_one_at_a_time(
    tiny: SimpleNamespace, drawn: list[Drawn], batch_size: int
) -> None:
    examples = tuple(encoded(i, one) for i, one in enumerate(drawn))
    found = evaluate(
        tiny,
        [EvalClient(e.id, (e,)) for e in examples],
        EvalSettings(batch_size, metrics=(*CHOICE, "loss")),
    )
    for row, example in zip(found.clients, examples, strict=True):
        logs = [log_likelihood(tiny, example.prompt, choice) for choice in example.choices]
        bare = [log_likelihood(tiny, example.prompt, choice[:-1]) for choice in example.choices]
        texts = [Letters().decode(choice[:-1]) for choice in example.choices]
        per_byte = [log / len(x.encode()) for log, x in zip(bare, texts, strict=True)]
        for name, values in zip(CHOICE, (logs, per_byte), strict=True):
            ranked = sorted(values)
            if ranked[-1] - ranked[-2] > 1e-4:  # Closer than that, rounding decides.
                assert row[name] == 100.0 * (values.index(ranked[-1]) == example.answer)
        assert row["loss"] == pytest.approx(-logs[example.answer] / len(example.response), rel=1e-4)


def harness(logs: Sequence[float], texts: Sequence[str], right: int) -> dict[str, float]:
    """What lm-evaluation-harness 0.4 makes of the choices' log-likelihoods, a blank before none."""
    logs_of, chars = np.array(logs), np.array([float(len(x)) for x in texts])
    sizes = np.array([float(len(x.encode())) for x in texts])
    by = {"acc": logs_of, "acc_norm": logs_of / chars, "acc_bytes": logs_of / sizes}
    return {name: 100.0 * (int(np.argmax(values)) == right) for name, values in by.items()}


@settings(max_examples=25)
@given(st.lists(EXAMPLES, min_size=1, max_size=5))
def test_choices_are_the_harness_own_but_for_what_is_named(
    tiny: SimpleNamespace, drawn: list[Drawn]
) -> None:
    """choice: `acc` of choices with EOS; choice_norm: `acc_bytes` of bare ones.

    In ASCII that is `acc_norm` too.
    A tie is wrong here and the first one's there; no text that is drawn has one.
    """
    examples = tuple(encoded(i, one) for i, one in enumerate(drawn))
    clients = [EvalClient(e.id, (e,)) for e in examples]
    ascii_only = SimpleNamespace(model=tiny.model, tokenizer=Ascii(), context=tiny.context)
    for model in (tiny, ascii_only):
        rows = evaluate(model, clients, EvalSettings(metrics=CHOICE)).clients
        for row, example in zip(rows, examples, strict=True):
            texts = [model.tokenizer.decode(choice[:-1]) for choice in example.choices]
            ended, bare = (
                [log_likelihood(tiny, example.prompt, choice[:end]) for choice in example.choices]
                for end in (None, -1)
            )
            sizes = [log / len(x.encode()) for log, x in zip(bare, texts, strict=True)]
            if min(apart(ended), apart(sizes)) < 1e-4:
                continue  # Rounding decides.
            assert row["choice"] == harness(ended, texts, example.answer)["acc"]
            theirs = harness(bare, texts, example.answer)
            assert row["choice_norm"] == theirs["acc_bytes"]
            assert model is tiny or row["choice_norm"] == theirs["acc_norm"]


def apart(values: Sequence[float]) -> float:
    first, second = sorted(values, reverse=True)[:2]
    return first - second


def test_the_end_is_no_part_of_what_is_counted_per_byte() -> None:
    """A short choice paid for its EOS as much as a long one, over fewer bytes."""
    example = Encoded("e", "x", (5,), (6, 2), ("x",), choices=((6, 2), (7, 2)), answer=0)
    found = [ChoiceLoss(total=3.0, bytes=2, end=2.0), ChoiceLoss(total=6.0, bytes=8, end=1.0)]
    assert get_metric("choice_norm").score(example, found) == 100.0
    found = [ChoiceLoss(total=3.0, bytes=2, end=1.0), ChoiceLoss(total=6.0, bytes=8, end=1.0)]
    assert get_metric("choice_norm").score(example, found) == 0.0


def choices_of(*totals: float, answer: int = 0) -> float:
    example = Encoded("e", "x", (5,), (6, 2), ("x",), choices=((6, 2),) * len(totals))
    found = [ChoiceLoss(total, 1, 0.0) for total in totals]
    return get_metric("choice").score(replace(example, answer=answer), found)


def test_a_tie_counts_as_wrong_wherever_the_right_choice_stands() -> None:
    assert choices_of(1.0, 2.0) == 100.0
    assert choices_of(1.0, 1.0, 2.0) == 0.0
    assert choices_of(1.0, 1.0, 2.0, answer=1) == 0.0
    assert choices_of(math.nan, 1.0) == 0.0


def test_choice_norm_is_per_byte() -> None:
    example = Encoded("e", "x", (5,), (6, 2), ("x",), choices=((6, 2), (7, 2)), answer=0)
    found = [ChoiceLoss(6.0, 6, 0.0), ChoiceLoss(4.0, 2, 0.0)]
    assert get_metric("choice").score(example, found) == 0.0
    assert get_metric("choice_norm").score(example, found) == 100.0


def test_perplexity_is_exp_of_transformers_own_loss(tiny: SimpleNamespace) -> None:
    example = Encoded("e", "x", (5, 6, 7), (8, 9, 4, 2), ("x",))
    tokens = torch.tensor([example.prompt + example.response])
    labels = tokens.clone()
    labels[:, : len(example.prompt)] = -100
    with torch.no_grad():
        expected = math.exp(tiny.model(input_ids=tokens, labels=labels).loss)
    settings = EvalSettings(metrics=("perplexity",))
    scores = evaluate(tiny, [EvalClient("a", (example,))], settings)
    assert scores.mean()["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_perplexity_pools_losses_over_tokens_and_then_over_clients(tiny: SimpleNamespace) -> None:
    def one(name: str, length: int) -> Encoded:
        return Encoded(name, "x", (5, 6), (*range(3, 3 + length), 2), ("x",))

    clients = [EvalClient("a", (one("1", 1), one("2", 9))), EvalClient("b", (one("3", 4),))]
    both = evaluate(tiny, clients, EvalSettings(metrics=("perplexity", "loss")))
    rows: list[ClientScore | MeanScore] = [*both.clients, both.mean()]
    for row in rows:
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
    first, second = both.clients
    assert both.mean()["loss"] == pytest.approx((2 * first["loss"] + second["loss"]) / 3)


@pytest.mark.parametrize("owners", [(0, 0, 0, 0), (0, 1, 1, 1), (0, 1, 2, 3), (1, 0, 0, 1)])
def test_the_loss_per_token_does_not_depend_on_who_holds_what(
    tiny: SimpleNamespace, owners: tuple[int, ...]
) -> None:
    """The mean loss of clients does: each weighs by its examples, whatever their length."""
    examples = [
        Encoded(str(i), "xy"[i % 2], (5, 6), (*range(3, 3 + n), 2), ("x",))
        for i, n in enumerate((1, 9, 4, 2))
    ]
    held = {k: [i for i, owner in enumerate(owners) if owner == k] for k in sorted(set(owners))}
    clients = [EvalClient(str(k), tuple(examples[i] for i in mine)) for k, mine in held.items()]
    scores = evaluate(tiny, clients, EvalSettings(metrics=("token_loss", "loss")))
    totals = [-log_likelihood(tiny, e.prompt, e.response) for e in examples]
    sizes = [len(e.response) for e in examples]
    assert scores.mean()["token_loss"] == pytest.approx(sum(totals) / sum(sizes))
    for row in scores.clients:
        assert row["token_loss"] == row["loss"]
    for place, name in enumerate("xy"):
        wanted = sum(totals[place::2]) / sum(sizes[place::2])
        assert scores.by_category()[name]["token_loss"] == pytest.approx(wanted)
    if len(clients) == 1:
        assert scores.mean()["loss"] == scores.mean()["token_loss"]


def likeliest(tiny: SimpleNamespace, prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """So many tokens that the model itself writes: it knows these."""
    row = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            row.append(int(tiny.model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
    return tuple(row[len(prompt) :])


@pytest.mark.parametrize("owners", [(0, 0, 0, 0), (0, 1, 1, 2)])
def test_bits_are_summed_whoever_holds_what(tiny: SimpleNamespace, owners: tuple[int, ...]) -> None:
    """Against whole log-softmaxes in float64; what the model does not expect costs nothing."""
    known = [likeliest(tiny, prompt, 3) for prompt in ((5, 6), (7,), (9, 4))]
    examples = [
        Encoded("0", "x", (5, 6), (*known[0], 2), ("407",)),
        Encoded("1", "y", (7,), (*known[1], 2), ("000",)),
        Encoded("2", "x", (9, 4), (*known[2][:1], 2), ("12",)),  # Two digits in one token.
        Encoded("3", "y", (5, 6), (19, 3, 11, 2), ("999",)),
    ]
    wanted = [
        max(
            0.0,
            len(e.references[0]) * math.log2(10)
            + log_likelihood(tiny, e.prompt, e.response[:-1]) / math.log(2),
        )
        for e in examples
    ]
    assert min(wanted[:3]) > 0.0 == wanted[3]
    held = {k: [i for i, owner in enumerate(owners) if owner == k] for k in sorted(set(owners))}
    clients = [EvalClient(str(k), tuple(examples[i] for i in mine)) for k, mine in held.items()]
    scores = evaluate(tiny, clients, EvalSettings(metrics=("bits", "loss")))
    assert scores.mean()["bits"] == pytest.approx(sum(wanted))
    for row, mine in zip(scores.clients, held.values(), strict=True):
        assert row["bits"] == pytest.approx(sum(wanted[i] for i in mine))
    for place, name in enumerate("xy"):
        assert scores.by_category()[name]["bits"] == pytest.approx(sum(wanted[place::2]))
    types = {"0": "weak", "2": "strong"}  # Client 1 has none.
    by_type = {name: mean["bits"] for name, mean in scores.by_type(types).items()}
    assert by_type == {
        types[str(k)]: pytest.approx(sum(wanted[i] for i in mine))
        for k, mine in held.items()
        if str(k) in types
    }
    assert list(by_type) == sorted(by_type)


@pytest.mark.parametrize(
    ("total", "end", "reference", "bits"),
    [
        (0.0, 0.0, "407", 3 * math.log2(10)),  # The ceiling: nothing is left to learn.
        (3.0 * math.log(10), 0.0, "407", 0.0),  # Chance.
        (99.0, 0.0, "407", 0.0),
        (math.log(2) + 5.0, 5.0, "7", math.log2(10) - 1.0),  # Where it ends counts for nothing.
        (0.0, 0.0, "none", 0.0),
        (0.0, 0.0, "٤", 0.0),  # A digit, but none of the ten that chance is over.
        (math.log(2), 0.0, "a7", math.log2(10) - 1.0),
        (math.nan, math.nan, "407", 0.0),
        (math.inf, 0.0, "407", 0.0),
    ],
)
def test_bits_of_one_response(total: float, end: float, reference: str, bits: float) -> None:
    example = Encoded("0", "x", (5,), (6, 2), (reference, "1234"))
    found = get_metric("bits").score(example, ExampleLoss(total, 2, end))
    assert found == pytest.approx(bits)
    assert 0.0 <= found <= chance_bits(reference)


def test_a_summed_metric_that_is_given_whole_is_summed(tiny: SimpleNamespace) -> None:
    examples = tuple(replace(encoded(i, ((5,), [(6,), (7,)], 0)), id=str(i)) for i in range(3))
    metric = Metric("own", "loss", True, half_of_even_examples, finish=math.sqrt, summed=True)
    clients = [EvalClient("a", examples), EvalClient("b", examples[:2])]
    scores = evaluate(tiny, clients, EvalSettings(metrics=(metric,)))
    assert [row["own"] for row in scores.clients] == [1.0, math.sqrt(0.5)]
    assert scores.mean()["own"] == pytest.approx(math.sqrt(1.5))


def test_a_reference_that_a_metric_passes_over_is_told_once(tiny: SimpleNamespace) -> None:
    texts = (("yes",), ("no", "巴黎"), ("öl",), ("+",))
    examples = tuple(
        Encoded(f"e{i}", "x", (5, 6), (7, 2), references) for i, references in enumerate(texts)
    )
    settings = EvalSettings(max_new_tokens=1, metrics=("loss", "rouge_l", "rouge_l_unicode"))
    scores = evaluate(tiny, [EvalClient("a", examples)], settings)
    first, second = scores.notes
    assert first.startswith(
        "rouge_l passes over some of a reference in 3 of 4 examples, 'e1' first"
    )
    assert "rouge_l_unicode keeps the letters of any script" in first
    assert second.startswith("rouge_l_unicode passes over some of a reference in 1 of 4 examples")
    assert not evaluate(tiny, [EvalClient("a", examples[:1])], settings).notes


def test_a_model_that_diverged_is_no_mistake_of_a_metric(tiny: SimpleNamespace) -> None:
    broken = SimpleNamespace(
        model=LlamaForCausalLM(tiny.model.config), tokenizer=Letters(), context=tiny.context
    )
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(torch.nan)
    example = encoded(0, ((5, 6), [(7,), (8,)], 0))
    scores = evaluate(
        broken, [EvalClient("a", (example,))], EvalSettings(metrics=("loss", "perplexity", *CHOICE))
    )
    assert math.isnan(scores.mean()["loss"])
    assert scores.mean()["choice"] == 0.0


def test_a_loss_too_large_for_a_perplexity_is_infinite() -> None:
    assert get_metric("perplexity").finish(1e6) == math.inf


def test_metrics_that_need_choices_refuse_examples_without(tiny: SimpleNamespace) -> None:
    with_choices = encoded(0, ((5, 6), [(7,), (8,)], 0))
    bare = replace(with_choices, id="bare", choices=(), answer=-1)
    clients = [EvalClient("a", (with_choices,)), EvalClient("b", (bare, bare))]
    words = r"client 'b', example 'bare' has no choices.* 'choice' needs \(2 of 3 examples"
    with pytest.raises(DataError, match=words):
        evaluate(tiny, clients, EvalSettings(metrics=("loss", "choice")))


def half_of_even_examples(example: Encoded, _loss: object) -> float:
    return 0.5 if int(example.id) % 2 == 0 else 0.0


def test_a_metric_of_ones_own(tiny: SimpleNamespace) -> None:
    examples = tuple(replace(encoded(i, ((5,), [(6,), (7,)], 0)), id=str(i)) for i in range(3))
    metric = Metric(
        "evens", "loss", True, half_of_even_examples, finish=math.sqrt, label="evens", digits=2
    )
    try:
        assert register_metric(metric) is metric
        assert register_metric(metric) is metric
        with pytest.raises(ConfigError, match="'evens' is registered already; choose another"):
            register_metric(replace(metric, digits=1))
        scores = evaluate(tiny, [EvalClient("a", examples)], EvalSettings(metrics=("evens",)))
        assert scores.mean()["evens"] == pytest.approx(math.sqrt(1 / 3))
        assert metric.heading == "evens ↑"
    finally:
        del METRICS["evens"]


def test_a_metric_that_is_given_whole_is_finished_by_itself(tiny: SimpleNamespace) -> None:
    """Whatever is registered under its name, if anything is."""
    examples = tuple(replace(encoded(i, ((5,), [(6,), (7,)], 0)), id=str(i)) for i in range(3))
    for name in ("own", "perplexity"):
        metric = Metric(name, "loss", True, half_of_even_examples, finish=math.sqrt)
        scores = evaluate(tiny, [EvalClient("a", examples)], EvalSettings(metrics=(metric,)))
        wanted = pytest.approx(math.sqrt(1 / 3))
        assert scores.mean()[name] == scores.clients[0][name] == wanted
        assert scores.by_category()["x"][name] == wanted
        assert scores.to_json()["clients"][0][name] == wanted


def test_two_metrics_of_one_name_are_refused() -> None:
    other = replace(METRICS["loss"], digits=9)
    with pytest.raises(ConfigError, match="two metrics are named 'loss'; give one another name"):
        EvalSettings(metrics=("loss", other))
    assert len(resolve_metrics(("loss", METRICS["loss"]))) == 1


def weight_of_even_examples(example: Encoded, _loss: object) -> float:
    return 1.0 - int(example.id) % 2


def test_a_category_without_weight_has_no_value_and_breaks_nothing(tiny: SimpleNamespace) -> None:
    examples = tuple(
        replace(encoded(i, ((5,), [(6,), (7,)], 0)), id=str(i), category="ab"[i % 2])
        for i in range(3)
    )
    metric = Metric("own", "loss", True, lambda *_: 3.0, weight=weight_of_even_examples)
    settings = EvalSettings(metrics=(metric, "loss"))
    scores = evaluate(tiny, [EvalClient("a", examples)], settings)
    assert scores.mean()["own"] == scores.by_category()["a"]["own"] == 3.0
    assert set(scores.by_category()["b"].values) == {"loss"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": lambda *_: 1 / 0}, "client 'a', example '0': it fails with ZeroDivisionError"),
        ({"score": lambda *_: "good"}, "example '0': it gives 'good', no finite number"),
        ({"score": lambda *_: math.nan}, "it gives nan, no finite number"),
        ({"weight": lambda *_: math.inf}, "it gives inf, no finite number"),
        ({"weight": lambda *_: -1.0}, "example '0': it gives the weight -1.0; give 0 or more"),
        ({"weight": lambda *_: 0.0}, "metric 'own', client 'a': the weights of its 1 examples"),
    ],
)
def test_a_metric_that_fails_is_named_with_client_and_example(
    tiny: SimpleNamespace, change: dict[str, Any], message: str
) -> None:
    metric = replace(Metric("own", "loss", True, half_of_even_examples), **change)
    example = encoded(0, ((5,), [(6,), (7,)], 0))
    with pytest.raises(DataError, match=message):
        evaluate(tiny, [EvalClient("a", (example,))], EvalSettings(metrics=(metric,)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "a b"}, "'a b' cannot name a metric"),
        ({"name": "examples"}, "'examples' cannot name a metric"),
        ({"pooled": True, "summed": True}, "is pooled and summed, but a sum has no weights"),
        ({"needs": "texts"}, "needs 'texts'; give one of loss, text, choices"),
    ],
)
def test_wrong_metrics(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(METRICS["loss"], **wrong)


def test_every_metric_is_known_by_its_name() -> None:
    assert all(get_metric(name).name == name for name in METRICS)
    better = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert better == {"loss", "token_loss", "perplexity"}
