"""Chat templates that write the date: a run keeps the day it began on."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import Config
from flexlora.config.config_file import override, parse_config
from flexlora.errors import ConfigError
from flexlora.federation import Session, continue_run, prepare, resume, run, score_model
from flexlora.models import load_model
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small

TEMPLATE = (
    "{{ bos_token }}{{ 'Today: ' + strftime_now('%d %b %Y') }}{% for m in messages %}"
    "{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
FIRST, SECOND = date(2026, 3, 4), date(2026, 3, 5)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("dated")
    base = load_model("tiny")
    base.tokenizer.chat_template = TEMPLATE
    base.model.save_pretrained(folder)  # type: ignore[operator]
    base.tokenizer.save_pretrained(folder)
    return small(model={"name": str(folder), "prompt": "chat"}, federation={"rounds": 2})


def changed(config: Config, *settings: str) -> Config:
    return parse_config(override(config.document(), settings))


class Clock:
    """Sets the day that it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def set(self, day: date) -> None:
        class Fixed(date):
            @classmethod
            def today(cls) -> Any:
                return day

        self._patch.setattr("flexlora.federation.data.date", Fixed)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(monkeypatch)
    clock.set(FIRST)
    return clock


def test_a_run_goes_on_on_another_day(config: Config, clock: Clock, tmp_path: Path) -> None:
    """Resumed, or continued with more rounds, it equals a run that ended on its first day."""
    whole = run(config, tmp_path / "whole").folder
    assert Run.open(whole).resolved["date"] == "2026-03-04"
    one = run(changed(config, "federation.rounds=1"), tmp_path / "one").folder
    stopped = tmp_path / "stopped"
    stop_after_a_round(config, stopped)
    clock.set(SECOND)
    assert_same_run(resume(stopped).folder, whole)
    more = continue_run(one, {"federation": {"rounds": 2}}, tmp_path / "more").folder
    assert Run.open(more).resolved["date"] == "2026-03-04"
    assert (
        Run.open(more).data["encoding_fingerprint"] == Run.open(whole).data["encoding_fingerprint"]
    )
    assert Run.open(more).records()[-1].train_loss == Run.open(whole).records()[-1].train_loss


def stop_after_a_round(config: Config, folder: Path) -> None:
    class Stop:
        def told(self, event: object) -> None:
            if type(event).__name__ == "RoundEnded":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, folder, observer=Stop())


def test_another_day_is_another_prompt_unless_the_config_says_the_day(
    config: Config, clock: Clock
) -> None:
    told = changed(config, 'model.date="2026-03-04"')
    first = prepare(config)
    clock.set(SECOND)
    second, said = prepare(config), prepare(told)
    prints = [setup.examples.encoding_fingerprint() for setup in (first, second, said)]
    assert prints[0] != prints[1]
    assert prints[0] == prints[2]
    assert prepare(config, like=first).examples is first.examples


def test_the_day_is_said_before_anything_trains(config: Config) -> None:
    (note,) = Session.of(config).preview().setup.examples.notes
    assert note == (
        "the chat template writes the date, 2026-03-04, which this run keeps; set model.date to "
        "have it on any day"
    )
    assert not prepare(changed(config, "model.date=2026-03-04")).examples.notes


def test_scores_are_made_on_the_configs_day(config: Config, clock: Clock) -> None:
    losses = []
    for day, settings in ((FIRST, []), (SECOND, []), (SECOND, ["model.date=2026-03-04"])):
        clock.set(day)
        scores = score_model(changed(config, 'evaluation.metrics=["loss"]', *settings))
        losses.append(scores.mean()["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == losses[2]


def test_a_run_that_is_told_no_date_keeps_none(tmp_path: Path) -> None:
    folder = run(small(federation={"rounds": 1}), tmp_path / "r").folder
    assert "date" not in Run.open(folder).resolved


@pytest.mark.parametrize("day", ["yesterday", "2026-02-30", "04.03.2026"])
def test_what_is_no_day_is_refused(day: str) -> None:
    with pytest.raises(ConfigError, match=f"model.date: '{day}' is no day; write it as 2026-11-28"):
        small(model={"date": day})
