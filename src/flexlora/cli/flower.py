"""flexlora flower: the same federation over a network. One file a command."""

from __future__ import annotations

import typer

from flexlora.cli.flower_client import client
from flexlora.cli.flower_init import init
from flexlora.cli.flower_up import up

flower = typer.Typer(
    name="flower",
    help="The same federation over a network, with Flower as the engine (extra flower).",
    no_args_is_help=True,
    add_completion=False,
)
flower.command("init")(init)
flower.command("client")(client)
flower.command("up")(up)


@flower.callback()
def options() -> None:
    """The same federation over a network, with Flower as the engine (extra flower)."""
