"""The stage before adapters: its mean worked out by hand, and what every rule begins with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flexlora.adapters import LayerSpec
from flexlora.adapters.sparse import places, spread, values_payload, weights_for
from flexlora.config.schedule import Schedule
from flexlora.engines.jobs import Outcome, Reply, TrainSparse
from flexlora.evaluation import ClientScore
from flexlora.federation.admission import Collected
from flexlora.federation.quarantine import quarantined
from flexlora.federation.sending import Sender
from flexlora.federation.sparse_stage import HELD, SparseSending, SparseStage, best_start
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.rules import RULES, Rule, Spec, State, make_rule
from flexlora.rules.promises import require_sent
from flexlora.runs.store import ClientStore
from flexlora.training import Recipe
from small import LAYERS

RECIPE = Recipe("adamw", 0.1, 2)
RANKS = {"a": 1, "b": 2, "c": 3}
SPEC = Spec.of(LAYERS, [{x.name: rank for x in LAYERS} for rank in RANKS.values()])
STORE = ClientStore(
    dict.fromkeys(RANKS, "any"), {c: {x.name: r for x in LAYERS} for c, r in RANKS.items()}
)
EXAMPLES = {"a": 1, "b": 3, "c": 4}


def stage(folder: Path, rule: str = "flexlora", rounds: int = 2) -> SparseStage:
    schedule = Schedule(rounds=4, clients=3, recipe=RECIPE)
    return SparseStage(Sender(make_rule(rule), schedule, Streams(0)), rounds, folder / "spool")


def begun(made: SparseStage, rule: str = "flexlora") -> State:
    return made.begin(make_rule(rule).init(SPEC, torch.Generator()))


def reply(job: TrainSparse, size: float = 1.0, /, **changes: object) -> Reply:
    """Client a changes every weight of its own by 1, b by 2, c by 3, times size."""
    value = size * RANKS[job.client]
    change = {name: torch.full((count,), value) for name, count in job.trained.items()}
    found = Reply(
        job.id, job.client, to_bytes(values_payload(change)), EXAMPLES[job.client], 1.0, 1, 9, 0.1
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def collected(made: SparseStage, asked: SparseSending, replies: Sequence[Outcome]) -> Collected:
    return [so_far for _, so_far in made.collect(asked, replies)][-1]


def played(made: SparseStage, state: State) -> State:
    asked = made.send(state, STORE)
    came = collected(made, asked, [reply(job) for job in asked.jobs])
    return made.combine(state, asked, made.weigh(state, asked, came))[0]


def counts(layer: LayerSpec) -> tuple[int, int, int]:
    one, two, three = (weights_for(layer, rank) for rank in RANKS.values())
    return one, two, three


def test_a_round_by_hand(tmp_path: Path) -> None:
    """Weights 1/8, 3/8, 4/8: where all own a weight 1·⅛ + 2·⅜ + 3·½ = 2.375, where a does not
    2.25, where c is alone 1.5; nothing where nobody is. Another round adds as much again."""
    made = stage(tmp_path, rounds=3)
    state = played(made, begun(made))
    again = played(made, state)
    for layer in LAYERS:
        one, two, three = counts(layer)
        assert 0 < one < two <= three <= layer.m * layer.n
        wanted = torch.cat(
            [
                torch.full((one,), 2.375),
                torch.full((two - one,), 2.25),
                torch.full((three - two,), 1.5),
            ]
        )
        assert torch.equal(state.layers[layer.name][HELD], wanted)
        assert torch.equal(again.layers[layer.name][HELD], 2 * wanted)
    assert (state.round, again.round) == (1, 2)
    assert not (tmp_path / "spool").exists()


def test_clients_are_asked_for_the_share_of_their_own_rank_and_sent_all(tmp_path: Path) -> None:
    made = stage(tmp_path)
    state = played(made, begun(made))
    jobs = {job.client: job for job in made.send(state, STORE).jobs}
    assert sorted(jobs) == ["a", "b", "c"]
    for client, job in jobs.items():
        assert job.round == 2
        assert job.trained == {x.name: weights_for(x, RANKS[client]) for x in LAYERS}
        assert job.bytes_down == len(job.payload)
        held = from_bytes(job.payload).tensors
        assert all(torch.equal(held[x.name], state.layers[x.name][HELD]) for x in LAYERS)
    assert len({job.mask for job in jobs.values()}) == 1  # One mask for the whole stage.
    assert made.send(begun(made), STORE).jobs[0].mask == jobs["a"].mask
    assert len({job.seed for job in jobs.values()}) == 3


def test_a_rule_of_one_rank_has_one_mask_for_all(tmp_path: Path) -> None:
    made = stage(tmp_path, "fedit")
    state = begun(made, "fedit")
    for job in made.send(state, STORE).jobs:
        assert job.trained == {x.name: weights_for(x, 1) for x in LAYERS}
        assert len(from_bytes(job.payload).tensors["x.q_proj"]) == weights_for(LAYERS[0], 1)


def test_the_start_is_the_best_part_of_what_was_learned() -> None:
    layer = LayerSpec("x", 12, 9)
    held = torch.randn(50, generator=torch.Generator().manual_seed(0))
    start, certificate = best_start(layer, held, 3, 5, torch.Generator())
    dense = spread(held, places(layer, 50, 5), layer).double()
    u, s, vh = torch.linalg.svd(dense)
    best = (u[:, :3] * s[:3]) @ vh[:3]
    found = start.left.double() @ start.right.double()
    assert start.width == 3
    assert float((found - best).norm()) < 1e-5 * float(best.norm())
    assert certificate.error == pytest.approx(float(s[3:].norm()), rel=1e-4)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_begins_where_the_stage_ended(name: str, tmp_path: Path) -> None:
    """After each round the rule has learned the best of D that it can hold; after the last, D goes
    and adapters are sent as after any warm start."""
    made, rule = stage(tmp_path, name), make_rule(name)
    state = begun(made, name)
    rounds = [state]
    while made.goes_on(state):
        state = played(made, state)
        rounds.append(state)
    assert [x.round for x in rounds] == [0, 1, 2]
    ranks = rule.ranks_for(SPEC, SPEC.highest)
    held = weights_of(rounds[1])
    learned = rule.learned(rounds[1])
    for layer in LAYERS:
        dense = spread(held[layer.name], places(layer, len(held[layer.name]), mask(made)), layer)
        s = torch.linalg.svdvals(dense.double())
        kept = learned[layer.name].dense().double()
        left = float((dense - kept).norm())
        best, worst = (float(s[r[layer.name] :].norm()) for r in (SPEC.highest, ranks))
        assert best * (1 - 1e-4) <= left <= worst * (1 + 1e-4)
    assert all(HELD not in layer for layer in rounds[2].layers.values())
    # The second round has changed each weight once more by as much.
    twice = rule.learned(rounds[2])
    for layer in LAYERS:
        one, two = learned[layer.name].dense(), twice[layer.name].dense()
        assert float((2 * one - two).norm()) < 1e-3 * float(two.norm())
    send(rule, rounds[2])


def weights_of(state: State) -> Mapping[str, Tensor]:
    return {x.name: state.layers[x.name][HELD] for x in LAYERS}


def mask(made: SparseStage) -> int:
    return made.send(begun(made), STORE).jobs[0].mask


def send(rule: Rule, state: State) -> None:
    for client in RANKS:
        ranks = rule.ranks_for(SPEC, STORE.ranks[client])
        give = partial(rule.send, state, ranks, torch.Generator(), client)
        require_sent(rule, give, SPEC, ranks, client, 3)


def test_what_comes_late_twice_or_wrong_is_a_failure_and_changes_nothing(tmp_path: Path) -> None:
    made = stage(tmp_path)
    state = begun(made)
    asked = made.send(state, STORE)
    jobs = {job.client: job for job in asked.jobs}
    short = to_bytes(values_payload({x: torch.ones(2) for x in jobs["b"].trained}))
    good, wrong = reply(jobs["a"]), reply(jobs["b"], payload=short)
    scored = reply(jobs["c"], score=ClientScore("c", "", 1, {"loss": 1.0}, {"loss": 1.0}))
    came = collected(made, asked, [good, good, wrong, scored])
    assert list(came.replies) == ["a"]
    told = "; ".join(failure.reason for failure in came.failures)
    for words in ("not open for this client", "has (2,) values", "the score has a value by 'loss'"):
        assert words in told
    assert came.bytes_up == sum(len(x.payload) for x in (good, wrong, scored))
    passed = made.weigh(state, asked, came)
    assert passed.weights == {"a": 1.0}
    after = made.combine(state, asked, passed)[0].layers["x.q_proj"][HELD]
    assert after.count_nonzero() == weights_for(LAYERS[0], 1)
    assert set(after.tolist()) == {0.0, 1.0}


def test_an_update_far_beyond_the_others_is_left_out(tmp_path: Path) -> None:
    made = stage(tmp_path)
    state = begun(made)
    asked = made.send(state, STORE)
    sizes = {"a": 1.0, "b": 1.0, "c": 1e6}
    came = collected(made, asked, [reply(job, sizes[job.client]) for job in asked.jobs])
    (failure,) = quarantined(came, {job.client: job.id for job in asked.jobs}, 10.0)
    assert (failure.client, failure.kind) == ("c", "quarantine")
    passed = made.weigh(state, asked, came)
    assert passed.weights == {"a": 0.25, "b": 0.75}


def test_norms_and_ranks_are_those_that_rules_weigh_by(tmp_path: Path) -> None:
    made = stage(tmp_path)
    asked = made.send(begun(made), STORE)
    came = collected(made, asked, [reply(job) for job in asked.jobs])
    for client, summary in came.summaries.items():
        numbers = sum(weights_for(x, RANKS[client]) for x in LAYERS)
        assert summary.norm == pytest.approx(RANKS[client] * math.sqrt(numbers))
        assert summary.rank == RANKS[client]
