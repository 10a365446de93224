"""The experiment trackers that there are: how each is made, told apart, looked at, and ready."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from flexlora.errors import ConfigError, nearest
from flexlora.runs.run_directory import Run

PROJECT = "flexlora"


class Tracker(Protocol):
    """What is used here of `accelerate.tracking.GeneralTracker`."""

    @property
    def tracker(self) -> Any: ...
    def start(self) -> None: ...
    def store_init_configuration(self, values: dict[str, Any]) -> None: ...
    def log(self, values: dict[str, Any], step: int | None = None) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Kind:
    """One tracker that there is.

    make: the run, the id under which it was tracked before (None:
    not yet), and what to undo when it is closed → a tracker not yet started; identify: a started
    tracker's id; look: how to look at it, for people; ready: raises ConfigError where it cannot be
    used though it is installed.
    """

    make: Callable[[Run, str | None, ExitStack], Tracker]
    identify: Callable[[Tracker], str]
    look: Callable[[Run, Tracker], str]
    ready: Callable[[], None] = lambda: None


def _tensorboard(run: Run, _known: str | None, _closing: ExitStack) -> Tracker:
    from accelerate.tracking import TensorBoardTracker

    made: Tracker = TensorBoardTracker("tensorboard", run.folder)
    return made


def _mlflow(run: Run, known: str | None, closing: ExitStack) -> Tracker:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from accelerate.tracking import MLflowTracker

    artifacts = None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        beside = run.folder.absolute().parent
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{beside / 'mlflow.db'}"
        closing.callback(os.environ.pop, "MLFLOW_TRACKING_URI", None)
        artifacts = str(beside / "mlartifacts")
    made: Tracker = MLflowTracker(PROJECT, artifacts, run_id=known, run_name=_name(run))
    return made


def _wandb(run: Run, known: str | None, _closing: ExitStack) -> Tracker:
    import wandb
    from accelerate.tracking import WandBTracker

    made: Tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=_name(run),
        id=known,
        resume="allow",
        dir=str(run.folder),
        settings=wandb.Settings(console="off"),  # What the terminal shows stays here.
    )
    return made


def _trackio(run: Run, known: str | None, closing: ExitStack) -> Tracker:
    import trackio
    from accelerate.tracking import TrackioTracker

    @closing.callback
    def forget() -> None:  # Else trackio finishes the run once more, aloud, when the process ends.
        with suppress(RuntimeError):
            trackio.finish()

    made: Tracker = TrackioTracker(
        PROJECT,
        name=_name(run),
        resume="allow" if known else "never",
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    return made


def _name(run: Run) -> str:
    return run.folder.absolute().name


def _require_wandb_login() -> None:
    """Without this wandb would ask for a key, on a terminal that shows a run."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        online = wandb.setup().settings.mode in (None, "online", "run", "shared")
        usable = not online or wandb.login(prompt=False)
    if not usable:
        raise ConfigError(
            "run.trackers has wandb, which is online but has no key; run `wandb login`, or set "
            "WANDB_MODE=offline"
        )


TRACKERS: Mapping[str, Kind] = {
    "tensorboard": Kind(
        _tensorboard,
        lambda _: "tensorboard",
        lambda run, _: f"tensorboard --logdir {run.folder.parent}",
    ),
    "mlflow": Kind(
        _mlflow,
        lambda tracker: str(tracker.tracker.info.run_id),
        lambda *_: f"mlflow ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}",
    ),
    "wandb": Kind(
        _wandb,
        lambda tracker: str(tracker.tracker.id),
        lambda run, tracker: str(tracker.tracker.url or f"wandb sync {run.folder / 'wandb'}/*"),
        _require_wandb_login,
    ),
    "trackio": Kind(
        _trackio,
        lambda tracker: str(tracker.tracker.name),
        lambda *_: f"trackio show --project {PROJECT}",
    ),
}


def require_trackers(names: Collection[str]) -> None:
    """Raise ConfigError for a tracker that is unknown, or cannot be used though it is installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"run.trackers has '{name}'; {nearest(name, TRACKERS)}")
    for name in names:
        TRACKERS[name].ready()
