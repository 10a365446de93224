"""A whole run: prepare, play the rounds, score the unseen clients, leave it all in a folder."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flexlora.config.config import Config
from flexlora.config.settings import final_settings, rule_of, screens_of
from flexlora.engines.memories import Memories
from flexlora.errors import ConfigError, ModelError, RunError
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.federation.at_once import choose, note_halved, resolved
from flexlora.federation.at_once import read as at_once_of
from flexlora.federation.collector import Plain
from flexlora.federation.engine import (
    make_engine,
    require_begun,
    spare_memory,
    threads_of,
    workers_of,
)
from flexlora.federation.loop import Federation, Observer, Record
from flexlora.federation.observers import Observers, Silent
from flexlora.federation.setup import Setup, prepare
from flexlora.federation.starts import Start, warm_start
from flexlora.federation.streams import Streams
from flexlora.federation.trackers import Trackers, require_trackers
from flexlora.models import devices, find_device
from flexlora.rules import Rule, State
from flexlora.runs.deciding import decide
from flexlora.runs.readout import load_state
from flexlora.runs.results import Result, Row
from flexlora.runs.run_directory import Run
from flexlora.runs.store import ClientStore
from flexlora.training import CohortSize

MEMORY = "memory"  # Of the clients, in a run's folder; only where a rule has them remember.


def run(
    config: Config,
    folder: Path | str | None = None,
    *,
    observer: Observer | None = None,
    setup: Setup | None = None,
    start: Start | None = None,
    at_once: CohortSize | None = None,
) -> Result:
    """Run one federation and score it on the unseen clients.

    folder: the run directory to make (default: a new one under `run.out`); setup: a `prepare`d
    setup to reuse when several rules are compared on the same data; its config may differ in
    [rule], [screens] and [run] alone; start: what to begin from, if not from what the config says;
    at_once: clients to train at once, if not as the config says.
    Raises InputErrors before anything is written, RoundError if no client of a round replies.
    """
    require_begun()
    spare_memory(config)
    require_trackers(config.run.trackers)
    rule = rule_of(config.rule)
    screens_of(config.screens)  # A wrong one is told before the data is read.
    if setup is None:
        setup = prepare(config)
    _require_same_setting(config, setup.config)
    start = start or warm_start(config, rule, setup)
    at_once = at_once or choose(config, setup, rule)
    made = Run.create(
        config,
        folder,
        resolved=_resolved(config, setup) | resolved(at_once),
        data=setup.describe(),
        parent=start.parent if start else None,
        start=start.checkpoint() if start else None,
    )
    if rule.traits.memory and start and start.state.round:
        Memories(made.folder / MEMORY).take_over(
            Path(start.parent["path"]) / MEMORY, start.state.round
        )
    return _play(made, config, rule, setup, observer or Silent())


def resume(folder: Path | str, *, observer: Observer | None = None) -> Result:
    """Go on after any stop: the same bits, in process on the CPU, as if there had been none.

    The model runs where it ran. Raises RunError for a folder that is no run, for data that has
    changed since, and on a machine without that device.
    """
    opened = Run.open(folder)
    config = opened.config
    spare_memory(config)
    rule = rule_of(config.rule)
    with opened.undamaged("resolved.toml"):
        threads, device = int(opened.resolved["threads"]), str(opened.resolved["device"])
    _require_here(opened, device)
    setup = prepare(config, threads=threads, device=device)
    _require_unchanged(opened, setup)
    return _play(opened, config, rule, setup, observer or Silent())


def _require_here(opened: Run, device: str) -> None:
    try:
        find_device(device)
    except ModelError as error:
        raise RunError(
            f"{opened.folder} ran on {device}, and this machine has {', '.join(devices())}; resume "
            f"it where there is one, or go on here with flexlora continue {opened.folder} "
            "--set model.device=auto"
        ) from error


def _require_unchanged(opened: Run, setup: Setup) -> None:
    now = setup.describe()
    for key, thing in (
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


def _require_same_setting(config: Config, prepared: Config) -> None:
    if config.run.threads not in (None, prepared.run.threads):
        raise ConfigError("run.threads differs from that of the setup; prepare the config anew")
    for name in type(config).model_fields:
        apart = name in ("rule", "screens", "run")
        if not apart and getattr(config, name) != getattr(prepared, name):
            raise ConfigError(
                f"[{name}] of the config differs from that of the setup; prepare the config anew"
            )


def _play(opened: Run, config: Config, rule: Rule, setup: Setup, observer: Observer) -> Result:
    streams = Streams(config.federation.seed)
    trackers = Trackers(config.run.trackers, observer.noted)
    observer = Observers(observer, trackers)

    def validate(state: State) -> Record:
        scores = setup.validate(rule.learned(state))
        return {} if scores is None else scores.mean().to_json()

    ranks = {name: dict(found) for name, found in setup.ranks.items()}  # One for all of a type.
    store = ClientStore(dict(setup.types), {c: ranks[name] for c, name in setup.types.items()})

    def halved(clients: int) -> None:
        observer.noted(note_halved(opened, federation.state.round + 1, clients))

    engine = make_engine(
        config,
        setup,
        rule,
        cohort=at_once_of(opened),
        halved=halved,
        memory=opened.folder / MEMORY,
    )
    federation = Federation(
        rule=rule,
        state=rule.init(setup.spec, streams.generator("init")),
        store=store,
        schedule=setup.schedule(),
        streams=streams,
        transport=engine,
        collector=Plain(opened.spool, rule),
        screens=screens_of(config.screens),
        run=opened,
        validate=validate,
        decide=partial(decide, config),
        observer=observer,
    )
    with opened.locked(), closing(trackers), closing(engine):
        federation.restore()
        engine.cohort = at_once_of(opened)
        observer.started(opened)
        for _ in federation.rounds():
            pass
        result = _score(opened, rule, setup, federation, observer)
        opened.write_results(result.to_json())
        observer.ended(result)
    return result


def _score(
    opened: Run, rule: Rule, setup: Setup, federation: Federation, observer: Observer
) -> Result:
    """The final evaluation, the only one that touches the unseen clients."""
    best = federation.progress.best_round
    state = load_state(opened, best) if best else federation.state
    if not setup.config.evaluation.unseen:
        return Result.of(opened.folder, rule.name, state.round, [], opened.read_metrics())
    observer.scoring("base")
    rows = [Row("base", "", *setup.score_base())]
    if opened.start_round is not None:
        observer.scoring("start")
        began = rule.learned(load_state(opened, opened.start_round))
        rows.append(Row("start", "full", *setup.score(began)))
    observer.scoring("full")
    rows.append(Row("full", "full", *setup.score(rule.learned(state))))
    if setup.config.evaluation.types_at_end and rule.traits.mixed_ranks:
        for name, ranks in setup.ranks.items():
            observer.scoring(name)
            update = {n: f.product() for n, f in rule.readout(state, ranks).items()}
            rows.append(Row(name, str(setup.mix.types[name]), *setup.score(update)))
    return Result.of(opened.folder, rule.name, state.round, rows, opened.read_metrics())


def _resolved(config: Config, setup: Setup) -> dict[str, Any]:
    """What was derived rather than written in the config."""
    counts = {name: sum(t == name for t in setup.types.values()) for name in setup.ranks}
    return {
        "device": str(setup.model.device),
        "threads": torch.get_num_threads(),
        "workers": workers_of(config, setup),
        "worker_threads": threads_of(config, setup),
        "clients_per_round": setup.schedule().clients,
        "layers": len(setup.model.layers),
        "fan_in_fan_out": setup.model.fan_in_fan_out,
        "clients": counts,
        "ranks": {name: str(setup.mix.types[name]) for name in setup.ranks},
        # Of metrics out of files, too: nobody who reads the run has to have those.
        "higher_is_better": {
            metric.name: metric.higher_is_better
            for metric in resolve_metrics(final_settings(setup.config).metrics)
        },
    }
