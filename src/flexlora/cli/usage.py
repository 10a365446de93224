"""What is wrong with a command as it was typed, in one sentence."""

from __future__ import annotations

import difflib
import re

import click
from click.exceptions import BadParameter, MissingParameter, NoSuchOption

from flexlora.errors import nearest

_GIVE = {"integer": "; give a whole number", "float": "; give a number"}


def usage_words(error: click.UsageError) -> str:
    """The thing, the value and the cure, then where the help is."""
    context = error.ctx
    where = context.command_path if context else "flexlora"
    command = where.removeprefix("flexlora ")
    if isinstance(error, NoSuchOption):
        words = f"{command} has no option {error.option_name}{_option_cure(error)}"
    elif isinstance(error, MissingParameter) and error.param is not None:
        words = f"{command} lacks {_name(error.param, context)}; give it"
    elif isinstance(error, BadParameter) and error.param is not None:
        cure = _GIVE.get(error.param.type.name, "")
        words = f"{_name(error.param, context)}: {_plain(error.message)}{cure}"
    elif match := re.match(r"No such command '(.*)'\.", error.message, re.DOTALL):
        group = context.command if context else None
        known = list(group.commands) if isinstance(group, click.Group) else []
        words = f"command '{match[1]}' is unknown; {nearest(match[1], known)}"
    elif match := re.match(r"Got unexpected extra arguments? \((.*)\)", error.message, re.DOTALL):
        words = f"{command} takes fewer arguments; leave out {match[1]}"
    else:
        words = f"{command}: {_plain(error.format_message())}"
    return f"{words}; see {where} --help"


def _option_cure(error: NoSuchOption) -> str:
    options = [x for p in error.ctx.command.params for x in p.opts] if error.ctx else []
    close = difflib.get_close_matches(error.option_name, options, n=1, cutoff=0.7)
    if close:
        return f"; did you mean {close[0]}?"
    if "--set" in options:
        return "; a key of the config is set by --set TABLE.KEY=VALUE"
    return ""


def _name(parameter: click.Parameter, context: click.Context | None) -> str:
    if isinstance(parameter, click.Option):
        return parameter.opts[0]
    return parameter.make_metavar(context or click.Context(click.Command(None)))


def _plain(message: str) -> str:
    text = message.rstrip(".")
    return text[:1].lower() + text[1:]
