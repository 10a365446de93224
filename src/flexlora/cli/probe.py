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
    disk: Annotated[
        Path | None, typer.Option(help="A folder: how fast a file in it is read, measured.")
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(help="An address to fetch from for five seconds: the downlink, measured."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")] = "auto",
) -> None:
    """Measure free memory, matrix products and copying here, and write them with their units."""
    from flexlora.cli.console import say
    from flexlora.cli.places import require_free
    from flexlora.config.toml import to_toml
    from flexlora.errors import ConfigError
    from flexlora.formats.atomic import atomic_write
    from flexlora.formats.quantities import RATE, quantity
    from flexlora.planning.measured import disk_rate, link_rate
    from flexlora.planning.probe import probed

    require_free(out)
    if not name.strip():
        raise ConfigError("--name is empty; name this class of devices, or leave it out for 'this'")
    if link is not None and downlink is not None:
        raise ConfigError("--link and --downlink both say how fast it receives; give one of them")
    links = {"uplink": uplink, "downlink": downlink}
    given = {key: text for key, text in links.items() if text is not None}
    for key, text in given.items():
        quantity(text, RATE, f"--{key}")
    measured: dict[str, tuple[str, str]] = {}
    if disk is not None:
        how = f"a file read in {disk}, measured by flexlora probe"
        measured["disk"] = f"{disk_rate(disk) / 1e6:.1f} MB/s", how
    if link is not None:
        measured["downlink"] = f"{link_rate(link) / 1e6:.4f} MB/s", f"fetched from {link}"
    found = {**probed(device), **given, **{key: text for key, (text, _) in measured.items()}}
    found["sources"] |= dict.fromkeys(given, "given to flexlora probe")
    found["sources"] |= {key: how for key, (_, how) in measured.items()}
    atomic_write(out, to_toml({name: found}))
    speeds = ", ".join(f"{speed} in {dtype}" for dtype, speed in found["flops"].items())
    say(f"{out}: {found['memory']} free, {speeds}, {found['bandwidth']}")
    lacking = [key for key in links if key not in found]
    if lacking:
        words = " and ".join(lacking)
        say(f'add {words} before it is planned with, like {lacking[0]} = "20 Mbit/s"')
