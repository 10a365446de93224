"""The process `flexlora`: it listens to signals, loads the commands, and tells how they ended."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from flexlora.cli.ends import UNREAD, ends


def main() -> None:
    """Run the command line. Errors are one sentence on stderr; exit code 1 or 2."""
    # Read when torch loads, which is later. Threads that spin while they wait make small
    # decompositions up to fifty times slower as soon as anything else uses a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ends.listening():
        try:
            _run()
        except (Exception, KeyboardInterrupt):
            if ends.stopped is None:
                raise
            ends.leave()


def _run() -> NoReturn:
    from click import Abort, UsageError
    from click.exceptions import NoArgsIsHelpError

    from flexlora.cli.arguments import command_line
    from flexlora.cli.commands import app
    from flexlora.cli.console import Unread
    from flexlora.cli.usage import usage_words
    from flexlora.errors import FlexLoRAError
    from flexlora.formats.refused import of_disk, refused

    try:
        code = command_line(app)(prog_name="flexlora", standalone_mode=False)
        if ends.stopped is not None:
            ends.leave()
        sys.exit(code)
    except FlexLoRAError as error:
        _fail(str(error), error.exit_code)
    except NoArgsIsHelpError:
        sys.exit(2)  # The help is printed already.
    except UsageError as error:
        _fail(usage_words(error), 2)
    except Abort:
        ends.leave()
    except Unread:
        if not ends.at_work:
            sys.exit(UNREAD)  # As of any command in a pipe: whoever closed it knows.
        _fail(f"stopped, for whoever read the output has closed it{ends.go_on()}", UNREAD)
    except OSError as error:
        if error.filename is None and not of_disk(error):
            _unexpected(error)
        told = refused(error.filename or "a file", error, "cannot use")
        _fail(str(told), told.exit_code)
    except Exception as error:
        _unexpected(error)


def _unexpected(error: Exception) -> NoReturn:
    from flexlora.cli.commands import debugging
    from flexlora.errors import cut_short

    words = cut_short(" ".join(str(error).split()), 300)
    where = "" if debugging() else " (flexlora --debug COMMAND … shows where)"
    _fail(f"unexpected {type(error).__name__}: {words}{where}", 1)


def _fail(sentence: str, code: int) -> NoReturn:
    """End with this sentence on stderr, after it the traceback if that was asked for."""
    import traceback

    from flexlora.cli.commands import debugging
    from flexlora.cli.console import complain

    if ends.stopped is not None:  # A library took the stop for an error of its own.
        ends.leave()
    complain(f"flexlora: {sentence}")
    if debugging():
        complain(traceback.format_exc().rstrip(), keep="\n")
    sys.exit(code)
