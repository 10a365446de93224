"""A whole run: prepare, play the rounds, score the unseen clients, leave it all in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flexlora.adapters import Adapter, Ranks
from flexlora.errors import ConfigError, RankError, RunError
from flexlora.federation.checkpoint import unpack
from flexlora.federation.config import Config
from flexlora.federation.jobs import Failure, Reply
from flexlora.federation.loop import Federation, Observer, Record
from flexlora.federation.results import Result, Row
from flexlora.federation.run_directory import Run
from flexlora.federation.setup import Setup, prepare
from flexlora.federation.store import ClientStore
from flexlora.federation.streams import Streams
from flexlora.federation.transport import InProcess
from flexlora.rules import Rule, State, make_rule


class Silent:
    """An observer that shows nothing."""

    def round_started(self, round: int, clients: int) -> None: ...
    def replied(self, outcome: Reply | Failure) -> None: ...
    def round_ended(self, record: Record) -> None: ...
    def scoring(self, state: str) -> None: ...


def run(
    config: Config,
    folder: Path | str | None = None,
    *,
    observer: Observer | None = None,
    setup: Setup | None = None,
) -> Result:
    """Run one federation and score it on the unseen clients.

    folder: the run directory to make (default: a new one under `run.out`); setup: a `prepare`d
    setup to reuse when several rules are compared on the same data; its config may differ in
    [rule] and [run] alone.
    Raises InputErrors before anything is written, RoundError if no client of a round replies.
    """
    rule = make_rule(config.rule.name, config.rule.options)
    if setup is None:
        setup = prepare(config)
    _require_same_setting(config, setup.config)
    made = Run.create(config, folder, resolved=_resolved(setup), data=setup.describe())
    return _play(made, config, rule, setup, observer or Silent())


def resume(folder: Path | str, *, observer: Observer | None = None) -> Result:
    """Go on after any stop: the same bits, in process on the CPU, as if there had been none.

    Raises RunError for a folder that is no run, and for data that has changed since.
    """
    opened = Run.open(folder)
    config = opened.config
    rule = make_rule(config.rule.name, config.rule.options)
    with opened.undamaged("resolved.toml"):
        threads = int(opened.resolved["threads"])
    setup = prepare(config, threads=threads)
    _require_unchanged(opened, setup)
    return _play(opened, config, rule, setup, observer or Silent())


def load_adapter(folder: Path | str, rank: int | str, round: int | str = "best") -> Adapter:
    """The adapter that a run hands out at this rank ("full": the state's own rank).

    round: a number of a kept checkpoint, "best" (by validation), or "last".
    Raises RunError for a run without that checkpoint, RankError for a rank that does not fit.
    """
    opened = Run.open(folder)
    rule = make_rule(opened.config.rule.name, opened.config.rule.options)
    state = load_state(opened, round)
    if rank == "full":
        learned = rule.learned(state)
        ranks = {name: max(1, min(matrix.width, *matrix.shape)) for name, matrix in learned.items()}
    else:
        ranks = Ranks.of(_whole(rank)).resolve(state.spec.layers)
    return Adapter(dict(rule.readout(state, ranks)), base=opened.config.model.name)


def _whole(rank: int | str) -> int:
    try:
        return int(rank)
    except ValueError as error:
        raise RankError(f"rank '{rank}' is no whole number; give 1 or more, or 'full'") from error


def load_state(opened: Run, round: int | str = "best") -> State:
    """A run's state after a round: its number, "best" or "last"."""
    checkpoint = opened.load_checkpoint(round)
    if checkpoint is None:
        kept = ", ".join(map(str, opened.checkpoints()))
        raise RunError(
            f"{opened.folder} has no checkpoint of round {round}; it keeps those of {kept}"
            if kept
            else f"{opened.folder} has no checkpoint yet; go on with: flexlora resume"
        )
    tensors, meta = checkpoint
    with opened.undamaged("checkpoints"):
        return unpack(tensors, meta["state"])


def _require_unchanged(opened: Run, setup: Setup) -> None:
    now = setup.describe()
    for key, thing in (
        ("fingerprint", "data"),
        ("model_fingerprint", "base model"),
        ("encoding_fingerprint", "tokenizer"),
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
        if name not in ("rule", "run") and getattr(config, name) != getattr(prepared, name):
            raise ConfigError(
                f"[{name}] of the config differs from that of the setup; prepare the config anew"
            )


def _play(opened: Run, config: Config, rule: Rule, setup: Setup, observer: Observer) -> Result:
    streams = Streams(config.federation.seed)

    def validate(state: State) -> tuple[float, Record]:
        scores = setup.validate(rule.learned(state))
        mean = scores.mean()
        return (mean.loss if mean.rouge_l is None else -mean.rouge_l), mean.to_json()

    store = ClientStore(
        dict(setup.types), {c: dict(setup.ranks[name]) for c, name in setup.types.items()}
    )
    federation = Federation(
        rule=rule,
        state=rule.init(setup.spec, streams.generator("init")),
        store=store,
        schedule=setup.schedule(),
        streams=streams,
        transport=InProcess(setup.model, setup.train, rule),
        run=opened,
        validate=validate,
        observer=observer,
    )
    with opened.locked():
        federation.restore()
        for _ in federation.rounds():
            pass
        result = _score(opened, rule, setup, federation, observer)
        opened.write_results(result.to_json())
    return result


def _score(
    opened: Run, rule: Rule, setup: Setup, federation: Federation, observer: Observer
) -> Result:
    """The final evaluation, the only one that touches the unseen clients."""
    best = federation.progress.best_round
    state = load_state(opened, best) if best else federation.state
    if not setup.config.evaluation.unseen:
        return Result.of(opened.folder, rule.name, state.round, [], opened.read_metrics())
    rows = [Row("base", "", *setup.score_base())]
    observer.scoring("full")
    rows.append(Row("full", "full", *setup.score(rule.learned(state))))
    if setup.config.evaluation.types_at_end and rule.traits.mixed_ranks:
        for name, ranks in setup.ranks.items():
            observer.scoring(name)
            update = {n: f.product() for n, f in rule.readout(state, ranks).items()}
            rows.append(Row(name, str(setup.mix.types[name]), *setup.score(update)))
    return Result.of(opened.folder, rule.name, state.round, rows, opened.read_metrics())


def _resolved(setup: Setup) -> dict[str, Any]:
    """What was derived rather than written in the config."""
    counts = {name: sum(t == name for t in setup.types.values()) for name in setup.ranks}
    return {
        "threads": torch.get_num_threads(),
        "clients_per_round": setup.schedule().clients,
        "layers": len(setup.model.layers),
        "clients": counts,
        "ranks": {name: str(setup.mix.types[name]) for name in setup.ranks},
    }
