"""flexlora laws: an aggregation rule, or anybody's aggregator, held to the laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.cli.arguments import SetOption
from flexlora.errors import ConfigError, nearest, shown

if TYPE_CHECKING:
    from flexlora.laws import Make, Verdict
    from flexlora.rules import Rule


def laws(
    rule: Annotated[
        str | None,
        typer.Argument(
            metavar="[RULE | FILE.py:CLASS]",
            help="A registered rule, or a rule or aggregator in a Python file, which is run "
            "(default: all registered rules).",
        ),
    ] = None,
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hold a rule, or any aggregator, to the laws: which it keeps, and where it breaks one.

    Of a rule, --set rule.OPTION=VALUE sets its options.

    Exit code 1 where a law fails that the rule's traits do not excuse.
    """
    from flexlora.cli.laws_view import laws_json, show_one, show_table
    from flexlora.cli.output import print_json
    from flexlora.rules import RULES

    if set_ and rule is None:
        raise ConfigError(f"--set {shown(set_[0])} sets an option of a rule; name the rule, too")
    found = {
        name: _held(name, set_ or ()) for name in ([rule] if rule is not None else sorted(RULES))
    }
    if json_:
        print_json(laws_json(found), indent=2)
    elif rule is not None:
        show_one(", ".join([rule, *(set_ or ())]), found[rule])
    else:
        show_table(found)
    if any(x.standing == "fails" for verdicts in found.values() for x in verdicts):
        raise typer.Exit(1)


def _held(name: str, overrides: Sequence[str]) -> list[Verdict]:
    from flexlora.laws import hold_all
    from flexlora.rules import RULES, Rule

    if ":" not in name and not name.endswith(".py"):
        if name not in RULES:
            raise ConfigError(
                f"rule {shown(name)} is not known; {nearest(name, RULES)} (one in a file is named "
                "path/to/file.py:Class)"
            )
        return _held_rule(name, overrides)
    found = _in_file(name)
    if isinstance(found, type) and issubclass(found, Rule):
        return _held_rule(name, overrides)
    if overrides:
        raise ConfigError(
            f"--set {shown(overrides[0])}: {name} is no rule and takes no options; leave it out"
        )
    return hold_all(_maker(name, found))


def _held_rule(name: str, overrides: Sequence[str]) -> list[Verdict]:
    from flexlora.laws import excuses, hold_all, of_rule

    rule = _with_options(name, overrides)
    return hold_all(of_rule(rule), excuses(rule))


def _with_options(name: str, overrides: Sequence[str]) -> Rule:
    from flexlora.config.config_file import override, parse_config
    from flexlora.config.settings import rule_of

    for item in overrides:
        key = item.partition("=")[0].strip()
        if not key.startswith("rule.") or key == "rule.name":
            raise ConfigError(
                f"--set {shown(item)} is no option of a rule; write rule.OPTION=VALUE"
            )
    return rule_of(parse_config(override({"rule": {"name": name}}, overrides)).rule)


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
