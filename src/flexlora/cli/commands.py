"""The commands: one function each, wired here. `flexlora --help` loads no model code."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from flexlora.cli.compare import compare
from flexlora.cli.console import say
from flexlora.cli.continue_run import continue_run
from flexlora.cli.demo import demo
from flexlora.cli.eval import evaluate
from flexlora.cli.export import export
from flexlora.cli.flower import flower
from flexlora.cli.inspect import inspect
from flexlora.cli.laws import laws
from flexlora.cli.merge import merge
from flexlora.cli.plan import plan
from flexlora.cli.probe import probe
from flexlora.cli.report import report
from flexlora.cli.resume import resume
from flexlora.cli.run import run
from flexlora.cli.watch import watch

app = typer.Typer(
    name="flexlora",
    help="Federated LoRA fine-tuning in which every client trains at the rank it affords.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 the input was wrong, 128 + n signal n "
    "stopped it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("run")(run)
app.command("resume")(resume)
app.command("continue")(continue_run)
app.command("compare")(compare)
app.command("export")(export)
app.command("merge")(merge)
app.command("eval")(evaluate)
app.command("inspect")(inspect)
app.command("plan")(plan)
app.command("probe")(probe)
app.command("report")(report)
app.command("watch")(watch)
app.command("laws")(laws)
app.add_typer(flower)

_debug = False


def _show_version(asked: bool) -> None:
    if asked:
        say(f"flexlora {metadata.version('flexlora')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Federated LoRA fine-tuning in which every client trains at the rank it affords."""
    global _debug
    _debug = debug


def debugging() -> bool:
    """Whether the traceback of an error was asked for."""
    return _debug
