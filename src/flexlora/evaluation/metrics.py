"""The metrics that evaluation knows; a user's own comes from a file of theirs.

To add one here: write a `Metric` among the others below. To use one without touching the package:
name it "path/to/file.py:function" wherever a metric is named (see `metric_file`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flexlora.errors import ConfigError
from flexlora.evaluation.loss import ExampleLoss
from flexlora.evaluation.metric import METRICS as METRICS
from flexlora.evaluation.metric import ChoiceLoss as ChoiceLoss
from flexlora.evaluation.metric import Metric as Metric
from flexlora.evaluation.metric import Need as Need
from flexlora.evaluation.metric import finished as finished
from flexlora.evaluation.metric import register_metric as register_metric
from flexlora.evaluation.metric import text_metric as text_metric
from flexlora.evaluation.metric_file import load_metric
from flexlora.evaluation.scores import (
    exact_match,
    rouge_blank,
    rouge_l,
    rouge_l_unicode,
    rouge_unicode_blank,
)
from flexlora.tasks.prompts import Encoded

DIGITS = "0123456789"


def get_metric(name: str) -> Metric:
    """The metric of this name, or of a file: "path/to/file.py:function" (see `load_metric`).

    Raises ConfigError with the nearest known name, or saying what is wrong with the file.
    """
    return load_metric(name) if ":" in name else METRICS.named(name)


def resolve_metrics(names: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """These metrics in order, each once.

    Raises ConfigError as `get_metric` does, and for two of one name.
    """
    found: dict[str, Metric] = {}
    for name in names:
        metric = get_metric(name) if isinstance(name, str) else name
        if found.setdefault(metric.name, metric) != metric:
            raise ConfigError(f"two metrics are named {metric.name!r}; give one another name")
    return tuple(found.values())


def _per_token(_example: Encoded, loss: ExampleLoss) -> float:
    return loss.total / loss.tokens


def _tokens(_example: Encoded, loss: ExampleLoss) -> float:
    return loss.tokens


def chance_bits(response: str) -> float:
    """What the digits 0 to 9 of a response come to for somebody who knows nothing: log₂ 10 each."""
    return math.log2(10) * sum(letter in DIGITS for letter in response)


def _bits(example: Encoded, loss: ExampleLoss) -> float:
    """Bits of chance less bits of loss, at least 0: a loss that is no number has taught nothing.

    All that the response says is counted, however the tokenizer cuts its digits, but not the token
    that ends it: where an answer ends is no fact.
    """
    learned = chance_bits(example.references[0]) - (loss.total - loss.end) / math.log(2)
    return max(0.0, learned)


def _exp(mean: float) -> float:
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def _chosen(example: Encoded, likelihoods: Sequence[float]) -> float:
    """100 if the right choice is strictly above every other: a tie counts as wrong."""
    right = likelihoods[example.answer]
    others = (x for i, x in enumerate(likelihoods) if i != example.answer)
    return 100.0 * all(right > other for other in others)


def _choice(example: Encoded, choices: Sequence[ChoiceLoss]) -> float:
    return _chosen(example, [-choice.total for choice in choices])


def _choice_norm(example: Encoded, choices: Sequence[ChoiceLoss]) -> float:
    return _chosen(example, [(choice.end - choice.total) / choice.bytes for choice in choices])


def _rouge_l(example: Encoded, text: str) -> float:
    return rouge_l(text, example.references)


def _rouge_l_unicode(example: Encoded, text: str) -> float:
    return rouge_l_unicode(text, example.references)


def _exact_match(example: Encoded, text: str) -> float:
    return exact_match(text, example.references)


for _metric in (
    # Nats per response token, that which ends it included, over all of a client's response tokens.
    Metric("loss", "loss", False, _per_token, _tokens, least=0.0),
    # exp of that mean loss, of a client or over clients: never a mean of perplexities.
    Metric("perplexity", "loss", False, _per_token, _tokens, _exp, digits=2, least=0.0),
    # The same over all tokens, whoever holds them: losses of different partitions compare.
    Metric(
        "token_loss", "loss", False, _per_token, _tokens, label="token loss", pooled=True, least=0.0
    ),
    # Bits learned of responses that are random digits: of a client, and of all clients, their sum.
    Metric("bits", "loss", True, _bits, digits=0, summed=True, least=0.0),
    Metric(
        "rouge_l",
        "text",
        True,
        _rouge_l,
        label="ROUGE-L",
        digits=1,
        blank=rouge_blank,
        least=0.0,
        most=100.0,
    ),
    Metric(
        "rouge_l_unicode",
        "text",
        True,
        _rouge_l_unicode,
        label="ROUGE-L (Unicode)",
        digits=1,
        blank=rouge_unicode_blank,
        least=0.0,
        most=100.0,
    ),
    Metric(
        "exact_match",
        "text",
        True,
        _exact_match,
        label="exact %",
        digits=1,
        least=0.0,
        most=100.0,
    ),
    # Right where the right choice has the highest log-likelihood, its end included: as
    # lm-evaluation-harness's `acc` with that end written after each choice. Without it and per
    # byte of its text: `acc_bytes` there (`acc_norm` there: per character, the same for ASCII).
    # Unlike there, no blank is put before a choice, and a tie counts as wrong.
    Metric("choice", "choices", True, _choice, label="choice %", digits=1, least=0.0, most=100.0),
    Metric(
        "choice_norm",
        "choices",
        True,
        _choice_norm,
        label="choice/byte %",
        digits=1,
        least=0.0,
        most=100.0,
    ),
):
    register_metric(_metric)
