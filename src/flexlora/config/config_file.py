"""TOML → `Config`. Every problem is one sentence that names the key, its value and the cure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from flexlora.config.config import Config, ScreensConfig
from flexlora.config.plain import require_plain
from flexlora.config.table import Choice, Table
from flexlora.config.toml import describe, parse_toml, read_toml
from flexlora.errors import ConfigError, nearest
from flexlora.formats.home import expanded
from flexlora.formats.refused import cure_of
from flexlora.formats.visible import brief
from flexlora.options import bare, number

Document = dict[str, dict[str, Any]]

# pydantic's error types → what was expected, with the limits of its context filled in.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "an inline table",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "a name without slashes that does not begin with a dot",
    "too_short": "a list that is not empty",
}


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, then apply `table.key=value` overrides in order.

    An override's value is read as TOML; a bare word is text. `table.key.name=value` sets one entry
    of a key that is a table itself, as `clients.types.small=64` does. Raises ConfigError for a
    file that is missing, no plain file, too large or no TOML, unknown tables and keys, wrong types,
    and values out of range.
    """
    return parse_config(override(read_document(path), overrides))


def read_document(path: Path | str) -> dict[str, Any]:
    """The tables of a config file, whatever they hold. Raises ConfigError as `load_config` does."""
    try:
        return read_toml(expanded(path))
    except FileNotFoundError as error:
        raise ConfigError(f"config {path} does not exist; check the path") from error
    except OSError as error:
        words = f"{error.strerror}; {cure_of(error)}"
        raise ConfigError(f"config {path} cannot be read: {words}") from error
    except ValueError as error:
        if "\0" in str(path):
            raise ConfigError(f"config {str(path)!r} has NUL in its path; correct it") from error
        raise ConfigError(f"config {path} {error}") from error


def override(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The document with each `table.key=value` set. Raises ConfigError for any other form."""
    changed = {k: dict(v) if isinstance(v, Mapping) else v for k, v in document.items()}
    for item in overrides:
        path, equals, text = item.partition("=")
        # What lies below a key may be any name, as that of a client: dots in it are its own.
        parts = path.strip().split(".", 2)
        if not (equals and len(parts) > 1 and all(parts)):
            raise ConfigError(
                f"--set {brief(item)} is not of the form table.key=value; write it so"
            )
        table, key, *names = parts
        held = _table(changed, table, item)
        value = _override_value(item, text.strip())
        held[key] = _with(_table(held, key, item), names[0], value) if names else value
    return changed


def _with(table: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """The table with this entry set: in a table of its own where the name begins with one's."""
    dots = [place for place, x in enumerate(name) if x == "."] if name not in table else []
    for place in dots:
        inner, rest = table.get(name[:place]), name[place + 1 :]
        if isinstance(inner, Mapping) and rest:
            return {**table, name[:place]: _with(inner, rest, value)}
    return {**table, name: value}


def _table(document: dict[str, Any], name: str, item: str) -> dict[str, Any]:
    held = document.setdefault(name, {})
    if not isinstance(held, dict):
        raise ConfigError(
            f"--set {brief(item)}: '{brief(name)}' is no table; write [{brief(name)}] in the config"
        )
    return held


def make_config(**tables: Mapping[str, Any]) -> Config:
    """A config from its tables as keywords: `make_config(rule={"name": "flora"}, …)`.

    What is left out has the value of `Config()`. Raises ConfigError as `load_config` does.
    """
    return parse_config(tables)


def parse_config(document: Mapping[str, Any]) -> Config:
    """A config from its tables, as `Config.document` gives them. Raises ConfigError."""
    require_plain(document)
    known = Config.model_fields
    for name, table in document.items():
        if name == "client" and isinstance(table, Mapping):
            raise ConfigError(
                "config has the table [client], so it is a client's file: give it to flexlora "
                "flower client, and a federation's config here"
            )
        if name not in known:
            given = brief(name)
            thing = f"table [{given}]" if isinstance(table, Mapping) else f"key '{given}'"
            raise ConfigError(f"config {thing} is unknown; {nearest(name, known)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"config {name} is {describe(table)}, expected a table [{name}]")
    tables = {name: _with_options(name, table) for name, table in document.items()}
    try:
        config = Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(sentence(error)) from error
    try:
        config.clients.build_mix()
        config.clients.all_types()
    except ConfigError as error:
        raise ConfigError(f"config [clients]: {error}") from error
    return config


def _with_options(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of the document as the config holds it: options apart from the table's own keys."""
    kind = _kind(name)
    if issubclass(kind, ScreensConfig):
        for screen, options in table.items():
            if not isinstance(options, Mapping):
                given = brief(screen)
                raise ConfigError(
                    f"config screens.{given} is {describe(options)}, expected an inline table of "
                    f"options; write {given} = {{}}"
                )
        return {"chosen": dict(table)}
    if not issubclass(kind, Choice):
        return dict(table)
    own = {key: value for key, value in table.items() if key in kind.own_keys()}
    options = {key: value for key, value in table.items() if key not in own}
    for key, value in options.items():
        if isinstance(value, Mapping):
            raise _nested(name, key)
    return {**own, "options": options}


def _override_value(item: str, text: str) -> Any:
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError as error:
        if not isinstance(error.__cause__, tomllib.TOMLDecodeError):
            raise ConfigError(f"--set {brief(item)}: the value {error}") from error
        if text == "" or text[0] in "\"'[{" or "\n" in text:
            raise ConfigError(
                f"--set {brief(item)}: {brief(text) or 'nothing'} is not a TOML value; write it "
                "as in the config"
            ) from error
        return text
    if set(parsed) != {"value"}:
        raise ConfigError(f"--set {brief(item)} sets more than one key; use one --set for each")
    return parsed["value"]


def sentence(error: ValidationError, document: type[Table] = Config) -> str:
    """The first wrong key, with all that its types would have taken. document: of which tables."""
    problems = error.errors(include_url=False)
    first = problems[0]
    table, key = (*map(str, first["loc"]), "")[:2]
    name = brief(key)
    fields = _kind(table, document).model_fields
    if first["type"] == "extra_forbidden":
        if isinstance(first["input"], Mapping):
            return str(_nested(table, key))
        return f"config key {table}.{name} is unknown; {nearest(key, fields)}"
    if first["type"] == "value_error":
        where = f"{table}.{key}" if key and key != "options" else f"[{table}]"
        return f"config {where}: {first['ctx']['error']}"
    if first["type"] == "literal_error":
        given, choices = first["input"], get_args(fields[key].annotation)
        return f"config {table}.{key} is {describe(given)}; {nearest(bare(given), choices)}"
    # One problem for each type of a union. A value of the right type that is out of range is told
    # the range of its type, not the other types.
    problems = [p for p in problems if p["loc"][:2] == first["loc"][:2]]
    problems = [p for p in problems if not p["type"].endswith("_type")][:1] or problems
    expected = dict.fromkeys(
        _EXPECTED.get(p["type"], p["msg"]).format_map(_in_words(p.get("ctx", {}))) for p in problems
    )
    return (
        f"config {table}.{key} is {describe(problems[0]['input'])}, "
        f"expected {' or '.join(expected)} ({fields[key].description}); correct it"
    )


def _in_words(limits: Mapping[str, Any]) -> dict[str, Any]:
    return {k: number(v) if isinstance(v, int | float) else v for k, v in limits.items()}


def _kind(table: str, document: type[Table] = Config) -> type[Table]:
    kind = document.model_fields[table].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, Table)
    return kind


def _nested(table: str, key: str) -> ConfigError:
    return ConfigError(
        f"config table [{table}.{brief(key)}] is nested too deep; tables go one level deep: "
        f"write plain keys into [{table}]"
    )
