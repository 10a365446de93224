"""Whether every arm can be played, before anything is: what its config says, then its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flexlora.comparing import plan
from flexlora.comparing.arms import Arm
from flexlora.comparing.cells import cell_folder
from flexlora.comparing.comparison import Comparison, told_apart
from flexlora.comparing.folder import require_beginnable
from flexlora.comparing.inputs import Inputs
from flexlora.config.config import Config
from flexlora.config.fleet import device_classes
from flexlora.config.settings import final_settings, validation_settings
from flexlora.errors import ConfigError, InputError, nearest, shown
from flexlora.evaluation.metrics import get_metric, resolve_metrics
from flexlora.federation import Session, Setup
from flexlora.federation.as_it_was import described
from flexlora.federation.collector import Plain, require_collectable
from flexlora.federation.data import asks_for_the_date
from flexlora.federation.preview import Preview
from flexlora.runs.results import FULL


def require_playable(comparison: Comparison) -> None:
    """Raise ConfigError for arms that cannot be, all of them in one sentence; reads no data."""
    for metric in (comparison.settings.metric, comparison.settings.tuned_by):
        get_metric(metric)

    def wrong(arm: Arm) -> str:
        try:
            config = arm.config(comparison.settings.seeds[0], _rate(comparison))
            session = Session.of(config)
            collector = Plain(Path(), session.rule)  # Of the one engine that there is.
            require_collectable(session.rule, collector, session.screens)
            _require_compared(comparison, arm, config)
            _require_tunable(comparison, arm)
        except InputError as error:
            return str(error)
        return ""

    if words := told_apart(wrong, comparison.played):
        raise ConfigError(words)


def look_ahead(comparison: Comparison, out: Path) -> list[tuple[Arm, Preview]]:
    """What every arm would do, once all is found fit to be played in OUT; writes nothing.

    Raises RunError where OUT holds something else, or was played on other data or code than there
    is by now; else as `previews`.
    """
    require_beginnable(comparison, out)
    # On a seed of which there are runs: another reads other examples.
    found = list(previews(comparison, _begun_seed(comparison, out)))
    inputs = Inputs(out)
    for _, preview in found:
        inputs.require(preview.setup.config, described(preview.setup), preview.parent)
    return found


def previews(comparison: Comparison, seed: int | None = None) -> Iterator[tuple[Arm, Preview]]:
    """What every arm would do on a seed (none: the first); reads the data, once, and no weights.

    Raises ConfigError at the end for arms that do not fit the data, all of them in one sentence.
    """
    wrong: dict[str, str] = {}
    like: Setup | None = None
    for arm in comparison.played:
        config = arm.config(
            comparison.settings.seeds[0] if seed is None else seed, _rate(comparison)
        )
        try:
            preview = Session.of(config, like).preview()
            _require_day(preview.setup)
        except InputError as error:
            wrong[arm.name] = str(error)
            continue
        like = preview.setup
        yield arm, preview
    if words := told_apart(lambda arm: wrong.get(arm.name, ""), comparison.played):
        raise ConfigError(words)


def _begun_seed(comparison: Comparison, out: Path) -> int:
    """The first seed that has a cell in OUT; the first of all where none has."""
    seeds = comparison.settings.seeds
    begun = (
        seed
        for seed in seeds
        if any(cell_folder(out, arm.slug, seed).exists() for arm in comparison.played)
    )
    return next(begun, seeds[0])


def _require_day(setup: Setup) -> None:
    """Raise ConfigError where cells that are played on other days would be other runs."""
    if setup.config.model.date is None and asks_for_the_date(setup.config, setup.model):
        raise ConfigError(
            "the chat template writes the date, which would differ between cells that are played "
            f"on other days; set model.date, as {setup.ground.today.isoformat()}"
        )


def _rate(comparison: Comparison) -> float | None:
    return next(iter(comparison.settings.rates), None)


def _require_compared(comparison: Comparison, arm: Arm, config: Config) -> None:
    """Raise ConfigError where a run would not score what [compare] compares."""
    settings, evaluation = comparison.settings, config.evaluation
    if not evaluation.every and settings.part == "validation":
        raise ConfigError(
            "evaluation.every is 0, but compare.part is 'validation'; set evaluation.every to 1 or "
            "more"
        )
    scored = final_settings(config)
    if settings.part == "validation":
        scored = validation_settings(config)
    elif not evaluation.unseen:
        raise ConfigError(
            f"evaluation.unseen is false, but compare.part is '{settings.part}', which is scored "
            "at the end; set evaluation.unseen to true, or compare.part to 'validation'"
        )
    elif settings.part == "own" and not evaluation.own_examples:
        raise ConfigError(
            "evaluation.own_examples is 0, but compare.part is 'own'; raise it, or set "
            "compare.part to 'unseen'"
        )
    names = [metric.name for metric in resolve_metrics(scored.metrics)]
    if get_metric(settings.metric).name not in names:
        raise ConfigError(
            f"compare.metric is {shown(settings.metric)}, but runs score {', '.join(names)} on "
            f"{settings.part} examples; set evaluation.metric to it"
        )
    if settings.state != FULL and arm.control is None:
        _require_type(settings.state, config)


def _require_tunable(comparison: Comparison, arm: Arm) -> None:
    settings = comparison.settings
    if settings.tuned:
        Session.of(plan.tuning_config(arm, settings.tuning_seeds[0], settings.rates[0], settings))


def _require_type(state: str, config: Config) -> None:
    clients = config.clients
    mixed = clients.build_mix().shares if clients.devices is None else ()
    devices = [x.name for x in device_classes(config)]
    known = {*mixed, *devices, *clients.named().values()}
    if state not in known and not config.data.options.get("type"):  # Else the data says.
        raise ConfigError(
            f"compare.state is {shown(state)}, which is neither 'full' nor a type of client that "
            f"takes part; {nearest(state, [FULL, *known])}"
        )
