"""flexlora probe: this machine as a device profile for `flexlora plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def probe(
    out: Annotated[Path, typer.Argument(help="The TOML file to make; it must not exist.")],
    name: Annotated[str, typer.Option(help="What its class of devices is called.")] = "this",
    uplink: Annotated[
        str | None,
        typer.Option(help="To the server, like '20 Mbit/s': told, not measured."),
    ] = None,
    downlink: Annotated[
        str | None, typer.Option(help="From the server, like '100 Mbit/s'.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")] = "auto",
) -> None:
    """Measure free memory, matrix products and copying here, and write them with their units."""
    from flexlora.cli.console import say
    from flexlora.cli.places import require_free
    from flexlora.config.toml import to_toml
    from flexlora.formats.atomic import atomic_write
    from flexlora.formats.quantities import RATE, quantity
    from flexlora.planning.probe import probed

    require_free(out)
    links = {"uplink": uplink, "downlink": downlink}
    given = {key: text for key, text in links.items() if text is not None}
    for key, text in given.items():
        quantity(text, RATE, f"--{key}")
    found = {**probed(device), **given}
    found["sources"] |= dict.fromkeys(given, "given to flexlora probe")
    atomic_write(out, to_toml({name: found}))
    speeds = ", ".join(f"{speed} in {dtype}" for dtype, speed in found["flops"].items())
    say(f"{out}: {found['memory']} free, {speeds}, {found['bandwidth']}")
    lacking = [key for key in links if key not in given]
    if lacking:
        words = " and ".join(lacking)
        say(f'add {words} before it is planned with, like {lacking[0]} = "20 Mbit/s"')
