"""flexlora inspect: what an adapter or a run holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    path: Annotated[Path, typer.Argument(help="A PEFT folder or a run directory.")],
    all_: Annotated[
        bool, typer.Option("--all", help="Every layer, client and failure, however many.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
) -> None:
    """Ranks, norms and singular values of an adapter; state, clients and failures of a run."""
    from flexlora.federation.starts import kind_of

    show: dict[str, Callable[[Path, bool, bool], None]] = {"adapter": _adapter, "run": _run}
    show[kind_of(path)](path, all_, json_)


def _adapter(path: Path, everything: bool, as_json: bool) -> None:
    from flexlora.cli.adapter_view import adapter_json, show_adapter
    from flexlora.cli.output import print_json
    from flexlora.formats.peft_reader import PeftReader

    with PeftReader(path) as reader:
        adapter, path = reader.adapter(), reader.path
    if as_json:
        print_json(adapter_json(path, adapter, reader.scaling, reader.whole), indent=2)
    else:
        show_adapter(path, adapter, reader.scaling, reader.whole, everything=everything)


def _run(path: Path, everything: bool, as_json: bool) -> None:
    from flexlora.cli.output import print_json
    from flexlora.cli.run_view import show_run
    from flexlora.runs.overview import overview
    from flexlora.runs.run_directory import Run

    found = overview(path)
    if as_json:
        print_json(found, indent=2)
    else:
        show_run(found, Run.open(path).ended(), everything=everything)
