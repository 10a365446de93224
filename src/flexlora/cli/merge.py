"""flexlora merge: adapters of different ranks become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.arguments import CompactOption, ServeOption
from flexlora.cli.places import require_free, require_there


def merge(
    adapters: Annotated[
        list[Path],
        typer.Argument(metavar="ADAPTER...", help="PEFT folders, or .safetensors files."),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder or .safetensors file to make; it must not exist.")
    ],
    rank: Annotated[
        str | None,
        typer.Option(help="The highest rank of a layer (default: 'full', all of the sum)."),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(help="Keep this share of the energy in each layer, like 0.999, at any rank."),
    ] = None,
    initial: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER=START",
            help="What an adapter of PiSSA, OLoRA, CorDA or LoRA-GA began from; may be repeated.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="One number each, like 0.5,0.3,-0.2 (default: the mean, 1/N each)."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Singular values into B ('left'), or half into each ('balanced').")
    ] = "left",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, float16, float8_e4m3fn, float8_e5m2 (default: as the inputs)."
        ),
    ] = None,
    compact: CompactOption = False,
    serve: ServeOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Merge though bases differ by name, or no layer is shared.",
        ),
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="Show every layer, however many.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Sum adapters of any ranks exactly, and write the best adapter of the rank asked for."""
    from flexlora.adapters import checked_split
    from flexlora.adapters.kept import parsed_rank, require_rank_or_energy
    from flexlora.cli.console import waiting
    from flexlora.cli.merge_view import merged_json, show_merged
    from flexlora.cli.output import print_json
    from flexlora.merging import merge as merge_adapters

    require_free(out)
    starts = _starts(adapters, initial or [])
    require_there("adapter", *adapters, *starts.values())
    if rank is not None or energy is not None:  # Neither: all of the sum.
        require_rank_or_energy(rank, energy, "how much of the sum is to be kept", dashes="--")
    with waiting("merging") as status:
        done = merge_adapters(
            adapters,
            out,
            initial=starts,
            weights=_numbers(weights),
            rank=None if rank is None else parsed_rank(rank, f"--rank {rank}"),
            energy=energy,
            split=checked_split(split, "--split"),
            dtype=dtype,
            compact=compact,
            serve=serve,
            force=force,
            watch=lambda layer, layers: status.update(f"merging: layer {layer} of {layers}"),
        )
    if json_:
        print_json(merged_json(done))
    else:
        show_merged(done, everything=all_)


def _starts(adapters: list[Path], given: list[str]) -> dict[Path, Path]:
    """ADAPTER=START by adapter; either path may hold an = of its own."""
    from flexlora.errors import ConfigError

    found: dict[Path, Path] = {}
    for text in given:
        splits = [i for i, x in enumerate(text) if x == "=" and Path(text[:i]) in adapters]
        if not splits or not text[splits[0] + 1 :]:
            raise ConfigError(
                f"--initial {text} is not ADAPTER=START of an adapter that is merged; write it "
                f"like {adapters[0]}=its_start"
            )
        path = Path(text[: splits[0]])
        if path in found:
            raise ConfigError(f"--initial gives {path} twice; give each adapter one start")
        found[path] = Path(text[splits[0] + 1 :])
    return found


def _numbers(text: str | None) -> list[float] | None:
    from flexlora.errors import ConfigError

    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--weights {text} is no list of numbers; write it like 0.5,0.3,0.2"
        ) from error
