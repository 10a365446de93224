"""What is compared: rules with their mixes and hosts, controls, and arms of one's own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

from flexlora.comparing.settings import CompareConfig, Control
from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.config.table import Choice

Tables = Mapping[str, Mapping[str, Any]]

BASE = "base"
_LONGEST = 80  # Characters of a slug, without its digest.


@dataclass(frozen=True, eq=False)
class Arm:
    """name: what it is called everywhere; tables: of its config, but for seed and learning rate.

    control: which one it is, or None. The base model is an arm that is never played.
    """

    name: str
    tables: Tables
    control: Control | None = None

    @property
    def played(self) -> bool:
        return self.control != BASE

    @property
    def slug(self) -> str:
        """A file name that no other arm has, on any file system."""
        return slug(self.name)

    def config(self, seed: int, rate: float | None = None, changes: Tables | None = None) -> Config:
        """Of its run with this seed. rate: None for that of its own tables; changes: on top.

        Raises ConfigError as `parse_config` does.
        """
        own: dict[str, dict[str, Any]] = {"federation": {"seed": seed}}
        if rate is not None:
            own["training"] = {"learning_rate": rate}
        return parse_config(merged(merged(self.tables, own), changes or {}))


def slug(name: str) -> str:
    """The name in letters, digits and dashes; a digest ends it where that took anything away."""
    plain = re.sub(r"[^a-z0-9._+=-]+", "-", name.lower()).strip("-.")[:_LONGEST]
    if name and plain == name:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain}-{digest}" if plain else digest


def merged(base: Tables, changes: Tables) -> dict[str, dict[str, Any]]:
    """base with the keys of changes. Where another rule, source or partition is named, the options
    of the one before go."""
    tables = {name: dict(table) for name, table in base.items()}
    for name, table in changes.items():
        held = tables.get(name, {})
        if _another(name, held, table):
            own = _kind(name).own_keys()
            held = {key: value for key, value in held.items() if key in own}
        tables[name] = {**held, **table}
    return tables


def make_arms(settings: CompareConfig, base: Tables, further: Mapping[str, Tables]) -> list[Arm]:
    """Rules × mixes × hosts, the controls, then further arms, in the order of the config.

    Where one mix or one host is named, it is that of every arm. Names may come twice here.
    """
    if len(settings.mixes) == 1:
        base = merged(base, {"clients": {"mix": settings.mixes[0]}})
    if len(settings.hosts) == 1:
        base = merged(base, {"training": {"host": settings.hosts[0]}})
    mixes = settings.mixes if len(settings.mixes) > 1 else ()
    hosts = settings.hosts if len(settings.hosts) > 1 else ()

    def crossed(
        name: str, tables: Tables, mixes: Sequence[str], control: Control | None = None
    ) -> Iterator[Arm]:
        for mix, host in product(mixes or (None,), hosts or (None,)):
            words = [name, *(x for x in (mix, host) if x is not None)]
            changes: dict[str, dict[str, Any]] = {}
            if mix is not None:
                changes["clients"] = {"mix": mix}
            if host is not None:
                changes["training"] = {"host": host}
            whole = merged(merged(base, tables), changes)
            if host is not None and host != "slora":  # Shared, but of that one alone.
                whole["training"].pop("sparse_rounds", None)
            yield Arm(" · ".join(words), whole, control)

    arms = [arm for rule in settings.rules for arm in crossed(rule, _of_rule(rule), mixes)]
    first = _of_rule(settings.rules[0]) if settings.rules else {}
    for name in settings.controls:
        control = cast("Control", name)
        if control == BASE:
            arms.append(Arm(BASE, merged(base, {}), control))
            continue
        tables = merged(first, _CONTROLS[name])
        if control == "local":
            arms += crossed(name, tables, mixes, control)
            continue
        if mixes:  # Of one rank whatever the mix is: one arm for all mixes.
            tables = merged(tables, {"clients": {"mix": mixes[0]}})
        arms += crossed(name, tables, (), control)
    arms += [Arm(name, merged(base, tables)) for name, tables in further.items()]
    return arms


_ALONE = {"on_clients": "off", "decide_by": "server"}
_CONTROLS: Mapping[str, Tables] = {
    "lowest": {"clients": {"level": "lowest"}},
    "highest": {"clients": {"level": "highest"}},
    "local": {"federation": {"mode": "local"}},
    "centralised": {"federation": {"mode": "centralised"}, "evaluation": _ALONE},
}


def _of_rule(name: str) -> dict[str, dict[str, Any]]:
    return {"rule": {"name": name}}


def _another(name: str, held: Mapping[str, Any], table: Mapping[str, Any]) -> bool:
    """Whether the table names another thing than the one whose options are held."""
    if name not in Config.model_fields or not issubclass(_kind(name), Choice):
        return False
    chooser = next(iter(set(_kind(name).own_keys()) & {"name", "source", "by"}))
    before = held.get(chooser, _kind(name).model_fields[chooser].default)
    return chooser in table and table[chooser] != before


def _kind(name: str) -> type[Choice]:
    return cast("type[Choice]", Config.model_fields[name].annotation)
