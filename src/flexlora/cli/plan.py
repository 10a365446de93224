"""flexlora plan: which rank which device affords, and what a round will cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flexlora.allocation.devices import DeviceClass


def plan(
    model: Annotated[
        str,
        typer.Argument(help="A well-known model, a folder with config.json, or such a file."),
    ],
    devices: Annotated[
        str,
        typer.Argument(help="A TOML or JSON file of device classes, or names: phone,laptop,T4."),
    ],
    deadline: Annotated[
        str | None, typer.Option(help="The longest that a round may take, like 10m.")
    ] = None,
    traffic: Annotated[
        str | None,
        typer.Option(help="The most that a client may be sent and send in a round, like 50MB."),
    ] = None,
    wire: Annotated[
        str, typer.Option(help="How adapters travel: 'exact', 'bfloat16' or 'int8'.")
    ] = "exact",
    rule: Annotated[str, typer.Option(help="The aggregation rule.")] = "flexlora",
    batch: Annotated[int, typer.Option(help="Examples a step.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens of an example.")] = 512,
    examples: Annotated[
        int, typer.Option(help="Examples of a client, where the file does not say.")
    ] = 100,
    epochs: Annotated[int, typer.Option(help="Passes over them, each round.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 100,
    clients: Annotated[
        int | None, typer.Option(help="Clients of a round (default: all that are there).")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16, of the base.")
    ] = "bfloat16",
    quantise: Annotated[
        str, typer.Option(help="'none', or linear layers of the base in '4bit' or '8bit'.")
    ] = "none",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Make activations anew, do not keep them.")
    ] = False,
    optimiser: Annotated[str, typer.Option(help="'adamw' or 'sgd'.")] = "adamw",
    order: Annotated[
        str, typer.Option(help="Where ranks grow: 'uniform', or 'ffn-first' (30 to 200).")
    ] = "uniform",
    max_rank: Annotated[int, typer.Option(help="No rank above it.")] = 256,
    targets: Annotated[
        str, typer.Option(help="The layers to adapt, separated by commas.")
    ] = "all-linear",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The rank that each class of devices affords, and what it costs in memory, time and bytes."""
    from flexlora.cli.output import print_json
    from flexlora.cli.plan_view import show_plan
    from flexlora.formats.quantities import MEMORY, TIME, quantity
    from flexlora.options import checked
    from flexlora.planning.asked import Asked
    from flexlora.planning.document import to_json
    from flexlora.planning.model import Planned
    from flexlora.planning.plan import plan as make_plan
    from flexlora.rules import make_rule

    given: dict[str, Any] = {
        "batch": batch,
        "length": length,
        "dtype": dtype,
        "quantise": quantise,
        "checkpointing": checkpointing,
        "optimiser": optimiser,
        "examples": examples,
        "epochs": epochs,
        "rounds": rounds,
        "clients": clients,
        "order": order,
        "max_rank": max_rank,
        "wire": wire,
    }
    asked = Asked(
        **checked(Asked, given, chooser="plan", name="plan"),
        deadline=None if deadline is None else quantity(deadline, TIME, "--deadline"),
        traffic=None if traffic is None else quantity(traffic, MEMORY, "--traffic"),
    )
    made = make_rule(rule)
    classes = _classes(devices)
    planned = Planned(model, [x.strip() for x in targets.split(",")])
    found = make_plan(planned, classes, asked, made)
    if json_:
        print_json(to_json(found))
    else:
        show_plan(found)


def _classes(given: str) -> tuple[DeviceClass, ...]:
    """Of a file; or one client of each named device."""
    from flexlora.allocation.devices import DeviceClass
    from flexlora.config.devices import named_device, named_devices, read_devices
    from flexlora.errors import ConfigError

    names = [x.strip() for x in given.split(",")]
    if Path(given).exists() or not (len(names) > 1 or names[0] in named_devices()):
        return read_devices(Path(given))
    if len(set(names)) < len(names):
        twice = next(x for x in names if names.count(x) > 1)
        raise ConfigError(f"device {twice} is named twice; say how many there are in a file")
    return tuple(DeviceClass(name, named_device(name, "the command line"), 1) for name in names)
