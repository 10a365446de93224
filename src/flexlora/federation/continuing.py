"""A run to be continued: its state, and what a new run of it may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexlora.adapters import Delta
from flexlora.config.clients import ClientsConfig
from flexlora.config.config import Config
from flexlora.config.config_file import override, parse_config
from flexlora.config.sparse import sparse_rounds
from flexlora.errors import ConfigError, RunError, shown
from flexlora.federation.as_it_was import devices_of
from flexlora.federation.at_once import read as at_once_of
from flexlora.federation.setup import Setup
from flexlora.federation.starts import Start, run_record
from flexlora.formats.json_fields import text, whole
from flexlora.rules import Rule, Spec, State
from flexlora.rules.promises import require_begun, require_learned
from flexlora.runs.committed import Committed
from flexlora.runs.readout import ranks_of_type, require_checkpoint, require_rule_as_played
from flexlora.runs.run_directory import Record, Run
from flexlora.runs.store import ClientStore
from flexlora.training import CohortSize


@dataclass(frozen=True, eq=False)
class Parent:
    """A run to be continued, with its state and store after one of its rounds."""

    run: Run
    state: State
    store: ClientStore

    @staticmethod
    def open(folder: Path | str, round: int | str = "last") -> Parent:
        """Raises RunError for what is no run, or for a round whose checkpoint is not kept."""
        opened = Run.open(folder)
        stands = Committed.of(opened, require_checkpoint(opened, round))
        return Parent(opened, stands.state, stands.store)

    def config_with(
        self, tables: Mapping[str, Mapping[str, Any]], overrides: Sequence[str] = ()
    ) -> Config:
        """The parent's config with these keys on top, then these `table.key=value` overrides.

        Raises ConfigError for keys as `load_config` does, for no round left to play, and for
        `model.init_from` and `model.init_force`: the parent is what the run begins from.
        """
        document = self.run.config.document()
        for key in ("init_from", "init_force"):
            document["model"].pop(key, None)
        for name, table in tables.items():
            # What is no table is left for parse_config to refuse.
            known = document.get(name, {})
            document[name] = {**known, **table} if isinstance(table, Mapping) else table
        config = parse_config(override(document, overrides))
        if config.model.init_from is not None:
            raise ConfigError(
                f"model.init_from is {config.model.init_from}, but a continued run begins from its "
                "parent; leave it out, or start a new run with flexlora run"
            )
        if config.model.init_force:
            raise ConfigError(
                "model.init_force is true, but a continued run begins from its parent, whose base "
                "it shares; leave it out"
            )
        if config.federation.rounds <= self.state.round:
            raise ConfigError(
                f"federation.rounds is {config.federation.rounds}, but {self.run.folder} is at "
                f"round {self.state.round} already; raise it: --set "
                f"federation.rounds={self.state.round + 1} or more"
            )
        return config

    @property
    def threads(self) -> int:
        """The CPU threads that the parent ran with: others round differently."""
        with self.run.undamaged("resolved.toml"):
            return whole(self.run.resolved, "threads")

    def at_once(self) -> CohortSize:
        """The clients that the parent trained at once: other numbers round differently."""
        return CohortSize(at_once_of(self.run), ())

    def types(self, asked: ClientsConfig) -> dict[str, str]:
        """Client → the type that it keeps; none does where another mix is asked for, or devices
        where there were none."""
        was = self.run.config.clients
        alike = asked.mix == was.mix and (asked.devices is None) == (was.devices is None)
        return (devices_of(self.run) or self.store.types) if alike else {}

    def start(self, setup: Setup, rule: Rule) -> Start:
        """The parent's state, Δ, ranks and held versions, for a new run of this config.

        Bit for bit, where [rule] and the highest and lowest ranks are the parent's. Else the state
        is made anew from all that was learned, as by `warm_start`, and Δ is sent whole once.
        Clients keep their types unless another mix is asked for; new ones are drawn, those gone are
        dropped, and a client whose type's ranks changed has its new ranks. Raises RunError for
        another rule or mode, a rule whose file has changed, another α, scaling or base, or other
        layers.
        """
        self._require_same(setup, rule)
        self._require_stage(setup)
        state = self.state
        if setup.spec != state.spec or setup.config.rule != self.run.config.rule:
            state = _made_anew(rule, setup.spec, state, setup.streams.generator("init"))
        return Start(state, self._store(setup), self._record())

    def _require_same(self, setup: Setup, rule: Rule) -> None:
        base = setup.config.model.name
        was, now = self.state.spec, setup.spec
        with self.run.undamaged("data.json"):
            weights = text(self.run.data, "model_fingerprint")
        differing = [
            f"{words} is {mine}, not {theirs} as in {self.run.folder}"
            for words, mine, theirs in (
                ("rule.name", setup.config.rule.name, self.run.config.rule.name),
                ("federation.mode", *(x.federation.mode for x in (setup.config, self.run.config))),
                ("training.alpha", now.alpha, was.alpha),
                ("training.scaling", now.scaling, was.scaling),
            )
            if mine != theirs
        ]
        if not differing:
            require_rule_as_played(self.run)
        if weights != setup.ground.fingerprint:
            differing.append(f"the base model {base} is not that of {self.run.folder}")
        if now.layers != was.layers:
            differing.append(f"the adapted layers are not those of {self.run.folder}")
        if differing:
            raise RunError(
                f"{differing[0]}, which a continued run cannot change; start a new run with "
                f'model.init_from = "{self.run.folder}"'
            )

    def _require_stage(self, setup: Setup) -> None:
        """Raise RunError for sparse rounds that would begin late, or go on otherwise."""
        was, now = (sparse_rounds(x) for x in (self.run.config, setup.config))
        if now and not was:
            raise RunError(
                f"training.host is slora, not {self.run.config.training.host} as in "
                f"{self.run.folder}, and sparse rounds come before all others; leave it as it was"
            )
        anew = setup.spec != self.state.spec or setup.config.rule != self.run.config.rule
        if self.state.round < was and (anew or now != was):
            raise RunError(
                f"{self.run.folder} is at round {self.state.round} of {was} sparse rounds, which "
                "go on with the ranks, the rule and the host that they began with; continue from a "
                "later round, or leave these as they were"
            )

    def _store(self, setup: Setup) -> ClientStore:
        before = {kind: self._ranks(kind, setup) for kind in set(self.store.types.values())}
        store = setup.roster.fresh_store()
        for client, ranks in store.ranks.items():
            kind = self.store.types.get(client)
            if kind is not None and before[kind] == ranks:
                store.ranks[client] = self.store.ranks[client]  # Pruned ones, perhaps.
                if client in self.store.within and self._chooses_alike(setup):
                    store.within[client] = self.store.within[client]
        for mine, theirs in (
            (store.held, self.store.held),
            (store.answered, self.store.answered),
            (store.failed, self.store.failed),
            (store.resting, self.store.resting),
        ):
            mine |= {client: value for client, value in theirs.items() if client in store.ranks}
        return store

    def _chooses_alike(self, setup: Setup) -> bool:
        """Whether ranks that were chosen by what they leave out stand on."""
        was, now = self.run.config.clients, setup.config.clients
        return (was.leave_out, was.leave_out_every) == (now.leave_out, now.leave_out_every)

    def _ranks(self, kind: str, setup: Setup) -> dict[str, int]:
        """Layer → rank of a type, before anybody pruned anything."""
        asked = self.run.config.clients
        one_place = self.run.config.federation.mode == "centralised"
        if asked.level != "own" or one_place:  # All of its clients had these.
            return dict(self.state.spec.highest)
        with self.run.undamaged("checkpoints"):
            found = ranks_of_type(self.run, kind, setup.spec.layers)
            if found is None:
                raise ValueError(f"store has the type {shown(kind)}, which its config has not")
        return found

    def _record(self) -> Record:
        return {**run_record(self.run, self.state), "start": self.state.round}


def _made_anew(rule: Rule, spec: Spec, state: State, generator: torch.Generator) -> State:
    learned = require_learned(rule, rule.learned(state), state.spec)
    warm = require_begun(rule, rule.warm_start(spec, learned, generator))
    # A version that nobody holds and that no patch leads to: every client is sent Δ whole.
    layers = warm.delta.layers
    delta = Delta(state.delta.version + 1, layers) if layers else Delta()
    return State(spec, state.round, warm.layers, delta)
