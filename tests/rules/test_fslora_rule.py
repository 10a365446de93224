"""FSLoRA: a random choice of columns, the identity in expectation."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Adapter, Factors
from flexlora.rules import ClientView, State
from flexlora.rules.fslora import FSLoRA
from reference import Round, assert_close, at, generator, product
from rules.by_hand import NAME, spec

SPEC = spec(1, 2, 4, m=4, n=4, alpha=8.0)
RULE = FSLoRA()


def whole() -> State:
    """B = A = I: what a client is sent is S_k itself, times α/R = 2."""
    seed = RULE.init(SPEC, generator()).layers[NAME]["seed"]
    return State(SPEC, 0, {NAME: {"b": torch.eye(4), "a": torch.eye(4), "seed": seed}})


def sketch(client: str, rank: int, round: int) -> torch.Tensor:
    view, layer = ClientView(client, {NAME: rank}), at(SPEC, round=round)
    return product(RULE.send_layer(layer, whole().layers[NAME], view)) / 2.0


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_sketch_keeps_that_many_columns_and_is_the_identity_in_expectation(rank: int) -> None:
    drawn = [sketch("ann", rank, round) for round in range(1, 401)]
    for matrix in drawn:
        assert torch.equal(matrix, torch.diag(matrix.diagonal()))
        assert sorted(matrix.diagonal().tolist()) == [0.0] * (4 - rank) + [4.0 / rank] * rank
    mean = torch.stack(drawn).mean(dim=0).diagonal()
    # Four standard errors of the mean of 400; at rank 4 there are none.
    error = 4.0 * (4.0 / rank - 1.0) ** 0.5 / 20.0
    assert mean.tolist() == pytest.approx([1.0] * 4, abs=error + 1e-12)


def test_clients_and_rounds_draw_apart() -> None:
    choices = {
        tuple(sketch(client, 2, round).diagonal().tolist())
        for client in ("ann", "bob", "cyd")
        for round in range(1, 20)
    }
    assert len(choices) == 6  # All pairs of four.


def test_changes_are_added_in_their_own_columns_by_their_weights() -> None:
    cohort = {"ann": {NAME: 1}, "bob": {NAME: 2}}
    steps = {"ann": 4.0, "bob": 8.0}

    def train(client: str, given: Adapter) -> Adapter:
        f = given[NAME]
        return Adapter({NAME: Factors(f.b + steps[client], f.a - steps[client], f.scale)})

    round = Round(RULE, whole(), cohort, train, {"ann": 1, "bob": 3})
    moved_b, moved_a = torch.eye(4), torch.eye(4)
    chosen = set()
    for client, weight in (("ann", 0.25), ("bob", 0.75)):
        for row in round.sent[client][NAME].a:
            j = int(row.argmax())
            moved_b[:, j] += weight * steps[client]
            moved_a[j] -= weight * steps[client]
            chosen.add(j)
    state = round.combined().layers[NAME]
    assert_close(state["b"], moved_b, 1e-6)
    assert_close(state["a"], moved_a, 1e-6)
    for j in set(range(4)) - chosen:  # Nobody chose them.
        assert torch.equal(state["b"][:, j], torch.eye(4)[:, j])
        assert torch.equal(state["a"][j], torch.eye(4)[j])
