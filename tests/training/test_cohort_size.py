"""How many clients train at once: what fits and pays, and nothing is left of the trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel
from flexlora.training import CohortSize, Trained, Visit, choose_cohort_size, train_cohort
from models.oracle import encoded, random_model
from training.clients import ADAMW, mixed

PLENTY = 10**12
UNKNOWN = "this system does not tell the peak of a process"


def some(ours: AdaptedModel, clients: int) -> list[Visit]:
    """Many small clients, which gain by sharing a pass; the last has the longest examples."""
    return [
        Visit(
            mixed(ours, 4, seed=k),
            encoded(6, seed=k, longest=40 if k == clients - 1 else 12),
            replace(ADAMW, max_steps=3, dropout=0.1),
            torch.Generator().manual_seed(k),
        )
        for k in range(clients)
    ]


class Machine(AdaptedModel):
    """A model on a machine with room for `fits` clients, where `cost` says how long a few take."""

    fits = 99
    most = 0
    last = 0
    seconds = 0.0

    @staticmethod
    def cost(_: int) -> float:
        """As if nothing counted but the number of passes."""
        return 0.1

    def start(self, adapters: Any, **options: Any) -> Any:
        self.last = len(adapters)
        self.most = max(self.most, len(adapters))
        self.seconds += self.cost(len(adapters))
        if len(adapters) > self.fits:
            torch.empty(2**60)  # torch's own error.
        return super().start(adapters, **options)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Its clock is the one that counts: no choice in these tests depends on who else computes."""
    made = Machine(random_model("llama"))
    clock = SimpleNamespace(perf_counter=lambda: made.seconds)
    monkeypatch.setattr("flexlora.training.cohort_size.time", clock)
    return made


def tried(chosen: CohortSize) -> dict[int, Any]:
    return {x.clients: pytest.approx(x.speed) for x in chosen.tried}


@pytest.mark.parametrize(
    ("clients", "wanted"), [(1, {1: 1}), (3, {1: 1, 2: 2}), (8, {1: 1, 2: 2, 4: 4, 8: 8})]
)
def test_it_doubles_as_long_as_it_pays_and_clients_are_left(
    machine: Machine, clients: int, wanted: dict[int, float]
) -> None:
    chosen = choose_cohort_size(machine, some(machine, clients), budget_bytes=PLENTY)
    assert tried(chosen) == wanted
    assert chosen.clients == max(wanted)


# Seconds of so many clients together → the number chosen, and the speeds of all that were tried.
COSTS: dict[str, tuple[Callable[[int], float], int, dict[int, float]]] = {
    "one fills the machine": (lambda n: 0.1 * n, 1, {1: 1, 2: 1, 4: 1}),
    "two are hardly faster": (
        {1: 0.1, 2: 0.184, 4: 0.4, 8: 0.8}.__getitem__,
        1,
        {1: 1, 2: 2 / 1.84, 4: 1, 8: 1},
    ),
    "four are slower": (
        {1: 0.1, 2: 0.1, 4: 0.3, 8: 0.6}.__getitem__,
        2,
        {1: 1, 2: 2, 4: 4 / 3, 8: 4 / 3},
    ),
    "four are hardly faster": (
        {1: 0.1, 2: 0.1, 4: 0.196, 8: 0.4}.__getitem__,
        4,
        {1: 1, 2: 2, 4: 4 / 1.96, 8: 2},
    ),
    "four had bad luck": (
        {1: 0.1, 2: 0.1, 4: 0.3, 8: 0.2}.__getitem__,
        8,
        {1: 1, 2: 2, 4: 4 / 3, 8: 4},
    ),
    "two take long": ({1: 3.0, 2: 2.0}.__getitem__, 2, {1: 1, 2: 3}),
}


@pytest.mark.parametrize("case", COSTS)
def test_the_fastest_is_chosen_where_it_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, case: str
) -> None:
    cost, clients, wanted = COSTS[case]
    monkeypatch.setattr(machine, "cost", cost)
    chosen = choose_cohort_size(machine, some(machine, 8), budget_bytes=PLENTY)
    assert tried(chosen) == wanted
    assert chosen.clients == clients


def test_without_room_for_two_nothing_larger_is_tried(machine: Machine) -> None:
    chosen = choose_cohort_size(machine, some(machine, 8), budget_bytes=1)
    if chosen.tried[0].peak_bytes is None:
        pytest.skip(UNKNOWN)
    assert chosen.clients == 1
    assert tried(chosen) == {1: 1}
    assert machine.most == 1


@pytest.mark.parametrize(
    ("megabytes", "budget", "wanted"),
    [
        ({1: 10, 2: 20, 4: 40}, 10, [1]),
        ({1: 10, 2: 20, 4: 40}, 20, [1, 2]),
        ({1: 10, 2: 20, 4: 40}, 79, [1, 2, 4]),
        # More than was foreseen, as where the longest examples come together.
        ({1: 10, 2: 25, 4: 40}, 20, [1]),
        # What is not known does not count.
        ({1: None, 2: None, 4: None, 8: None}, 1, [1, 2, 4, 8]),
    ],
)
def test_what_is_chosen_has_taken_no_more_than_its_budget(
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
    megabytes: dict[int, int | None],
    budget: int,
    wanted: list[int],
) -> None:
    def peak(work: Callable[[], object], _: torch.device) -> int | None:
        work()
        found = megabytes[machine.last]
        return None if found is None else found * 10**6

    monkeypatch.setattr("flexlora.training.cohort_size.peak_bytes", peak)
    chosen = choose_cohort_size(machine, some(machine, 8), budget_bytes=budget * 10**6)
    assert [x.clients for x in chosen.tried] == wanted
    assert chosen.clients == wanted[-1]


def test_memory_is_that_of_the_longest_examples_and_no_less_than_what_is_trained(
    machine: Machine,
) -> None:
    """The longest examples are the last client's; its adapter is there twice, with gradients."""
    lengths: list[int] = []
    machine.model.register_forward_pre_hook(
        lambda *given: lengths.append(given[-1]["input_ids"].numel()), with_kwargs=True
    )
    given = some(machine, 2)
    train_cohort(machine, given)
    lengths.clear()
    chosen = choose_cohort_size(machine, given, budget_bytes=1)
    if chosen.tried[0].peak_bytes is None:
        pytest.skip(UNKNOWN)
    longest = sorted(len(x.prompt) + len(x.response) for x in given[1].data)[-2:]
    assert max(lengths) == sum(longest)
    numbers = sum(f.a.numel() + f.b.numel() for f in given[1].adapter.values())
    assert chosen.tried[0].peak_bytes >= 8 * numbers > 0


@pytest.mark.parametrize("fits", [1, 2, 5])
def test_a_number_that_runs_out_of_memory_is_not_chosen(machine: Machine, fits: int) -> None:
    machine.fits = fits
    chosen = choose_cohort_size(machine, some(machine, 8), budget_bytes=PLENTY)
    assert tried(chosen) == {clients: clients for clients in (1, 2, 4) if clients <= fits}
    assert chosen.clients == max(tried(chosen))
    assert machine.most == 2 * chosen.clients


def test_one_client_without_room_is_one_at_a_time(machine: Machine) -> None:
    """What becomes of it is said in its round."""
    machine.fits = 0
    given = some(machine, 4)
    assert choose_cohort_size(machine, given, budget_bytes=PLENTY) == CohortSize(1, ())


def test_a_fault_of_ours_is_told() -> None:
    class Broken(AdaptedModel):
        def start(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("shapes cannot be multiplied")

    ours = Broken(random_model("llama"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        choose_cohort_size(ours, some(ours, 2), budget_bytes=PLENTY)


def test_visits_that_cannot_be_trained_are_no_hindrance(machine: Machine) -> None:
    given = some(machine, 2) + [replace(visit, data=()) for visit in some(machine, 2)]
    assert choose_cohort_size(machine, given, budget_bytes=PLENTY).clients == 2
    assert choose_cohort_size(machine, [], budget_bytes=PLENTY).clients == 1


@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize("fits", [2, 99])
def test_nothing_is_left_of_the_trial(machine: Machine, origin: bool, fits: int) -> None:
    """Training after it is training without it, bit for bit, though memory ran out in it."""
    ours = machine
    layer = ours.layers[0]
    draw = torch.Generator().manual_seed(5)
    delta = LowRank(
        torch.randn(layer.m, 1, generator=draw), torch.randn(1, layer.n, generator=draw)
    )
    ours.set_delta({layer.name: delta})
    wanted = train_cohort(ours, some(ours, 4), origin=origin)
    weights = {name: x.clone() for name, x in ours.model.state_dict().items()}
    before = logits(ours)

    given = some(ours, 4)
    states = [visit.generator.get_state() for visit in given]
    sent = [factors.b.clone() for visit in given for factors in visit.adapter.values()]
    ours.fits = fits
    choose_cohort_size(ours, given, origin=origin, budget_bytes=PLENTY)
    ours.fits = 99

    assert torch.equal(logits(ours), before)
    after = ours.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    now = [factors.b for visit in given for factors in visit.adapter.values()]
    assert all(torch.equal(one, other) for one, other in zip(now, sent, strict=True))
    assert all(
        torch.equal(visit.generator.get_state(), state)
        for visit, state in zip(given, states, strict=True)
    )
    found = train_cohort(ours, given, origin=origin)
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        assert (one.loss, one.steps, one.tokens) == (other.loss, other.steps, other.tokens)
        for name, factors in one.adapter.items():
            assert torch.equal(factors.a, other.adapter[name].a)
            assert torch.equal(factors.b, other.adapter[name].b)


def logits(ours: AdaptedModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = ours(input_ids=torch.tensor([[3, 4, 5]])).logits
    return found


@pytest.mark.parametrize(("steps", "most"), [(1, 1), (20, 2)])
def test_few_steps_of_each_are_trained(machine: Machine, steps: int, most: int) -> None:
    given = [replace(x, recipe=replace(ADAMW, max_steps=steps)) for x in some(machine, 2)]
    train_cohort(machine, given)  # What is found out once is found out.
    passes: list[None] = []
    machine.model.register_forward_hook(lambda *_: passes.append(None))
    choose_cohort_size(machine, given[:1], budget_bytes=PLENTY)
    assert len(passes) == most + 1  # To begin with, and for its memory.
    passes.clear()
    choose_cohort_size(machine, given, budget_bytes=PLENTY)
    # Then for the memory of two; and three times each alone, and both together.
    assert len(passes) == most + 1 + 1 + 3 * 3 * most


def test_the_quickest_turns_are_compared(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    """Somebody else uses the machine in every second pass."""
    passes: list[None] = []

    def cost(clients: int) -> float:
        passes.append(None)
        return 0.1 * clients * (3.0 if len(passes) % 2 else 1.0)

    monkeypatch.setattr(machine, "cost", cost)
    chosen = choose_cohort_size(machine, some(machine, 2), budget_bytes=PLENTY)
    assert tried(chosen) == {1: 1, 2: 1}
