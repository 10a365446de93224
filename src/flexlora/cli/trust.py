"""Whether code that a run names may be run here: by this user's word, or because it was before.

A run's config can name Python files for its rule and metrics. Who typed that config into
`flexlora run` meant it. Who goes on with a run that came from elsewhere may not know of it, and
neither who owns its folder nor what the run says of itself tells: an unpacked archive belongs to
whoever unpacked it. So the files that this user's own configs named are remembered by content
(sha256), in the user's state folder, out of any run's reach. Code that is not among them needs a
word, `--trust FILE`; it is remembered from then on. One byte changed is another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.errors import ConfigError

if TYPE_CHECKING:
    from flexlora.config import Config
    from flexlora.formats.user_file import UserFile

TrustOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        help="Run this Python file, which the run names and you have not run before; may be "
        "repeated.",
    ),
]


def own_code(config: Config, *, metrics: bool = True) -> list[UserFile]:
    """The files of a rule and of metrics that a config names. Nothing of them is run."""
    from flexlora.config.settings import code_files

    return code_files(config, metrics=metrics)


def remember(files: Sequence[UserFile]) -> None:
    """These files need no word of this user any more, as long as they stay as they are."""
    new = sorted({file.fingerprint for file in files} - _remembered()) if files else []
    place = _place() if new else None
    if place is None:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place, "a", encoding="ascii") as file:
            file.write("".join(f"{digest}\n" for digest in new))
    except OSError:
        return  # A home that cannot be written: a word is needed each time.


def require_trust(run: Path, trusted: Sequence[Path] | None, *, metrics: bool = True) -> None:
    """Raise ConfigError for code of a run that was neither run before nor is among `trusted`.

    metrics: whether the run's metrics are going to be used, not its rule alone.
    """
    _require_trust([run], trusted, metrics=metrics)


def require_trust_to_begin(configs: Iterable[Config], trusted: Sequence[Path] | None) -> None:
    """The same for the rules of the runs that these configs begin from (`model.init_from`).

    Raises AdapterError for one that begins from what is neither a run nor an adapter.
    """
    from flexlora.federation.starts import kind_of

    begins = dict.fromkeys(config.model.init_from for config in configs)
    runs = [Path(begin) for begin in begins if begin is not None and kind_of(begin) == "run"]
    if trusted and not runs:
        raise ConfigError(
            f"--trust {trusted[0]} is for code that another run names, and model.init_from names "
            "none; leave it out"
        )
    _require_trust(runs, trusted, metrics=False)


def _require_trust(runs: Sequence[Path], trusted: Sequence[Path] | None, *, metrics: bool) -> None:
    from flexlora.formats.home import expanded
    from flexlora.runs.run_directory import Run

    of_run = {run: own_code(Run.open(run).config, metrics=metrics) for run in runs}
    named = [(run, file) for run, files in of_run.items() for file in files]
    words = {expanded(path).resolve(): path for path in trusted or ()}
    for path in words.keys() - {file.path for _, file in named}:
        theirs = ", ".join(dict.fromkeys(file.shown for _, file in named)) or "none"
        whose = " and ".join(map(str, runs))
        who, run_ = ("it", "runs") if len(runs) == 1 else ("they", "run")
        raise ConfigError(
            f"--trust {words[path]} is no file that {whose} {run_} ({who} {run_}: {theirs}); leave "
            "it out"
        )
    known = _remembered()
    for run, file in named:
        if file.fingerprint not in known and file.path not in words:
            raise ConfigError(
                f"{run} names a {file.kind} in {file.shown}, Python code that you have not run "
                f"before and that may do all that you may; read it, then add --trust {file.shown}"
            )
    remember([file for _, file in named])


def _remembered() -> set[str]:
    place = _place()
    try:
        return set() if place is None else set(place.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return set()


def _place() -> Path | None:
    """None for a user without a home, of whom nothing is remembered."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return Path(state) / "flexlora" / "trusted"
