"""What a reader is told first: who was compared with whom, and what it came to; plain sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import fmean

from flexlora.comparing.findings import Findings, Pair
from flexlora.comparing.statistics import Interval, P, interval
from flexlora.formats.words import count
from flexlora.report.blocks import ABSENT, Mark, plain, signed
from flexlora.runs.results import STATE_WORDS

PART_WORDS = {
    "own": "the clients' own test examples",
    "unseen": "unseen examples",
    "validation": "validation examples",
}
CLUSTERS = {"own": "client", "unseen": "task"}
"""Part → whose examples are scored together."""


def primary(findings: Findings) -> str:
    """The one comparison that was fixed before the runs, in one sentence; or why there is none."""
    asked, measure = findings.settings, findings.measure
    if not asked.primary:
        return (
            "No primary comparison was fixed in the config, so nothing is tested; differences are "
            f"{findings.reference} less the other arm, paired by seed."
        )
    one, other = asked.primary
    what = f"{measure.label} on {PART_WORDS[asked.part]}, {state_words(asked.state)}"
    pair = findings.pairs(asked.part, asked.state)[other]
    if pair.difference is None or pair.p is None:
        return f"{one} against {other}, {what}: not known yet, for no seed has a value of both."
    found = findings.values(asked.part, asked.state)
    common = sorted(found[one].keys() & found[other].keys())
    means = (plain(fmean(found[arm][x] for x in common), measure.digits) for arm in (one, other))
    better = {True: " (higher is better)", False: " (lower is better)", None: ""}[measure.higher]
    return (
        f"{one} against {other}, {what}: {' against '.join(means)}{better}, difference "
        f"{_difference(pair, asked.part, measure.digits)}, p = {p_text(pair.p.value)} "
        f"({_test(pair.p)}), n = {count(len(common), 'seed')}"
        f"{_verdict(findings, pair.p, len(common))}."
    )


def standing(findings: Findings) -> list[str]:
    """What is not there yet, and what is there but is no number; [] where all is well."""
    wanted = len(findings.settings.seeds)
    short = [
        f"{arm} ({len(seeds)})" for arm, seeds in findings.seeds.items() if len(seeds) < wanted
    ]
    told = []
    if short:
        told.append(
            f"Not finished: of {count(wanted, 'seed')}, some arms have fewer: {', '.join(short)}. "
            "Each mean is over the seeds that its arm has, each difference over those that both "
            f"arms have{', and no p is to be read yet' if findings.settings.primary else ''}."
        )
    if findings.unlike:
        differing = "; ".join(
            f"{key} {', '.join(f'{value} ({n})' for value, n in values.items())}"
            for key, values in findings.unlike.items()
        )
        told.append(
            f"Not all cells were played alike (how many): {differing}. Within a seed a difference "
            "may be of these, and not of the arms."
        )
    if findings.broken:
        what = f"{findings.measure.label} on {PART_WORDS[findings.settings.part]}"
        told.append(
            f"Without a finite value of {what}, {state_words(findings.settings.state)}, and so in "
            f"no mean: {'; '.join(findings.broken)}."
        )
    return told


def arm_lines(findings: Findings) -> list[str]:
    """A line an arm: the mean that is compared, for a terminal."""
    asked, measure = findings.settings, findings.measure
    found = findings.values(asked.part, asked.state)
    what = f"{measure.label} on {PART_WORDS[asked.part]}, {state_words(asked.state)}"
    lines = [f"{what}; mean ± half of the 95 % t interval over the seeds that are finished:"]
    for arm in findings.arms:
        mean = spread(found.get(arm, {}).values(), measure.digits)
        n = f"{len(findings.seeds[arm])} of {count(len(asked.seeds), 'seed')}"
        lines.append(f"  {arm}: {ABSENT if mean is None else mean.text} ({n})")
    return lines


def spread(values: Iterable[float], digits: int | None = None) -> Mark | None:
    """ "1.234 ± 0.056": the mean and half of its 95 % t interval; a mean alone of one value.

    digits: None for four significant ones of the mean.
    """
    found = interval(list(values))
    return None if found is None else spread_of(found, digits, plain)


def spread_of(found: Interval, digits: int | None, show: Callable[[float, int], str]) -> Mark:
    if digits is None:
        digits = 0 if not found.mean else max(0, 3 - math.floor(math.log10(abs(found.mean))))
    text = show(found.mean, digits)
    return Mark(found.mean, text if found.half is None else f"{text} ± {plain(found.half, digits)}")


def state_words(state: str) -> str:
    return STATE_WORDS.get(state, f"what clients of type {state} are handed")


def p_text(p: float) -> str:
    return f"{p:.3g}"


def _difference(pair: Pair, part: str, digits: int) -> str:
    found = pair.difference
    assert found is not None
    told = "of one seed: no interval"
    if (ends := _ends(found, digits)) is not None:
        told = f"95 % interval {ends}"
    if (ends := _ends(pair.clustered, digits)) is not None:
        told += f"; clustered by {CLUSTERS[part]} {ends}"
    return f"{signed(found.mean, digits)} ({told})"


def _ends(found: Interval | None, digits: int) -> str | None:
    if found is None or found.low is None or found.high is None:
        return None
    return f"{signed(found.low, digits)} to {signed(found.high, digits)}"


def _test(p: P) -> str:
    if p.exact:
        return f"exact paired permutation test, all {p.flips:,} sign flips"
    return f"paired permutation test, {p.flips:,} sign flips drawn of all"


def _verdict(findings: Findings, p: P, n: int) -> str:
    asked = findings.settings
    if n < len(asked.seeds):
        return f" of {len(asked.seeds)}, so the test is not to be read yet"
    side = "within" if p.value <= asked.level else "not within"
    return f"; {side} the level of {asked.level:g} that was fixed before the runs"
