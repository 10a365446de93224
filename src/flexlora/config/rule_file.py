"""A rule out of a user's own file, named as "path/to/file.py:Class"."""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Mapping
from typing import Any

from flexlora.errors import ConfigError, FlexLoRAError
from flexlora.formats.user_file import UserFile
from flexlora.options import checked
from flexlora.rules import RULES, Rule, Traits

_CONSTANTS = {"name": str, "source": str, "traits": Traits, "by_design": Mapping}
# Class → its file, by which other processes find it.
_ORIGIN: dict[type[Rule], UserFile] = {}


def read_rule_file(spec: str) -> UserFile:
    """The file as it is now. Raises ConfigError for a name of another form, or if it is missing."""
    return UserFile.read(spec, "rule", "Class")


def load_rule(spec: str, options: Mapping[str, Any]) -> Rule:
    """The rule that a file holds under this name, with its options. It is not registered.

    The class derives from `flexlora.Rule`, lacks none of its methods, and has name, source and
    traits. The path is relative to the working directory. The file is run as Python, with all that
    this may do; the same content runs once. The rule can be sent to another process.
    Raises ConfigError for a file that is missing or fails, a name that it lacks, what is no whole
    rule, a rule's name that is taken, and options that are unknown or wrong.
    """
    file = read_rule_file(spec)
    made = _class_of(file)
    given = checked(made, options, chooser="rule.name", name=spec, others=RULES)
    try:
        return made(**given)
    except FlexLoRAError:
        raise
    except Exception as error:
        raise ConfigError(
            f"rule {spec!r} cannot be made: {type(error).__name__}: "
            f"{' '.join(str(error).split())}; correct it"
        ) from error


def _class_of(file: UserFile) -> type[Rule]:
    found = file.named(lambda x: isinstance(x, type) and issubclass(x, Rule))
    where = f"{file.name!r} of rule file {file.shown}"
    if not (isinstance(found, type) and issubclass(found, Rule)):
        raise ConfigError(f"{where} is no rule; give a class that derives from flexlora.Rule")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"{where} lacks {lacking}; define what flexlora.Rule asks for")
    for constant, kind in _CONSTANTS.items():
        value = getattr(found, constant, None)
        if not isinstance(value, kind) or value == "":
            raise ConfigError(
                f"{where} has no {constant}; give the class a constant {constant} of type "
                f"{kind.__name__}"
            )
    if RULES.get(found.name, found) is not found:
        raise ConfigError(
            f"{where} calls itself {found.name!r}, as a registered rule does; choose another name"
        )
    if found not in _ORIGIN:
        _ORIGIN[found] = file
        copyreg.pickle(found, _reduced)
    return found


def _reduced(rule: Rule) -> tuple[Any, ...]:
    """How a rule is sent: with its file, since no import finds its class elsewhere."""
    return _restored, (_ORIGIN[type(rule)], vars(rule))


def _restored(file: UserFile, held: Mapping[str, Any]) -> Rule:
    rule = object.__new__(_class_of(file))
    vars(rule).update(held)
    return rule
