"""flexlora run: one federation from a config file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.arguments import RunOption, SetOption
from flexlora.cli.output import EVENTS, LOADING, READING, JsonOption, QuietOption, output
from flexlora.cli.places import require_free, require_place
from flexlora.cli.playing import playing
from flexlora.cli.trust import TrustOption, own_code, remember, require_trust_to_begin
from flexlora.errors import ConfigError


def run(
    config: Annotated[Path, typer.Argument(help="A TOML file; see examples/.")],
    set_: SetOption = None,
    out: RunOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take model.init_from though it was made for another base."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, check the settings, train nothing.")
    ] = False,
    show_example: Annotated[
        bool,
        typer.Option(
            "--show-example", help="With --dry-run: print one example, as the model is given it."
        ),
    ] = False,
    trust: TrustOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Run one federation; ends with a table and the run directory."""
    words = output(quiet=quiet, json=json)
    with words.waiting(LOADING):
        from flexlora.cli.tables import origin
        from flexlora.config import load_config
        from flexlora.federation import Session
    forced = ["model.init_force=true"] if force else []
    if show_example and not dry_run:
        raise ConfigError("--show-example is for looking ahead; add --dry-run")
    require_free(out)
    asked = load_config(config, [*(set_ or []), *forced])
    if out is None:
        require_place(Path(asked.run.out) / "new", "run.out")
    remember(own_code(asked))
    require_trust_to_begin([asked], trust)
    session = Session.of(asked)
    if dry_run:
        with words.waiting(READING):
            preview = session.preview()
        words.plan(preview, example=show_example)
        return
    with words.waiting(READING):
        setup, start = session.setup, session.start
    words.describe(setup, session.rule)
    if start is not None:
        words.say(f"starts from {origin(start.parent)}")
    with playing(words) as watching:
        result = session.play(out, observer=watching)
    words.results([result])


run.__doc__ = f"{run.__doc__}\n\n{EVENTS}"
