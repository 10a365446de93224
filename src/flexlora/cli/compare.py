"""flexlora compare: many federations side by side, arms by seeds, in one folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.cli.console import say, waiting
from flexlora.cli.ends import ends
from flexlora.cli.places import require_place
from flexlora.cli.trust import TrustOption, own_code, remember, require_trust_to_begin
from flexlora.errors import ConfigError, FlexLoRAError
from flexlora.formats.home import expanded

if TYPE_CHECKING:
    from flexlora.comparing.comparison import Comparison

_TOLD = 3  # Failed cells that the last sentence names at most.
_AHEAD = "looking ahead at every arm"


def compare(
    config: Annotated[Path, typer.Argument(help="A TOML file with a table named compare.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to play in, or to go on in. Default: runs/ and the file's name.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that play, each one cell at a time.")
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check every arm with the data and --out, count the runs, play none."
        ),
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Print what is finished by now, write the tables of it, and play nothing.",
        ),
    ] = False,
    trust: TrustOption = None,
    helps: Annotated[
        float | None,
        typer.Option("--helps", hidden=True, help="What --workers starts: since when it plays."),
    ] = None,
) -> None:
    """Play every arm on every seed, and compare them. Go on after any stop with the same command.

    More processes may be started with it on the same folder, also while others play there.
    """
    from flexlora.comparing.checks import require_playable
    from flexlora.comparing.comparison import load_comparison

    ends.at_work = True
    if show and dry_run:
        raise ConfigError("--show and --dry-run exclude each other; give one of them")
    folder = expanded(out or Path("runs") / config.stem)
    if show:
        _show(folder)
        return
    comparison = load_comparison(config)
    require_playable(comparison)
    if helps is None:  # Else who began this process has looked.
        _require_trust(comparison, trust)
    _remember(comparison)
    require_place(folder)
    if dry_run:
        _plan(comparison, folder)
        return
    if helps is not None:
        _help(comparison, folder, helps)
        return
    ends.comparing = _again(config, out, workers)
    _play(comparison, folder, workers)


def _play(comparison: Comparison, out: Path, workers: int) -> None:
    from flexlora.cli.compare_helpers import helpers
    from flexlora.cli.compare_words import Words
    from flexlora.comparing.checks import look_ahead
    from flexlora.comparing.failures import Failures
    from flexlora.comparing.folder import begin
    from flexlora.comparing.whole import left, play

    with waiting(_AHEAD):
        setup = look_ahead(comparison, out)[-1][1].setup if left(comparison, out) else None
    begin(comparison, out)
    failures = Failures(out)
    with helpers(out, workers - 1, failures.since):
        failed = play(comparison, out, Words(comparison), failures=failures, like=setup)
    ends.comparing = None
    _show(out)
    if failed:
        named = "; ".join(f"{run}: {found.reason}" for run, found in list(failed.items())[:_TOLD])
        more = f"; and {len(failed) - _TOLD} more" if len(failed) > _TOLD else ""
        raise FlexLoRAError(
            f"{len(failed)} of the runs in {out} failed and will be tried again by the same "
            f"command: {named}{more}"
        )


def _help(comparison: Comparison, out: Path, since: float) -> None:
    """Play for another process, which tells how it ended."""
    from flexlora.cli.compare_helpers import end_with_parent
    from flexlora.cli.compare_words import Words
    from flexlora.comparing.failures import Failures
    from flexlora.comparing.whole import play

    end_with_parent()
    try:
        play(comparison, out, Words(comparison), failures=Failures(out, since))
    except KeyboardInterrupt:  # Told by that other one.
        sys.exit(ends.code)


def _show(out: Path) -> None:
    from flexlora.comparing.failures import Failures
    from flexlora.comparing.sentences import arm_lines
    from flexlora.comparing.written import write_tables

    written = write_tables(out)
    for line in (*arm_lines(written.findings), *written.told):
        say(line)
    for run, failure in Failures(out).all().items():
        if not failure.broke_down(run):
            say(f"failed: {run}: {failure.reason}")
    say(f"tables: {', '.join(path.name for path in written.files)}")
    say(f"comparison: {out}")


def _plan(comparison: Comparison, out: Path) -> None:
    from flexlora.cli.compare_words import plan_lines
    from flexlora.comparing.checks import look_ahead

    with waiting(_AHEAD):
        previews = look_ahead(comparison, out)
    for arm, preview in previews:
        forecast = preview.forecast
        say(
            f"{arm.name}: {preview.setup.config.rule_name}, "
            f"{forecast.bytes_down_per_round / 1e6:.2f} MB down and "
            f"{forecast.mean_bytes_up / 1e6:.2f} MB up a round"
            + ("" if forecast.sparse is None else f" after {forecast.sparse.rounds} sparse ones")
        )
    for line in plan_lines(comparison, out):
        say(line)


def _require_trust(comparison: Comparison, trust: Sequence[Path] | None) -> None:
    """Runs that arms begin from are another's, and so is the code of their rules."""
    seed = comparison.settings.seeds[0]
    require_trust_to_begin((arm.config(seed) for arm in comparison.played), trust)


def _remember(comparison: Comparison) -> None:
    """Own code that the config names was named by who typed this command."""
    for arm in comparison.played:
        remember(own_code(arm.config(comparison.settings.seeds[0])))


def _again(config: Path, out: Path | None, workers: int) -> str:
    """What to type to go on."""
    words = ["flexlora", "compare", str(config)]
    words += [] if out is None else ["--out", str(out)]
    return shlex.join(words + ([] if workers == 1 else ["--workers", str(workers)]))
