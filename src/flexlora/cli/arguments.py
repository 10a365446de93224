"""The wired commands, with the help of their arguments, and options that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_type_hints

import click
import typer
from typer.core import TyperArgument

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key; may be repeated."),
]
RunOption = Annotated[
    Path | None, typer.Option(help="The run directory to make (default: a new one in runs/).")
]
CompactOption = Annotated[
    bool,
    typer.Option(
        "--compact",
        help="Keep each layer's rank, with PEFT's patterns; other readers may pass these over.",
    ),
]
ServeOption = Annotated[
    str | None,
    typer.Option(
        help="'vllm': the rank rounded up to one that vLLM supports; refuse what it does not."
    ),
]


def command_line(app: typer.Typer) -> click.Group:
    """What `app` runs. Typer 0.20 loses the help of arguments to click 8.4: it is put back."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    _put_back(app, group)
    return group


def leaves(group: click.Group) -> dict[str, click.Command]:
    """What can be typed → its command, those of groups too ("flower client")."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        inner = leaves(command) if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {rest}".rstrip(): leaf for rest, leaf in inner.items()}
    return found


def _put_back(app: typer.Typer, group: click.Group) -> None:
    for part in app.registered_groups:
        assert part.typer_instance is not None
        inner = group.commands[str(part.typer_instance.info.name)]
        assert isinstance(inner, click.Group)
        _put_back(part.typer_instance, inner)
    for info in app.registered_commands:
        assert info.callback is not None
        assert info.name is not None
        hints = get_type_hints(info.callback, include_extras=True)
        for parameter in group.commands[info.name].params:
            if isinstance(parameter, TyperArgument):
                parameter.help = hints[parameter.name].__metadata__[0].help
