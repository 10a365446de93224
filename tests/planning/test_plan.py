"""Plans of the embedded model: who affords what, what decides a round, who is refused and why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from flexlora.adapters import Wire
from flexlora.allocation.devices import Device, DeviceClass
from flexlora.errors import ConfigError, InputError
from flexlora.planning.asked import Asked
from flexlora.planning.document import to_json
from flexlora.planning.model import Planned
from flexlora.planning.plan import ClassPlan, Plan
from flexlora.planning.plan import plan as make_plan
from flexlora.planning.remedies import first_that, remedies
from flexlora.planning.traffic import traffic
from flexlora.planning.words import duration
from flexlora.rules import make_rule

ASKED = Asked(batch=2, length=64, dtype="float32", examples=10, rounds=20)
STRONG = Device(1e9, {"float32": 1e11}, 1e10, 1e6, 1e6)
WEAK = replace(STRONG, memory=11e6, flops={"float32": 1e8}, uplink=1e4, downlink=1e4)


@pytest.fixture(scope="module")
def model() -> Planned:
    return Planned("tiny")


def plan(model: Planned, *devices: Device, rule: str = "flexlora", **asked: Any) -> Plan:
    classes = [DeviceClass(f"c{i}", device, 4) for i, device in enumerate(devices)]
    return make_plan(model, classes, replace(ASKED, **asked), make_rule(rule))


def rank(x: ClassPlan) -> int:
    assert x.cost is not None
    return max(x.cost.ranks.values())


def test_memory_decides_the_rank_and_is_used_up_to_the_next_one(model: Planned) -> None:
    weak, strong = plan(model, WEAK, STRONG).classes
    assert weak.cost is not None
    assert 1 < rank(weak) < rank(strong) == 128
    assert weak.cost.memory.peak <= 11e6
    more = {name: r + 1 for name, r in weak.cost.ranks.items()}
    assert model.memory(more, ASKED.setting(make_rule("flexlora"))).peak > 11e6


def test_a_deadline_decides_the_rank_by_compute_and_links(model: Planned) -> None:
    slow = replace(WEAK, memory=1e9)
    (free,) = plan(model, slow).classes
    assert free.cost is not None
    (kept,) = plan(model, slow, deadline=free.cost.seconds / 2).classes
    assert kept.cost is not None
    assert 1 < rank(kept) < rank(free)
    assert kept.cost.seconds <= free.cost.seconds / 2
    assert kept.cost.seconds == pytest.approx(
        kept.cost.compute
        + kept.cost.traffic.down / slow.downlink
        + kept.cost.traffic.up / slow.uplink
    )


def test_what_keeps_the_base_up_to_date_counts_towards_the_deadline(model: Planned) -> None:
    slow = replace(WEAK, memory=1e9)
    deadline = 400.0
    for name in ("flexlora", "flora"):
        (told,) = plan(model, slow, deadline=deadline, rule=name).classes
        assert told.cost is not None
        assert told.cost.seconds <= deadline
        assert (told.cost.traffic.delta > 0) == (name == "flora")


def test_bytes_decide_the_rank_with_what_keeps_the_base_up_to_date(model: Planned) -> None:
    (free,) = plan(model, STRONG).classes
    assert free.cost is not None
    for name in ("flexlora", "flora"):
        (kept,) = plan(model, STRONG, traffic=2e6, rule=name).classes
        assert kept.cost is not None
        assert kept.cost.traffic.total <= 2e6
        assert 1 < rank(kept) < rank(free)
    with pytest.raises(InputError, match=r"no device class keeps to --traffic 20\.0 kB: at rank 1"):
        plan(model, STRONG, traffic=2e4)


def test_fewer_bits_a_number_afford_higher_ranks_for_the_same_bytes(model: Planned) -> None:
    ranks, wires = [], get_args(Wire)
    assert wires[0] == "exact"
    for wire in wires:
        (told,) = plan(model, STRONG, traffic=2e6, wire=wire).classes
        assert told.cost is not None
        sent = traffic(make_rule("flexlora"), model.shape.layers, {"x": told.cost.ranks}, {}, wire)
        assert (told.cost.traffic.down, told.cost.traffic.up) == (sent["x"].down, sent["x"].up)
        ranks.append(rank(told))
    assert ranks == sorted(set(ranks)), ranks


def test_who_is_out_for_what_keeps_the_base_up_to_date_is_told_by_how_much(model: Planned) -> None:
    """Others' ranks decide what FLoRA sends to all."""
    slow = replace(STRONG, downlink=1e5)
    strong, out = plan(model, STRONG, slow, deadline=30.0, rule="flora").classes
    assert strong.cost is not None
    if out.cost is None:
        assert out.least.seconds > 30.0
    else:
        assert out.cost.seconds <= 30.0


@pytest.mark.parametrize("limit", [260_000, 300_000, 500_000, 1_000_000])
def test_whoever_keeps_to_the_bytes_beside_the_others_is_in_and_all_keep_to_them(
    model: Planned, limit: int
) -> None:
    """What keeps the base up to date is one number for all, which all together decide."""
    found = plan(model, replace(STRONG, memory=11e6), STRONG, rule="flora", traffic=limit)
    there = [x for x in found.classes if x.cost is not None]
    assert there
    for x in there:
        assert x.cost is not None
        assert x.cost.traffic.total <= limit
    ranks = {x.kind.name: x.cost.ranks for x in there if x.cost is not None}
    for x in found.classes:
        if x.cost is None:
            beside = {**ranks, x.kind.name: x.least.ranks}
            cohort = dict.fromkeys(beside, 4)
            sent = traffic(found.rule, model.shape.layers, beside, cohort)
            assert sent[x.kind.name].total > limit


def test_a_device_without_room_for_more_ranks_is_not_out_for_the_others_bytes(
    model: Planned,
) -> None:
    one = plan(model, replace(STRONG, memory=11e6), STRONG, rule="flora").classes[0]
    assert rank(one) < 128
    small = replace(STRONG, memory=one.least.memory.peak + 1)
    kept = plan(model, small, STRONG, rule="flora", traffic=1_000_000)
    phone, server = map(rank, kept.classes)
    assert phone == 1 < server < 128


def test_a_client_of_few_examples_takes_what_these_take(model: Planned) -> None:
    def costs(examples: int, batch: int) -> tuple[float, float]:
        (x,) = plan(model, STRONG, examples=examples, batch=batch, max_rank=4).classes
        assert x.cost is not None
        return x.cost.memory.peak, x.cost.compute

    assert costs(1, 8) == costs(1, 1)
    assert costs(8, 8)[1] + costs(1, 1)[1] == pytest.approx(costs(9, 8)[1])
    assert costs(9, 8)[0] == costs(8, 8)[0]


def test_a_rule_of_one_rank_trains_all_at_the_lowest_and_says_what_that_wastes(
    model: Planned,
) -> None:
    mixed, one = plan(model, WEAK, STRONG), plan(model, WEAK, STRONG, rule="fedit")
    low, high = map(rank, mixed.classes)
    assert [rank(x) for x in one.classes] == [low, low]
    wasted = 1 - 2 * low / (low + high)
    assert mixed.federation.unused == pytest.approx(wasted, rel=1e-6)
    assert one.federation.unused == pytest.approx(wasted, rel=1e-6)


def test_a_round_lasts_as_long_as_its_slowest_client(model: Planned) -> None:
    told = plan(model, WEAK, STRONG)
    seconds = [x.cost.seconds for x in told.classes if x.cost is not None]
    found = told.federation
    assert (found.seconds, found.slowest) == (max(seconds), "c0")
    assert found.cohort == {"c0": 4, "c1": 4}
    assert found.waiting == pytest.approx(1 - sum(seconds) / (2 * max(seconds)))
    sent = [x.cost.traffic for x in told.classes if x.cost is not None]
    assert found.bytes_down == 4 * sum(x.down for x in sent)
    assert found.total_bytes == 20 * (found.bytes_down + found.bytes_up)


def test_who_is_seldom_there_is_seldom_drawn(model: Planned) -> None:
    seldom = replace(STRONG, availability=0.25)
    found = plan(model, STRONG, seldom).federation
    assert (found.expected, found.cohort) == (5.0, {"c0": 4, "c1": 1})
    assert plan(model, STRONG, seldom, clients=2).federation.cohort == {"c0": 2, "c1": 0}


def test_a_class_has_no_more_places_in_a_round_than_clients(model: Planned) -> None:
    """What one cannot fill goes to the others, in their proportion."""
    seldom = replace(STRONG, availability=0.01)
    found = plan(model, STRONG, seldom, seldom, clients=9).federation
    assert found.cohort == {"c0": 4, "c1": 3, "c2": 2}
    assert plan(model, STRONG, seldom, clients=8).federation.cohort == {"c0": 4, "c1": 4}
    assert plan(model, STRONG, seldom, clients=99).federation.cohort == {"c0": 4, "c1": 4}


def test_a_round_takes_whoever_is_there_for_a_part_of_the_time_longer(model: Planned) -> None:
    """As in a run, whose deadline it is held to."""
    always, half = plan(model, STRONG), plan(model, replace(STRONG, availability=0.5))
    assert half.federation.seconds == pytest.approx(2 * always.federation.seconds)
    deadline = 0.6 * half.federation.seconds
    held = plan(model, replace(STRONG, availability=0.5), deadline=deadline)
    assert rank(held.classes[0]) < rank(half.classes[0])
    assert held.federation.seconds <= deadline


def test_a_rule_that_trains_one_side_holds_what_that_side_holds(model: Planned) -> None:
    """And one that takes turns trains both in time."""
    whole, b, turns = (plan(model, STRONG, rule=name) for name in ("flexlora", "ffa", "rolora"))
    ranks = {rank(told.classes[0]) for told in (whole, b, turns)}
    assert len(ranks) == 1
    (held,) = ranks
    numbers = [
        told.classes[0].cost.parameters for told in (whole, b, turns) if told.classes[0].cost
    ]
    layers = model.shape.layers
    both, alone = (held * sum(f(x) for x in layers) for f in (lambda x: x.m + x.n, lambda x: x.m))
    assert numbers == [both, alone, both]
    assert b.classes[0].capacity < whole.classes[0].capacity


def test_one_class_that_does_not_fit_is_told_what_would_help(model: Planned) -> None:
    small = replace(STRONG, memory=6e6)
    lacking, fits = plan(model, small, STRONG).classes
    assert lacking.cost is None
    assert fits.cost is not None
    assert lacking.remedy is not None
    assert lacking.remedy.words.startswith("--")
    held = lacking.remedy.setting
    assert model.memory(dict.fromkeys(fits.cost.ranks, 1), held).peak <= 6e6


def test_nobody_fits(model: Planned) -> None:
    with pytest.raises(
        InputError, match=r"tiny fits no device class: at rank 1 .* c0, the closest"
    ):
        plan(model, replace(STRONG, memory=6e6), replace(STRONG, memory=1e6))
    with pytest.raises(InputError, match="take a smaller model or larger devices"):
        plan(model, replace(STRONG, memory=1e6))


def test_nobody_meets_the_deadline(model: Planned) -> None:
    with pytest.raises(
        InputError,
        match=r"no device class meets the deadline of 0\.0 s: c1, the closest, takes .* too long; "
        "raise --deadline",
    ):
        plan(model, WEAK, STRONG, deadline=0.001)


def test_examples_beyond_the_models_positions_are_refused(model: Planned) -> None:
    with pytest.raises(InputError, match="--length 513 is above the 512 positions of model tiny"):
        plan(model, STRONG, length=513)


def test_whether_rank_can_matter(model: Planned) -> None:
    """By bits: an adapter of rank 1 has 4 × 2,440 numbers here."""
    (told,) = plan(model, STRONG).classes
    assert told.data_bits == 10 * 64 * 10  # Of 1,024 tokens.
    assert told.cost is not None
    assert told.capacity == pytest.approx(0.3 * told.cost.parameters)
    assert told.enough == 3  # 6,400 bits; a rank of all layers has 9,792 numbers.


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch", 0), ("length", 1), ("dtype", "int8"), ("wire", "int4"), ("rounds", -1)],
)
def test_what_cannot_be_asked_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} is "):
        Asked(**{key: value})  # type: ignore[arg-type]


def test_a_plan_is_a_document(model: Planned) -> None:
    told = json.loads(json.dumps(to_json(plan(model, WEAK, STRONG))))
    first = told["classes"][0]
    assert first["cost"]["memory"]["peak"] <= first["memory"] == 11e6
    assert first["at_rank_1"]["trainable"] < first["cost"]["trainable"]
    assert told["federation"]["slowest"] == "c0"


def test_remedies_go_from_the_cheapest_to_all_together() -> None:
    setting = Asked(batch=8, length=256).setting(make_rule("flexlora"))
    words = [x.words for x in remedies(setting)]
    assert words[0] == "--checkpointing"
    assert words[-1] == "--checkpointing --quantise 4bit --batch 1 --length 64"
    assert first_that(lambda x: x.batch == 1, setting) is not None
    assert first_that(lambda _: False, setting) is None


def test_times_in_words() -> None:
    told = {
        0.04: "0.0 s",
        3.21: "3.2 s",
        75: "75 s",
        90: "1.5 min",
        7200: "2.0 h",
        1e6: "11.6 days",
    }
    assert {x: duration(x) for x in told} == told
