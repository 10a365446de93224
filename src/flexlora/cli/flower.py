"""flexlora flower: the same federation over a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

flower = typer.Typer(
    name="flower",
    help="The same federation over a network, with Flower as the engine (extra flower).",
    no_args_is_help=True,
    add_completion=False,
)


@flower.callback()
def options() -> None:
    """The same federation over a network, with Flower as the engine (extra flower)."""


@flower.command("client")
def client(
    file: Annotated[
        Path, typer.Argument(metavar="CLIENT.toml", help="The client's file: name, model, data.")
    ],
    superlink: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the server is.")],
    root_certificates: Annotated[
        Path | None,
        typer.Option(help="The certificate that vouches for the server (default: the system's)."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="This node's private key, which the server has let in.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without TLS: to a server on this machine alone.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the node's own processes on this machine.")
    ] = 9094,
) -> None:
    """Take part as one client: a trainer with the base model loaded once, and Flower's node.

    Both end with this command, which goes on until it is stopped.
    """
    from flexlora.cli.console import say
    from flexlora.extras import require_extras
    from flexlora.flower.beside import Uplink, serve_client
    from flexlora.flower.client_file import load_client
    from flexlora.flower.local import private_folder

    found = load_client(file)
    require_extras([("flexlora flower client runs Flower's node", "flower")])
    uplink = Uplink(superlink, root_certificates, key, insecure, port)
    folder = private_folder(found.client.folder)
    serve_client(file, folder, uplink, say)
