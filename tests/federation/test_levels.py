"""Where clients decide: no few of them can say which round is best, or when a run ends."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Evaluate, Job, Outcome, Scored
from flexlora.evaluation import ClientScore
from flexlora.federation import Setup, prepare, resume, run
from flexlora.federation.levels import figure, levels_after, told_by
from flexlora.federation.outcomes import LARGEST
from flexlora.runs.events import Failed
from flexlora.runs.progress import Progress
from flexlora.runs.run_directory import Run
from small import small
from stops import StopsAfter

# --- the figure ----------------------------------------------------------------------------------


def play(rounds: Sequence[dict[str, float]]) -> tuple[list[float | None], Progress]:
    """The figures of rounds of scores by client, and how it stands after them."""
    figures, progress = [], Progress()
    for round, told in enumerate(rounds, 1):
        found = figure(told, progress.levels, progress.best)
        figures.append(found)
        if found is not None:
            progress = progress.after(round, found)
        levels = levels_after(told, progress.levels, found, best=progress.best_round == round)
        progress = replace(progress, levels=levels)
    return figures, progress


def test_the_figure_by_hand() -> None:
    """The first is the median. Then each is held to itself: c stands 5 above, and is 1 better."""
    first = {"a": 1.0, "b": 2.0, "c": 7.0}
    figures, progress = play([first, {"b": 1.5, "c": 6.0}, {"a": 1.0}])
    assert figures == [2.0, 1.25, 2.0]
    assert progress.best_round == 2
    assert progress.levels == {"a": -1.0, "b": 0.25, "c": 4.75}


def test_easy_clients_alone_make_no_best_round() -> None:
    """Who is drawn to score does not decide: an easy client is held to how easy it is."""
    hard, easy = {"a": 4.0, "b": 4.2}, {"c": 1.0, "d": 1.2}
    figures, progress = play([hard | easy, {"c": 1.1, "d": 1.3}])
    assert progress.best_round == 1
    assert figures[1] == pytest.approx(statistics.median((hard | easy).values()) + 0.1)


def test_who_has_not_scored_before_has_no_vote() -> None:
    """However easy it is: c says that nothing changed, and the others are held to that."""
    figures, progress = play([{"a": 4.0, "b": 8.0, "c": 6.0}, {"c": 6.0, "d": 0.1, "e": 0.2}])
    assert figures == [6.0, 6.0]
    assert progress.best_round == 1
    assert (progress.levels["d"], progress.levels["e"]) == pytest.approx((-5.9, -5.8))
    figures, progress = play([{"a": 4.0}, {"b": 1.0}, {"b": 0.5}, {"a": 3.5}])
    assert figures == [4.0, 4.0, 3.5, 3.5]  # Nobody has scored both; then b has.
    assert progress.best_round == 3


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-9, 9), min_size=8), st.data())
def test_where_nothing_changes_no_round_is_better_whoever_is_drawn(
    own: dict[str, int], data: st.DataObject
) -> None:
    drawn = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)
    rounds = [{x: float(own[x]) for x in data.draw(drawn)} for _ in range(6)]
    figures, progress = play(rounds)
    assert figures == figures[:1] * 6
    assert (progress.best_round, progress.stale) == (1, 5)


def test_nobody_has_no_figure() -> None:
    assert figure({}, {"a": 1.0}, 2.0) is None
    assert levels_after({}, {"a": 1.0}, None, best=False) == {"a": 1.0}


def test_an_infinite_perplexity_is_told_as_the_farthest_and_what_is_no_number_not_at_all() -> None:
    scores = [
        ClientScore("a", "x", 1, {"perplexity": 1e5}),
        ClientScore("b", "x", 1, {"perplexity": 2.0}),
        ClientScore("c", "x", 1, {"loss": 2.0}),
    ]
    told = told_by(scores, "perplexity")
    assert set(told) == {"a", "b"}
    assert 1e307 < told["a"] < float("inf")
    assert figure(told, {}, math.inf) == pytest.approx(told["a"] / 2, rel=1e-6)


WHOLE = st.integers(-1000, 1000).map(float)  # Whose differences and halves are exact.
LIE = WHOLE | st.sampled_from([0.0, LARGEST, -LARGEST])


@given(st.data(), st.integers(1, 4))
def test_what_all_honest_clients_agree_on_is_decided_whatever_fewer_than_half_say(
    data: st.DataObject, liars: int
) -> None:
    names = [f"h{i}" for i in range(data.draw(st.integers(liars + 1, liars + 3)))]
    lying = [f"l{i}" for i in range(liars)]
    own = {name: data.draw(WHOLE) for name in names}
    steps = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=5))
    rounds, best = [own], 1
    since_best = 0.0
    for number, sign in enumerate(steps, 2):  # Relative to the best one, all better or all worse.
        by = {name: sign * data.draw(st.integers(1, 50)) for name in names}
        rounds.append({name: rounds[best - 1][name] + by[name] for name in names})
        if sign < 0:
            best = number
        since_best = 0.0 if sign < 0 else since_best + 1
    lies = [{name: data.draw(LIE) for name in lying} for _ in rounds]
    _, progress = play([told | lie for told, lie in zip(rounds, lies, strict=True)])
    assert progress.best_round == best
    assert progress.stale == since_best


@given(
    st.lists(WHOLE, min_size=3, max_size=9, unique=True),
    st.lists(LIE, min_size=1, max_size=4),
)
def test_liars_move_the_figure_no_farther_than_so_many_honest_clients(
    honest: list[float], lies: list[float]
) -> None:
    """The first figure, where all have level 0, lies between order statistics of the honest."""
    lies = lies[: (len(honest) - 1) // 2]
    told = {f"h{i}": x for i, x in enumerate(honest)} | {f"l{i}": x for i, x in enumerate(lies)}
    ranked, n, m = sorted(honest), len(told), len(lies)
    found = figure(told, {}, math.inf)
    assert found is not None
    assert ranked[max(0, (n - 1) // 2 - m)] <= found <= ranked[min(n // 2, len(honest) - 1)]


# --- a run with liars ----------------------------------------------------------------------------

BEST = 3
CURVE = (3.0, 2.5, 2.2, 2.3, 2.4, 2.5)
"""What honest clients' loss does: the third round is the best."""


def zero(_round: int) -> float:
    return 0.0


def worse_and_worse(round: int) -> float:
    """The first round is to be kept."""
    return float(round)


def huge(_round: int) -> float:
    return LARGEST


def alternating(round: int) -> float:
    return LARGEST if round % 2 == 0 else 0.0


class Lying(InProcess):
    """Trains; every fifth client's score is a lie, of as many examples as it is let."""

    lie: Callable[[int], float]

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            if isinstance(job, Evaluate):
                yield Scored(job.id, job.client, self._score(job))
            else:
                yield from super().exchange([job])

    def _score(self, job: Evaluate) -> ClientScore:
        number = int("".join(filter(str.isdigit, job.client)))
        liar = number % 5 == 0
        told = self.lie(job.round)
        noise = random.Random(f"{job.client} {job.round}").uniform(-0.02, 0.02)
        loss = told if liar else CURVE[job.round - 1] + number / 7 + noise
        return ClientScore(job.client, "x", 10**6 if liar else 1, {"loss": loss})


def config(**evaluation: Any) -> Any:
    return small(
        data={"train_tasks": 10},
        partition={"by": "iid", "clients": 10},
        training={"max_steps": 1},
        federation={"rounds": len(CURVE), "clients_per_round": 1, "patience": 2},
        evaluation={
            "decide_by": "clients",
            "on_clients": "global",
            "validation_examples": 0,
            "metrics": ["loss"],
            "metric": "loss",
            "unseen": False,
            "own_examples": 0,
            **evaluation,
        },
    )


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(config())


@pytest.fixture
def lie(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from flexlora.federation import engine

    made = type("Made", (Lying,), {"lie": staticmethod(request.param)})
    monkeypatch.setattr(engine, "InProcess", made)


@pytest.mark.parametrize("lie", [zero, worse_and_worse, huge, alternating], indirect=True)
@pytest.mark.usefixtures("lie")
def test_a_fifth_of_liars_chooses_neither_the_best_round_nor_when_the_run_ends(
    setup: Setup, tmp_path: Path
) -> None:
    """Patience of two rounds without gain: the honest best, and two more."""
    done = run(config(), tmp_path / "r", setup=setup)
    assert (done.rounds, done.scored_round) == (BEST + 2, BEST)
    assert Run.open(done.folder).events(Failed) == []


@pytest.mark.parametrize("lie", [alternating], indirect=True)
@pytest.mark.usefixtures("lie")
def test_levels_live_through_stop_and_resume(setup: Setup, tmp_path: Path) -> None:
    """Of scores by a share of the clients, whose levels differ: what a resume must not forget."""
    part = config(clients=0.5)
    whole = Run.open(run(part, tmp_path / "whole", setup=setup).folder)

    with pytest.raises(KeyboardInterrupt):
        run(part, tmp_path / "cut", setup=setup, observer=StopsAfter(2))
    cut = Run.open(resume(tmp_path / "cut").folder)
    figures = [
        [r.on_clients.decisive for r in found.records() if r.on_clients is not None]
        for found in (whole, cut)
    ]
    assert figures[0] == figures[1]
    assert all(x is not None for x in figures[0])
    assert all(a != b for a, b in pairwise(figures[0]))
