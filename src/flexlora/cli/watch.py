"""flexlora watch: runs in a browser, as they go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PORT = 8710


def watch(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…",
            help="Run directories, folders of runs, or folders of comparisons; one or more.",
        ),
    ],
    port: Annotated[
        int, typer.Option(help="The port to listen on; 0 is any that is free.", min=0, max=65535)
    ] = PORT,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. One that other machines can reach needs a token, which "
            "is made and printed."
        ),
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the token to ask for, made where it is not there: pages stay open "
            "when the server is started again. Asked for on this machine, too.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve a page that shows runs as they go: the round under way, curves, failures.

    It reads run directories and changes nothing. Ctrl-C ends it.
    """
    from flexlora.cli.console import complain, say
    from flexlora.cli.standing_words import event_words
    from flexlora.extras import require_extras
    from flexlora.formats.words import count
    from flexlora.watching.places import Places

    require_extras([("a run is watched", "watch")])
    from flexlora.watching.serve import address_of, bind, is_loopback, server_of
    from flexlora.watching.token import kept_token, made_token

    places = Places(folders, event_words)
    token = "" if token_file is None else kept_token(token_file)
    with bind(host, port) as listening:
        if not token and not is_loopback(listening):
            token = made_token()
        address = address_of(listening, host)

        server = server_of(places, listening, host, token)
        # It listens already: whoever opens this now waits for a moment.
        say(f"watching {count(len(places.runs), 'run')}, until Ctrl-C, at")
        say(f"{address}{f'?token={token}' if token else ''}")
        if not is_loopback(listening):
            complain("note: other machines reach this page, over a connection without TLS")
        server.run([listening])
