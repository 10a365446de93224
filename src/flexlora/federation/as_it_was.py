"""What a run notes of its setup, and what has to be as it was when it is resumed."""

from __future__ import annotations

from datetime import date
from typing import Any

import torch

from flexlora.config.settings import rule_fingerprint
from flexlora.errors import ModelError, RunError
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.federation.data import asks_for_the_date
from flexlora.federation.engine import threads_of, workers_of
from flexlora.federation.setup import Setup
from flexlora.models import devices, find_device
from flexlora.runs.run_directory import Run

_DAY = "date"  # In resolved.toml.


def described(setup: Setup) -> dict[str, Any]:
    """For data.json: what was read, and of which content the rule's file is ("" without one)."""
    return {**setup.describe(), "rule_fingerprint": rule_fingerprint(setup.config.rule)}


def require_here(opened: Run, device: str) -> None:
    try:
        find_device(device)
    except ModelError as error:
        raise RunError(
            f"{opened.folder} ran on {device}, and this machine has {', '.join(devices())}; resume "
            f"it where there is one, or go on here with flexlora continue {opened.folder} "
            "--set model.device=auto"
        ) from error


def require_unchanged(opened: Run, setup: Setup) -> None:
    now = described(setup)
    for key, thing in (
        ("rule_fingerprint", "file of the rule"),
        ("fingerprint", "data"),
        ("model_fingerprint", "base model"),
        ("encoding_fingerprint", "tokenizer, prompt or partition"),
    ):
        with opened.undamaged("data.json"):
            was = str(opened.data[key])
        if was != now[key]:
            raise RunError(
                f"the {thing} of {opened.folder} has changed since the run began (fingerprint "
                f"{now[key][:12]}, was {was[:12]}); restore it, or start a new run"
            )


def day_of(run: Run) -> date | None:
    """The day that the run's chats were told; None where nothing depends on it."""
    with run.undamaged("resolved.toml"):
        return date.fromisoformat(run.resolved[_DAY]) if _DAY in run.resolved else None


def _day(setup: Setup) -> dict[str, str]:
    """Only where something depends on it."""
    asked = asks_for_the_date(setup.config, setup.model)
    return {_DAY: setup.ground.today.isoformat()} if asked else {}


def derived(setup: Setup) -> dict[str, Any]:
    """What was derived rather than written in the config."""
    roster = setup.roster
    return {
        "device": str(setup.model.device),
        "threads": torch.get_num_threads(),
        "workers": workers_of(setup),
        "worker_threads": threads_of(setup),
        "clients_per_round": setup.settings.schedule.clients,
        **_day(setup),
        "layers": len(setup.model.layers),
        "fan_in_fan_out": setup.model.fan_in_fan_out,
        "clients": roster.counts(),
        "ranks": {name: str(roster.mix.types[name]) for name in roster.ranks},
        # Of metrics out of files, too: nobody who reads the run has to have those.
        "higher_is_better": {
            metric.name: metric.higher_is_better
            for metric in resolve_metrics(setup.settings.final.metrics)
        },
    }
