"""The command line: one function per command, wired here. `flexlora --help` loads no model code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from flexlora.cli.arguments import command_line
from flexlora.cli.continue_run import continue_run
from flexlora.cli.demo import demo
from flexlora.cli.eval import evaluate
from flexlora.cli.export import export
from flexlora.cli.inspect import inspect
from flexlora.cli.merge import merge
from flexlora.cli.report import report
from flexlora.cli.resume import resume
from flexlora.cli.run import run
from flexlora.errors import FlexLoRAError

app = typer.Typer(
    name="flexlora",
    help="Federated LoRA fine-tuning in which every client trains at the rank it affords.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 the input was wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("run")(run)
app.command("resume")(resume)
app.command("continue")(continue_run)
app.command("export")(export)
app.command("merge")(merge)
app.command("eval")(evaluate)
app.command("inspect")(inspect)
app.command("report")(report)

INTERRUPTED = 130
_debug = False


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Federated LoRA fine-tuning in which every client trains at the rank it affords."""
    global _debug
    _debug = debug


def main() -> None:
    """Run the command line. Errors are one sentence on stderr; exit code 1 or 2."""
    # Read when torch loads, which is later. Threads that spin while they wait make small
    # decompositions up to fifty times slower as soon as anything else uses a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        command_line(app)()
    except FlexLoRAError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer makes this of Ctrl-C.
            print("flexlora: stopped; a run goes on with: flexlora resume RUN", file=sys.stderr)
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        if len(words) > 300:
            words = words[:299] + "…"
        where = "" if _debug else " (flexlora --debug COMMAND … shows where)"
        _fail(f"unexpected {type(error).__name__}: {words}{where}", 1)


def _fail(sentence: str, code: int) -> NoReturn:
    """End with this sentence on stderr, after it the traceback if that was asked for."""
    print(f"flexlora: {sentence}", file=sys.stderr)
    if _debug:
        traceback.print_exc()
    sys.exit(code)
