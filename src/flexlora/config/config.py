"""What one federation is: frozen, strict, one level of tables. Reading files: `config_file`."""

from __future__ import annotations

from typing import Any

from flexlora.config.clients import ClientsConfig as ClientsConfig
from flexlora.config.data import DataConfig as DataConfig
from flexlora.config.data import PartitionConfig as PartitionConfig
from flexlora.config.evaluation import EvaluationConfig as EvaluationConfig
from flexlora.config.faults import FaultsConfig as FaultsConfig
from flexlora.config.hostile import HostileConfig as HostileConfig
from flexlora.config.model import ModelConfig as ModelConfig
from flexlora.config.rule import RuleConfig as RuleConfig
from flexlora.config.run import RunConfig as RunConfig
from flexlora.config.screens import ScreensConfig as ScreensConfig
from flexlora.config.table import Table
from flexlora.config.toml import to_toml
from flexlora.config.training import FederationConfig as FederationConfig
from flexlora.config.training import TrainingConfig as TrainingConfig


class Config(Table):
    """A whole federation. `Config()` is the paper's setting on the embedded model and tasks."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    clients: ClientsConfig = ClientsConfig()
    rule: RuleConfig = RuleConfig()
    screens: ScreensConfig = ScreensConfig()
    hostile: HostileConfig = HostileConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    faults: FaultsConfig = FaultsConfig()
    run: RunConfig = RunConfig()

    @property
    def rule_name(self) -> str:
        """What combines: the rule's name, or "local" where nothing does."""
        return self.rule.name if self.federation.mode != "local" else self.federation.mode

    def document(self) -> dict[str, dict[str, Any]]:
        """Table → key → value as in the TOML file: options as keys, nothing that is none."""
        tables: dict[str, dict[str, Any]] = {}
        for name, table in self.model_dump().items():
            table |= table.pop("options", {})
            table |= table.pop("chosen", {})
            tables[name] = {key: value for key, value in table.items() if value is not None}
        if not tables["screens"]:
            del tables["screens"]
        if self.faults == FaultsConfig():
            del tables["faults"]
        return tables

    def to_toml(self) -> str:
        """The TOML that `config_file.load_config` reads back as an equal config, bit for bit."""
        return to_toml(self.document())
