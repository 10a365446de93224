"""What a run notes of its setup, and what has to be as it was when it is resumed."""

from __future__ import annotations

from datetime import date
from typing import Any

from flexlora.config.settings import metric_fingerprints, rule_fingerprint
from flexlora.errors import ModelError, RunError
from flexlora.evaluation.metrics import get_metric, resolve_metrics
from flexlora.federation.data import asks_for_the_date
from flexlora.federation.engine import threads_of, workers_of
from flexlora.federation.setup import Setup
from flexlora.formats.json_fields import table, text, texts
from flexlora.models import devices, find_device
from flexlora.rules import Rule
from flexlora.runs.environment import changed
from flexlora.runs.readout import require_rule_as_played
from flexlora.runs.run_directory import CODE, Run
from flexlora.runs.store import ClientStore

_DAY = "date"  # In resolved.toml.


def described(setup: Setup) -> dict[str, Any]:
    """For data.json: what was read, and of which content the user's own files are.

    rule_fingerprint: "" for a rule without a file; metric_fingerprints: those that are in files.
    """
    return {
        **setup.describe(),
        "rule_fingerprint": rule_fingerprint(setup.config.rule),
        "metric_fingerprints": metric_fingerprints(setup.config),
    }


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
    metrics: dict[str, str] = now["metric_fingerprints"]
    with opened.undamaged("data.json"):
        known = table(opened.data, "metric_fingerprints")
        before = {name: text(known, name) for name in metrics}
    require_rule_as_played(opened)
    for name, is_now in metrics.items():
        cure = f"restore it (as it was, it lies in {opened.folder / CODE}), or start a new run"
        _require_same(opened, f"file of metric {name}", before[name], is_now, cure)
    for key, thing in (
        *([] if setup.fleet is None else [("device_fingerprint", "file of devices")]),
        ("fingerprint", "data"),
        ("model_fingerprint", "base model"),
        ("encoding_fingerprint", "tokenizer, prompt or partition"),
    ):
        with opened.undamaged("data.json"):
            was = text(opened.data, key)
        _require_same(opened, thing, was, now[key])
    if setup.fleet is not None:
        afforded = _afforded(setup)["afforded"]
        if afforded != opened.resolved.get("afforded"):
            raise RunError(
                f"the devices of {opened.folder} afford other ranks than when the run began; go on "
                "with the FlexLoRA and the torch that it began with, or start a new run"
            )


def _require_same(
    opened: Run, thing: str, was: str, now: str, cure: str = "restore it, or start a new run"
) -> None:
    if was != now:
        raise RunError(
            f"the {thing} of {opened.folder} has changed since the run began (fingerprint "
            f"{now[:12]}, was {was[:12]}); {cure}"
        )


def elsewhere(run: Run) -> str:
    """In what this process and machine are not those that the run began with; "" for in nothing."""
    differing = changed(run.environment)
    words = (f"{key} {now} (was {before})" for key, (before, now) in differing.items())
    return f"goes on with {', '.join(words)}: numbers may round otherwise" if differing else ""


def day_of(run: Run) -> date | None:
    """The day that the run's chats were told; None where nothing depends on it."""
    resolved = run.resolved
    return date.fromisoformat(resolved[_DAY]) if _DAY in resolved else None


def types_of(run: Run) -> dict[str, str]:
    """Client → type, as its last checkpoint has them; empty before the first one. Of a run with
    devices, client → device: who has ranks of its own by name has a device all the same."""
    if devices := devices_of(run):
        return devices
    store = run.last_meta().get("store")
    with run.undamaged("checkpoints"):
        return {} if store is None else ClientStore.from_json(store).types


def devices_of(run: Run) -> dict[str, str]:
    """Client → class of devices, as the run dealt them; empty for a run without devices."""
    with run.undamaged("data.json"):
        classes = table(run.data, "devices") if "devices" in run.data else {}
        return {c: name for name in classes for c in texts(table(classes, name), "clients")}


def _day(setup: Setup) -> dict[str, str]:
    """Only where something depends on it."""
    asked = asks_for_the_date(setup.config, setup.model)
    return {_DAY: setup.ground.today.isoformat()} if asked else {}


def _afforded(setup: Setup) -> dict[str, Any]:
    """What each class of devices affords, pattern by pattern: what reads the run has no devices."""
    if setup.fleet is None:
        return {}
    return {"afforded": {name: dict(x.patterns) for name, x in setup.fleet.afforded.items()}}


def derived(setup: Setup, rule: Rule) -> dict[str, Any]:
    """What was derived rather than written in the config; ranks: as they are trained."""
    roster = setup.roster
    return {
        "device": str(setup.model.device),
        "threads": setup.threads,
        "workers": workers_of(setup),
        "worker_threads": threads_of(setup),
        "clients_per_round": setup.settings.schedule.clients,
        **_day(setup),
        "layers": len(setup.model.layers),
        "fan_in_fan_out": setup.model.fan_in_fan_out,
        "clients": roster.counts(),
        "ranks": setup.trained_ranks(rule),
        **_afforded(setup),
        # Of metrics out of files, too: nobody who reads the run has to have those.
        "metric": get_metric(setup.config.evaluation.metric).name,
        "higher_is_better": {
            metric.name: metric.higher_is_better
            for metric in resolve_metrics(setup.settings.final.metrics)
        },
    }
