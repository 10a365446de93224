"""What the server tells every client of a run, and the config that a client makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.errors import ConfigError, WireError, shown
from flexlora.flower.client_file import COMMON, ClientFile
from flexlora.formats.json_fields import table, text

# Keys that are the server's own, or each client's: no path of one machine reaches another.
_OWN: Mapping[str, tuple[str, ...]] = {
    "model": ("name", "device", "init_from", "init_force"),
    "evaluation": ("unseen", "validation_examples", "validation_clients"),
}
_ALIKE = ("model", "rule", "screens", "training", "federation", "evaluation")


@dataclass(frozen=True, eq=False)
class Plan:
    """run: its id, the same however often it is gone on with; document: the tables of its config
    that are alike for all; today: what chat templates are told that ask for the date."""

    run: str
    document: Mapping[str, Any]
    today: date

    @staticmethod
    def of(config: Config, run: str, today: date) -> Plan:
        whole = config.document()
        shared: dict[str, Any] = {
            name: {k: v for k, v in whole[name].items() if k not in _OWN.get(name, ())}
            for name in _ALIKE
            if name in whole
        }
        shared["data"] = {key: whole["data"][key] for key in COMMON}
        if config.run.threads is not None:
            shared["run"] = {"threads": config.run.threads}
        return Plan(run, shared, today)

    def to_facts(self) -> dict[str, Any]:
        return {"config": dict(self.document), "today": self.today.isoformat()}

    @staticmethod
    def from_facts(run: str, facts: Mapping[str, Any]) -> Plan:
        """Raises WireError for what is none."""
        try:
            return Plan(run, table(facts, "config"), date.fromisoformat(text(facts, "today")))
        except ValueError as error:
            raise WireError(f"a message tells no run's config: {error}") from error

    @property
    def key(self) -> tuple[str, str]:
        """Equal for plans that ask for the same."""
        return self.run, json.dumps(self.to_facts(), sort_keys=True)

    def config_for(self, client: ClientFile) -> Config:
        """The config that this client plays its part by, with its own model, data and threads.

        Raises ConfigError for what does not fit together, and for a rule or metric that is in a
        file: no code is run because a server says so.
        """
        own = client.model_dump()
        document: dict[str, dict[str, Any]] = {
            name: self._told(name, _OWN.get(name, ())) for name in _ALIKE
        }
        document["model"] |= own["model"]
        document["evaluation"]["unseen"] = False
        for name in ("data", "partition"):
            options = own[name].pop("options")
            document[name] = {**own[name], **options}
        common = self._told("data")
        document["data"] |= {key: common[key] for key in COMMON if key in common}
        threads = client.run.threads or self._told("run").get("threads")
        document["run"] = {"clients_at_once": 1, "workers": 1}
        if threads is not None:
            document["run"]["threads"] = threads
        config = parse_config(document)
        for name in (config.rule.name, *config.evaluation.metrics, config.evaluation.metric):
            if ":" in name or name.endswith(".py"):
                raise ConfigError(
                    f"the server asks for {name}, which is code in a file, and no client runs code "
                    "because a server says so; use what FlexLoRA itself has"
                )
        return config

    def _told(self, name: str, without: Sequence[str] = ()) -> dict[str, Any]:
        """A table as the server tells it. Raises ConfigError for what is none."""
        found = self.document.get(name, {})
        if not isinstance(found, Mapping):
            raise ConfigError(f"the server's config has {name} {shown(found)}, expected a table")
        return {key: value for key, value in found.items() if key not in without}
