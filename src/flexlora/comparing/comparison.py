"""A comparison as its config file says it, checked whole before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flexlora.comparing.arms import Arm, Tables, make_arms
from flexlora.comparing.settings import CompareConfig
from flexlora.config.config import Config
from flexlora.config.config_file import read_document, sentence
from flexlora.config.plain import require_plain
from flexlora.config.table import Table
from flexlora.config.toml import describe, to_toml
from flexlora.errors import ConfigError, RunError, nearest, shown
from flexlora.formats.visible import brief

FILE = "compare.toml"  # In a comparison's folder: its config as it is played.
_FIXED = {"federation.seed": "compare.seeds", "training.learning_rate": "compare.rates"}


class _Document(Table):
    """The table that a comparison has beside those of a run's config."""

    compare: CompareConfig


@dataclass(frozen=True, eq=False)
class Comparison:
    """settings: of [compare]; arms: all, in order, each by another name; document: all tables."""

    settings: CompareConfig
    arms: tuple[Arm, ...]
    document: Mapping[str, Any]

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def played(self) -> list[Arm]:
        """All arms but the base model."""
        return [arm for arm in self.arms if arm.played]

    def to_toml(self) -> str:
        """What `load_comparison` reads back as an equal one."""
        return to_toml(self.document)


def load_comparison(path: Path | str) -> Comparison:
    """Read the config of a comparison.

    Raises ConfigError for all that can be told of it without the data: a file that cannot be read,
    unknown tables and keys, wrong values, arms that are named twice or cannot be, seeds that are
    too few for the test that is asked for.
    """
    return parse_comparison(read_document(path))


def read_comparison(out: Path) -> Comparison:
    """The comparison of a folder, as it was played. Raises RunError for a folder without one."""
    path = out / FILE
    if not path.is_file():
        raise RunError(f"{out} holds no comparison: it has no {FILE}; give a folder that has one")
    try:
        return load_comparison(path)
    except ConfigError as error:
        raise RunError(f"{path} cannot be used: {error}") from error


def parse_comparison(document: Mapping[str, Any]) -> Comparison:
    """The same from its tables. Raises ConfigError as `load_comparison` does."""
    require_plain(document)
    _require_tables(document)
    settings = _settings(document.get("compare", {}))
    base = {name: document[name] for name in document if name not in ("compare", "arms")}
    further = _further(document.get("arms", {}))
    for where, tables in (("config", base), *((f"arm {shown(n)}:", t) for n, t in further.items())):
        _require_free(where, tables, settings)
    base = _scored(base, settings)
    arms = tuple(make_arms(settings, base, further))
    _require_arms(settings, arms)
    return Comparison(settings, arms, document)


def told_apart(find: Callable[[Arm], str], arms: tuple[Arm, ...] | list[Arm]) -> str:
    """What is wrong with arms, all of it in one sentence; "" for nothing. What is wrong with
    several for the same reason is told once. find: what is wrong with one."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        if words := find(arm):
            found.setdefault(words, []).append(arm.name)
    if list(found.values()) == [[arm.name for arm in arms]]:
        return next(iter(found))
    return "; and ".join(
        f"{'arm' if len(names) == 1 else 'arms'} {', '.join(names)}: {words}"
        for words, names in found.items()
    )


def _require_tables(document: Mapping[str, Any]) -> None:
    known = [*Config.model_fields, "compare", "arms"]
    for name, table in document.items():
        if name not in known:
            given = brief(name)
            thing = f"table [{given}]" if isinstance(table, Mapping) else f"key '{given}'"
            raise ConfigError(f"config {thing} is unknown; {nearest(name, known)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"config {name} is {describe(table)}, expected a table [{name}]")


def _settings(table: Mapping[str, Any]) -> CompareConfig:
    if "seeds" not in table:
        raise ConfigError("config [compare] has no seeds; name those on which arms are compared")
    try:
        return _Document.model_validate({"compare": dict(table)}).compare
    except ValidationError as error:
        raise ConfigError(sentence(error, _Document)) from error


def _further(arms: Mapping[str, Any]) -> dict[str, Tables]:
    """[arms]: name → tables of a config."""
    for name, tables in arms.items():
        where = f'[arms."{brief(name)}"]'
        if not isinstance(tables, Mapping):
            raise ConfigError(f"config {where} is {describe(tables)}, expected a table of keys")
        for table, keys in tables.items():
            if table not in Config.model_fields:
                raise ConfigError(
                    f"config {where}: {brief(table)} is unknown; "
                    f"{nearest(table, Config.model_fields)}"
                )
            if not isinstance(keys, Mapping):
                raise ConfigError(
                    f"config {where}: {table} is {describe(keys)}, expected keys of [{table}], as "
                    f"{table}.key = value"
                )
    return dict(arms)


def _require_free(where: str, tables: Tables, settings: CompareConfig) -> None:
    """Raise ConfigError for what [compare] says of every run."""
    for path, by in _FIXED.items():
        table, key = path.split(".")
        if key in tables.get(table, {}) and (key == "seed" or settings.rates):
            raise ConfigError(f"{where} {path} is given beside {by}; leave it out")


def _scored(base: Tables, settings: CompareConfig) -> dict[str, Mapping[str, Any]]:
    """With what every run has to score so that the metric can be compared."""
    evaluation = dict(base.get("evaluation", {}))
    decides = evaluation.setdefault("metric", settings.metric)
    if decides != settings.metric:
        named = list(evaluation.get("metrics", Config().evaluation.metrics))
        if settings.metric not in named:
            evaluation["metrics"] = [*named, settings.metric]
    return {**base, "evaluation": evaluation}


def _require_arms(settings: CompareConfig, arms: tuple[Arm, ...]) -> None:
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        listed = ", ".join(map(shown, twice))
        raise ConfigError(f"config names {listed} twice among its arms; call each by its own name")
    if not any(arm.control is None for arm in arms):
        raise ConfigError("config [compare] has no rules and no [arms]; name what is compared")
    for name in settings.primary:
        if name not in names:
            raise ConfigError(
                f"config compare.primary: no arm is {shown(name)}; {nearest(name, names)}"
            )
