"""The command line: one function per command, wired here. `flexlora --help` loads no model code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flexlora.cli.demo import demo
from flexlora.cli.eval import evaluate
from flexlora.cli.export import export
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
app.command("export")(export)
app.command("eval")(evaluate)

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
    try:
        app()
    except FlexLoRAError as error:
        if _debug:
            raise
        print(f"flexlora: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("flexlora: stopped; go on with: flexlora resume RUN", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if _debug:
            raise
        print(
            f"flexlora: unexpected {type(error).__name__}: {error} "
            "(flexlora --debug COMMAND … shows where)",
            file=sys.stderr,
        )
        sys.exit(1)
