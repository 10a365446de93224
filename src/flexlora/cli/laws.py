"""flexlora laws: an aggregation rule, or anybody's aggregator, held to the laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.errors import ConfigError, nearest, shown

if TYPE_CHECKING:
    from flexlora.laws import Make, Verdict


def laws(
    rule: Annotated[
        str | None,
        typer.Argument(
            metavar="[RULE | FILE.py:CLASS]",
            help="A registered rule, or a rule or aggregator in a Python file, which is run "
            "(default: all registered rules).",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hold a rule, or any aggregator, to the laws: which it keeps, and where it breaks one.

    Exit code 1 where a law fails that the rule's traits do not excuse.
    """
    from flexlora.cli.laws_view import laws_json, show_one, show_table
    from flexlora.cli.output import print_json
    from flexlora.rules import RULES

    found = {name: _held(name) for name in ([rule] if rule is not None else sorted(RULES))}
    if json_:
        print_json(laws_json(found), indent=2)
    elif rule is not None:
        show_one(rule, found[rule])
    else:
        show_table(found)
    if any(x.standing == "fails" for verdicts in found.values() for x in verdicts):
        raise typer.Exit(1)


def _held(name: str) -> list[Verdict]:
    from flexlora.config.rule_file import load_rule
    from flexlora.laws import excuses, hold_all, of_rule
    from flexlora.rules import RULES, Rule, make_rule

    if ":" not in name and not name.endswith(".py"):
        if name not in RULES:
            raise ConfigError(
                f"rule {shown(name)} is not known; {nearest(name, RULES)} (one in a file is named "
                "path/to/file.py:Class)"
            )
        rule = make_rule(name)
        return hold_all(of_rule(rule), excuses(rule))
    found = _in_file(name)
    if isinstance(found, type) and issubclass(found, Rule):
        rule = load_rule(name, {})
        return hold_all(of_rule(rule), excuses(rule))
    return hold_all(_maker(name, found))


def _in_file(name: str) -> object:
    """What the file holds under the name. Whoever types it here means it to be run."""
    from flexlora.cli.trust import remember
    from flexlora.config.rule_file import read_rule_file

    file = read_rule_file(name)
    remember([file])
    return file.named(lambda x: isinstance(x, type) and hasattr(x, "aggregate"))


def _maker(name: str, found: object) -> Make:
    """`found`, if it makes aggregators. Raises ConfigError for what does not."""
    cure = "give a class derived from flexlora.Rule, or one with a method aggregate(sent, ranks)"
    if not callable(found):
        raise ConfigError(f"{name} is of type {type(found).__name__}; {cure}")
    try:
        made = found()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{name} cannot be made without arguments ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); {cure}"
        ) from error
    if not callable(getattr(made, "aggregate", None)):
        raise ConfigError(f"{name} is no rule and has no method aggregate; {cure}")
    return found
