"""flexlora flower client: one client, its trainer and its node; or whether all is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.errors import ConfigError

if TYPE_CHECKING:
    from flexlora.flower.checking import Finding

_MARKS = {True: "✓", False: "✗"}


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
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Begin nothing: tell whether data, model, memory, certificate, key, server and "
            "port fit together.",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG.toml", help="With --check: the federation's config, for what it asks."
        ),
    ] = None,
) -> None:
    """Take part as one client: a trainer with the base model loaded once, and Flower's node.

    Both end with this command, which goes on until it is stopped. With --check, each line says ✓ or
    ✗ with the cure, nothing of the data is sent, and the exit code is 2 where one does not fit.
    """
    from flexlora.cli.console import say
    from flexlora.extras import require_extras
    from flexlora.flower.begun import require_port
    from flexlora.flower.beside import Uplink, serve_client
    from flexlora.flower.client_file import load_client
    from flexlora.flower.local import private_folder

    if config is not None and not check:
        raise ConfigError("--config is for --check: in a run the server tells its config itself")
    found = load_client(file)
    require_extras([("flexlora flower client runs Flower's node", "flower")])
    if check:
        # What is wrong with the files is found there, each by itself.
        Uplink(superlink, None, None, insecure, port)
        if insecure and (root_certificates or key):
            raise ConfigError("--insecure has no certificate and no key; leave it or these out")
        _check(file, superlink, root_certificates, key, insecure, port, config)
        return
    from flexlora.flower.keys import read_key
    from flexlora.flower.profiles import device_of

    device_of(found)  # What is wrong with its file is told here, and not by the server.
    uplink = Uplink(superlink, root_certificates, key, insecure, port)
    if key is not None:
        read_key(key)
    require_port(port)
    folder = private_folder(found.client.folder)
    serve_client(file, folder, uplink, say)


def _check(
    file: Path,
    superlink: str,
    authority: Path | None,
    key: Path | None,
    insecure: bool,
    port: int,
    config: Path | None,
) -> None:
    from flexlora.config import load_config
    from flexlora.flower.checking import link_findings
    from flexlora.flower.checking_work import work_findings
    from flexlora.flower.client_file import load_client
    from flexlora.flower.networked import require_networked

    server = None if config is None else load_config(config)
    if server is not None:
        require_networked(server)
    good = [_tell(found) for found in work_findings(load_client(file), server)]
    links = link_findings(superlink, authority, key, insecure=insecure, port=port)
    good += [_tell(found) for found in links]
    if not all(good):
        raise typer.Exit(2)


def _tell(found: Finding) -> bool:
    from flexlora.cli.console import say

    say(f"{_MARKS[found.good]} {found.what}: {found.words}")
    return found.good
