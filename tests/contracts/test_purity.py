"""Nothing is changed in place, and all randomness comes from the generator given."""

from __future__ import annotations

import torch

from contracts.cases import HIGH, MIXED, begun, every, tensors_of, trained, uniform
from flexlora.rules import Rule
from reference import Round, generator, play, random_training


@every()
def test_no_input_is_changed_in_place(rule: Rule) -> None:
    state = trained(rule)
    round = Round(rule, state, MIXED, random_training(3), seed=3)
    remembered = [tensor for own in round.remembered.values() for tensor in own.values()]
    held = [*tensors_of(state, *round.sent.values(), *round.replies.values()), *remembered]
    copies = [tensor.clone() for tensor in held]
    round.combined()
    rule.readout(state, uniform(3))
    rule.send(state, rule.ranks_for(state.spec, uniform(3)), generator(1))
    live = {name: (f.b, f.a) for name, f in round.received["dan"].items()}
    rule.penalty(live, live)
    for client, received in round.received.items():
        memory = round.remembered[client]
        rule.receive(round.sent[client], memory)
        rule.encode(random_training(4)(client, received), received, memory)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(held, copies, strict=True))


@every()
def test_all_randomness_comes_from_the_generator(rule: Rule) -> None:
    def everything(seed: int) -> list[torch.Tensor]:
        start = begun(rule, seed=seed)
        state = play(rule, start, MIXED, random_training(1), seed)
        sent = rule.send(state, rule.ranks_for(state.spec, uniform(HIGH)), generator(seed))
        return list(tensors_of(start, state, sent))

    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    first = everything(5)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.manual_seed(2)
    assert all(torch.equal(x, y) for x, y in zip(first, everything(5), strict=True))
    other = everything(6)
    same = all(torch.equal(x, y) for x, y in zip(first, other, strict=True))
    assert same == hasattr(rule, "seed")  # Both ends draw from that, and from nothing else.


@every()
def test_training_may_be_penalised_but_never_with_nonsense(rule: Rule) -> None:
    """At the start (b = 0) and later, the penalty and its gradient are finite, the value ≥ 0."""
    for state in (begun(rule), trained(rule)):
        sent = rule.send(state, rule.ranks_for(state.spec, uniform(HIGH)), generator())
        received = rule.receive(sent, {})
        live = {
            name: (f.b.clone().requires_grad_(), f.a.clone().requires_grad_())
            for name, f in received.items()
        }
        penalty = rule.penalty(live, {name: (f.b, f.a) for name, f in received.items()})
        if penalty is None:
            continue
        assert float(penalty.detach()) >= 0.0
        penalty.backward()
        for pair in live.values():
            assert all(bool(torch.isfinite(x.grad).all()) for x in pair if x.grad is not None)
