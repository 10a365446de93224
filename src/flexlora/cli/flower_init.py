"""flexlora flower init: the folder that the operator of a federation begins with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.arguments import SetOption
from flexlora.cli.places import require_free


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG.toml]", help="The federation's config (default: a small one)."
        ),
    ] = None,
    set_: SetOption = None,
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where silos will find the server.")
    ] = "server.example:8000",
    clients: Annotated[int, typer.Option(min=1, help="How many clients a run waits for.")] = 2,
) -> None:
    """Make a Flower app for `flwr run`, with DEPLOY.md: what to do at the server and at each silo.

    DEPLOY.md has all commands in their order: certificates, keys, firewall, the SuperLink, a run.
    """
    from flexlora.cli.console import say
    from flexlora.cli.program import program
    from flexlora.config import load_config
    from flexlora.config.config_file import override, parse_config
    from flexlora.flower.deployment import sensible, write_deployment

    require_free(folder, "DIR")
    if config is None:
        asked = parse_config(override(sensible().document(), set_ or []))
    else:
        asked = load_config(config, set_ or [])
    write_deployment(folder, asked, clients, server)
    say(f"made {folder}: a Flower app, a silo's client.toml, and DEPLOY.md; read that next")
    if config is None:
        say(f"its config.toml trains the embedded model; try it here: {_up(program(), folder)}")


def _up(name: str, folder: Path) -> str:
    return f"{name} flower up {shlex.quote(str(folder / 'config.toml'))} --clients 2"
