"""Screens in a whole federation: who is clipped, who is left out, and what that changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from federation.test_loop import RANKS, federation, play
from flexlora.adapters import Adapter, Factors
from flexlora.engines.jobs import Job, Outcome
from flexlora.errors import ConfigError, RoundError, RuleError
from flexlora.federation import Setup, run
from flexlora.federation.loop import Federation
from flexlora.federation.setup import prepare
from flexlora.rules import RULES, Rule, Summary
from flexlora.rules.flexlora import FlexLoRA
from flexlora.runs.events import Failed
from flexlora.runs.readout import load_state
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run
from flexlora.screens import SCREENS, Products, Screen, Verdict, make_screen
from reference import assert_all_close, learned, product
from seam.examples import EXAMPLES
from small import Noise, all_train, moved, read, reply_to, small

RULES_UNDER_TEST = [*RULES.values(), *EXAMPLES]
NAMES = sorted(rule.name for rule in RULES_UNDER_TEST)
LOUD = "c"


class Poisoned(Noise):
    """One client returns a change a hundred times as large as the others'."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        asked = all_train(jobs)
        self.jobs += asked
        for job in asked:
            received = self.rule.receive(read(job.payload), {})
            size = 10.0 if job.client == LOUD else 0.1
            trained = moved(received, job.seed, size).only(job.sides).filled(received)
            yield reply_to(job, self.rule.reply(job.round, trained, received, {}).adapter)


def made(
    folder: Path, name: str, *screens: Screen, poisoned: bool = True, **options: Any
) -> Federation:
    found = federation(folder, name, clients=5, rounds=1, **options)
    found.adapters.screens = screens
    if poisoned:
        found.transport = Poisoned(found.rule)
    return found


def change(made: Federation) -> float:
    """‖what the round changed‖_F, in what was learned or in the factors that are kept."""
    if made.rule.traits.compares == "product" or "u" in next(iter(made.state.layers.values())):
        return sum(float(x.norm()) for x in learned(made.rule, made.state).values())
    begun = made.rule.init(made.state.spec, made.streams.generator("init"))
    steps = (
        (tensors[side] - begun.layers[name][side]).norm()
        for name, tensors in made.state.layers.items()
        for side in tensors.keys() & {"b", "a"}
    )
    return sum(map(float, steps))


@pytest.mark.parametrize("name", NAMES)
def test_a_loud_client_is_clipped_under_every_rule(tmp_path: Path, name: str) -> None:
    loud, clipped = (
        made(tmp_path / "l", name),
        made(tmp_path / "c", name, make_screen("norm_clip", {"factor": 2.0})),
    )
    (without,), (record,) = play(loud), play(clipped)
    assert without.screened is None
    assert record.screened is not None
    assert set(record.screened) == {LOUD}
    verdict = record.screened[LOUD]
    assert verdict.weight == 1.0
    assert 0.0 < verdict.shrink < 0.5
    assert record.clients == tuple(sorted(RANKS))
    assert record.failures == 0
    assert clipped.run.records() == [record]
    # What it moved is in the learned product, or in the factors of a rule that keeps those.
    assert change(clipped) < 0.7 * change(loud)


@pytest.mark.parametrize("screen", sorted(SCREENS.keys() - {"far_out", "norm_clip"}))
@pytest.mark.parametrize("name", NAMES)
def test_every_screen_keeps_a_loud_client_from_deciding_under_every_rule(
    tmp_path: Path, name: str, screen: str
) -> None:
    loud, screened = made(tmp_path / "l", name), made(tmp_path / "s", name, make_screen(screen))
    if weighs_by_norm(loud.rule):  # A median of weights is whose has most of them: clipped first.
        screened.adapters.screens = (make_screen("norm_clip"), make_screen(screen))
    play(loud)
    (record,) = play(screened)
    assert record.screened is not None
    assert record.screened[LOUD].weight < 0.5
    assert change(screened) < 0.7 * change(loud)


class Hidden(Noise):
    """One client returns a product like the others', of a B so many times as long and a short A."""

    times = 1e6

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in all_train(jobs):
            received = self.rule.receive(read(job.payload), {})
            trained = moved(received, job.seed, 0.1).only(job.sides).filled(received)
            if job.client == LOUD:
                trained = Adapter(
                    {
                        name: Factors(f.b * self.times, f.a / self.times, f.scale)
                        for name, f in trained.items()
                    }
                )
            yield reply_to(job, self.rule.reply(job.round, trained, received, {}).adapter)


AVERAGING = [
    rule.name
    for rule in RULES_UNDER_TEST
    if rule.traits.compares == "factors" and rule.traits.mixed_ranks and not rule.traits.alone
]


@pytest.mark.parametrize("screen", sorted(SCREENS.keys() - {"far_out"}))
@pytest.mark.parametrize("name", sorted(AVERAGING))
def test_under_rules_that_average_factors_a_turn_of_them_hides_nothing(
    tmp_path: Path, name: str, screen: str
) -> None:
    hidden = made(tmp_path / "h", name, make_screen(screen), poisoned=False)
    hidden.transport = transport = Hidden(hidden.rule)
    transport.times = 100.0
    (record,) = play(hidden)
    assert record.screened is not None
    verdict = record.screened[LOUD]
    assert min(verdict.weight, verdict.shrink) < 0.2


@pytest.mark.parametrize("name", sorted(AVERAGING))
def test_a_turn_out_of_proportion_is_quarantined(tmp_path: Path, name: str) -> None:
    hidden = made(tmp_path / "h", name, poisoned=False)
    hidden.transport = Hidden(hidden.rule)
    (record,) = play(hidden)
    assert record.failures == 1
    assert LOUD not in record.clients


def weighs_by_norm(rule: Rule) -> bool:
    loud, quiet = rule.weights([Summary("a", 1, 100.0, 1.0), Summary("b", 1, 1.0, 1.0)]).values()
    return loud > quiet


@pytest.mark.parametrize("name", NAMES)
def test_whom_nothing_is_done_to_the_bits_stay(tmp_path: Path, name: str) -> None:
    plain = made(tmp_path / "p", name, poisoned=False)
    screened = made(
        tmp_path / "s", name, make_screen("norm_clip", {"factor": 50.0}), poisoned=False
    )
    play(plain)
    (record,) = play(screened)
    assert record.screened == {}
    for layer, tensors in plain.state.layers.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, screened.state.layers[layer][key])


@pytest.mark.parametrize("name", NAMES)
def test_a_far_client_is_left_out_as_a_failure_and_the_rest_is_a_round_without_it(
    tmp_path: Path, name: str
) -> None:
    krum = made(tmp_path / "k", name, make_screen("far_out", {"outliers": 1}))
    (record,) = play(krum)
    reason = "screen far_out: its update lies far from those of the others"
    assert record.screened == {LOUD: Verdict(0.0, 1.0, reason)}
    assert record.clients == tuple(sorted(set(RANKS) - {LOUD}))
    assert record.failures == 1
    assert krum.run.events(Failed) == [Failed(1, LOUD, reason, "screen")]
    assert krum.run.records() == [record]
    without = made(tmp_path / "w", name, poisoned=False, fails=(LOUD,))
    play(without)
    for layer, tensors in without.state.layers.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, krum.state.layers[layer][key])


class Still(Noise):
    """From the second round on, three of five clients return what they were sent."""

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        asked = all_train(jobs)
        self.jobs += asked
        for job in asked:
            received = self.rule.receive(read(job.payload), {})
            still = job.round > 1 and job.client in sorted(RANKS)[:3]
            trained = received if still else moved(received, job.seed)
            yield reply_to(job, self.rule.reply(job.round, trained, received, {}).adapter)


@pytest.mark.parametrize("name", ["flexlora", "flexlora-increment", "fedit"])
def test_honest_clients_are_not_erased_because_others_stood_still(
    tmp_path: Path, name: str
) -> None:
    found = federation(tmp_path / "r", name, clients=5, rounds=2)
    found.adapters.screens, found.transport = (make_screen("norm_clip"),), Still(found.rule)
    assert [record.screened for record in play(found)] == [{}, {}]


def test_who_is_left_out_holds_the_delta_that_it_was_sent(tmp_path: Path) -> None:
    """It is not sent it again, and its bytes are not counted twice."""
    krum = made(tmp_path / "k", "flexlora-increment", make_screen("far_out", {"outliers": 1}))
    krum.schedule = replace(krum.schedule, rounds=3)
    play(krum)
    last = [job for job in krum.transport.jobs if job.round == 3]  # type: ignore[attr-defined]
    assert len(last) == 5
    assert {job.client: job.held for job in last} == dict.fromkeys(sorted(RANKS), 1)
    assert [record.failures for record in krum.run.records()] == [1, 1, 1]


class Halves(Screen):
    """Half of everybody's weight and of everybody's change."""

    name, source = "halves", "this test"

    def verdicts(self, products: Products) -> dict[str, Verdict]:
        return {client: Verdict(0.5, 0.5) for client in products.clients}


def test_screens_follow_on_each_other(tmp_path: Path) -> None:
    """A quarter of every change, by hand: the increment form adds Σ w c (trained − origin)."""
    name = next(rule.name for rule in RULES.values() if rule.traits.origin)
    quarter = made(tmp_path / "q", name, Halves(), Halves(), poisoned=False)
    whole = made(tmp_path / "w", name, poisoned=False)
    (record,) = play(quarter)
    play(whole)
    assert record.screened is not None
    assert record.screened["a"] == Verdict(0.25, 0.25)
    wanted = {n: 0.25 * x for n, x in learned(whole.rule, whole.state).items()}
    assert_all_close(learned(quarter.rule, quarter.state), wanted)


def test_a_clipped_update_is_what_it_says_by_hand(tmp_path: Path) -> None:
    """FlexLoRA's sum with sent + c (trained − sent), in dense float64."""
    clipped = made(tmp_path / "c", "flexlora", make_screen("norm_clip", {"factor": 2.0}))
    (record,) = play(clipped)
    assert record.screened is not None
    share = {LOUD: record.screened[LOUD].shrink}
    wanted: dict[str, Tensor] = {}
    assert isinstance(clipped.transport, Poisoned)
    for job in clipped.transport.jobs:
        sent = read(job.payload)
        trained = moved(sent, job.seed, 10.0 if job.client == LOUD else 0.1)
        c = share.get(job.client, 1.0)
        for layer, f in trained.items():
            update = product(sent[layer]) + c * (product(f) - product(sent[layer]))
            wanted[layer] = wanted.get(layer, 0.0) + update / len(RANKS)
    for layer, matrix in learned(clipped.rule, clipped.state).items():
        rest = torch.linalg.svdvals(wanted[layer])[max(RANKS.values()) :].norm()
        assert float((matrix - wanted[layer]).norm()) == pytest.approx(
            float(rest), rel=1e-3, abs=1e-5
        )


def test_how_much_clients_agree_is_the_mean_cosine_of_what_they_changed(tmp_path: Path) -> None:
    """Over all layers and pairs, by dense float64; the bits of the round stay."""
    told, plain = (
        made(tmp_path / str(asked), "flexlora", agreement=asked) for asked in (True, False)
    )
    (record,), (other,) = play(told), play(plain)
    assert other.agreement is None
    assert isinstance(told.transport, Poisoned)
    changes = []
    for job in told.transport.jobs:
        sent = read(job.payload)
        trained = moved(sent, job.seed, 10.0 if job.client == LOUD else 0.1)
        changes.append(torch.cat([(product(trained[x]) - product(sent[x])).ravel() for x in sent]))
    units = torch.stack([x / x.norm() for x in changes])
    cosines = (units @ units.T)[~torch.eye(len(units), dtype=torch.bool)]
    assert record.agreement == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert RoundRecord.from_json(record.to_json()) == record
    for name, layer in told.state.layers.items():
        assert all(torch.equal(x, plain.state.layers[name][key]) for key, x in layer.items())


def test_a_verdict_falls_on_whom_it_is_of_in_whatever_order_a_rule_weighs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rotated(FlexLoRA):  # type: ignore[misc]  # It is final.
        name = "rotated"

        def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
            first, *rest = super().weigh(summaries).items()
            return dict([*rest, first])

    monkeypatch.setitem(RULES, "rotated", Rotated)
    for name in ("norm_clip", "far_out"):
        (record,) = play(made(tmp_path / name, "rotated", make_screen(name)))
        assert record.screened is not None
        assert set(record.screened) == {LOUD}


class Watching(Screen):
    """What the weights are when its turn comes."""

    name, source = "watching", "this test"

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def verdicts(self, products: Products) -> dict[str, Verdict]:
        self.seen = dict(products.weights)
        return {}


@pytest.mark.parametrize("name", ["hetlora", "flexlora"])
def test_a_screen_sees_the_weights_of_what_those_before_it_left(tmp_path: Path, name: str) -> None:
    """A rule that weighs by norms weighs less what is shrunk."""
    before, between, after = Watching(), Watching(), Watching()
    clip, krum = make_screen("norm_clip", {"factor": 1.0}), make_screen("far_out")
    play(made(tmp_path / "r", name, before, clip, between, krum, after))
    assert sum(before.seen.values()) == pytest.approx(1.0)
    assert sum(between.seen.values()) == pytest.approx(1.0)
    assert (between.seen[LOUD] < 0.9 * before.seen[LOUD]) == (name == "hetlora")
    (gone,) = set(between.seen) - set(after.seen)
    rest = 1.0 - between.seen[gone]
    assert after.seen == pytest.approx(
        {client: weight / rest for client, weight in between.seen.items() if client != gone}
    )


class Stranger(Screen):
    name, source = "stranger", "this test"

    def verdicts(self, products: Products) -> dict[str, Verdict]:
        return {"nobody": Verdict(0.5)}


def test_a_verdict_on_a_stranger_names_the_screen(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="screen stranger judges client 'nobody', who is not in"):
        play(made(tmp_path / "r", "flexlora", Stranger()))


class Nobody(Screen):
    name, source = "nobody", "this test"

    def verdicts(self, products: Products) -> dict[str, Verdict]:
        return {client: Verdict(0.0, 1.0, "no") for client in products.clients}


def test_screens_that_leave_nobody_end_the_round(tmp_path: Path) -> None:
    with pytest.raises(
        RoundError, match=r"round 1: the screens left no client; loosen \[screens\]"
    ):
        play(made(tmp_path / "r", "flexlora", Nobody(), Halves()))


# --- a whole run, by its config ------------------------------------------------------------------


class Signs(Screen):
    """The client's half alone: every entry keeps its sign, and noise of its own."""

    name, source = "signs", "this test"

    def at_client(self, trained: Adapter, sent: Adapter, generator: torch.Generator) -> Adapter:
        def noisy(f: Factors, start: Factors) -> Factors:
            noise = 1e-3 * torch.randn(f.b.shape, generator=generator)
            return Factors(start.b + 1e-2 * (f.b - start.b).sign() + noise, f.a, f.scale)

        return Adapter({name: noisy(f, sent[name]) for name, f in trained.items()})


@pytest.mark.parametrize("rule", ["flexlora", "ffa"])
def test_both_halves_are_run_where_they_belong(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """The clients' half draws from the client's own seed: cohorts change nothing."""
    monkeypatch.setitem(SCREENS, "signs", Signs)
    states = []
    for at_once in (1, 4):
        config = small(
            rule={"name": rule},
            screens={"signs": {}, "far_out": {"outliers": 1}},
            federation={"rounds": 1, "clients_per_round": 4},
            evaluation={"unseen": False, "on_clients": "off"},
            run={"clients_at_once": at_once},
        )
        folder = run(config, tmp_path / f"{rule}-{at_once}", setup=setup).folder
        opened = Run.open(folder)
        (record,) = opened.read_metrics()
        assert len(record["screened"]) == 1
        assert len(record["clients"]) == 3
        assert list(opened.config.screens.chosen) == ["signs", "far_out"]
        states.append(load_state(opened, "last"))
    one, other = (learned(_rule(rule), state) for state in states)
    assert_all_close(one, other, 1e-4)


class Slips(Signs):
    name = "slips"

    def at_client(self, trained: Adapter, sent: Adapter, generator: torch.Generator) -> Adapter:
        raise KeyError("b")


def test_a_slip_at_the_clients_ends_the_run_and_is_no_clients_failure(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCREENS, "slips", Slips)
    config = small(screens={"slips": {}}, federation={"rounds": 1, "clients_per_round": 2})
    with pytest.raises(RuleError, match="at_client of screen slips: KeyError: 'b'"):
        run(config, tmp_path / "run", setup=setup)


def _rule(name: str) -> Rule:
    return RULES[name]()


@pytest.mark.parametrize(
    ("screens", "message"),
    [
        ({"norm_clop": {}}, "screen 'norm_clop' is unknown; did you mean 'norm_clip'?"),
        (
            {"norm_clip": 3.0},
            "config screens.norm_clip is 3.0, expected an inline table of options",
        ),
        (
            {"norm_clip": {"factor": -1.0}},
            "screens.norm_clip.factor is -1.0, expected a number above 0 and at most 1,000,000 (of "
            "the median above which a change is shrunk); correct it",
        ),
    ],
)
def test_a_wrong_screen_is_told_before_anything_is_read(
    tmp_path: Path, screens: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        run(small(screens=screens), tmp_path / "r")
    assert str(error.value).startswith(message)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("name", "needed"), [("multi_krum", 5), ("dnc", 3)])
def test_a_screen_that_a_whole_round_is_too_small_for_never_begins(name: str, needed: int) -> None:
    """Nothing is trained for it: the round has as many clients as it can have."""
    for clients in (needed - 1, needed):
        screen = make_screen(name)
        assert screen.needed(clients) == needed
    config = small(screens={name: {}}, federation={"clients_per_round": 2})
    words = f"screens.{name} needs {needed} clients a round, and a round has 2; raise federation.cl"
    with pytest.raises(ConfigError, match=words):
        prepare(config, outline=True)
    many = make_screen(name, {"hostile": 0.4})
    assert [many.needed(clients) for clients in (5, 10, 20)] == (
        [7, 11, 19] if name == "multi_krum" else [5, 9, 17]
    )
