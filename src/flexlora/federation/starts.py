"""What a federation begins from other than the bare base model: an adapter, or another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Delta, factors_payload
from flexlora.config.config import Config
from flexlora.config.config_file import override, parse_config
from flexlora.config.settings import rule_of
from flexlora.errors import AdapterError, ConfigError, RunError
from flexlora.federation.at_once import read as at_once_of
from flexlora.federation.setup import Setup
from flexlora.federation.streams import Streams
from flexlora.formats.fingerprint import fingerprint
from flexlora.formats.peft import is_peft, load_peft
from flexlora.models import base_fingerprint, require_made_for
from flexlora.rules import Rule, Spec, State
from flexlora.runs.checkpoint import pack, unpack
from flexlora.runs.progress import Progress
from flexlora.runs.readout import adapter_of, load_state, require_checkpoint
from flexlora.runs.run_directory import Checkpoint, Record, Run
from flexlora.runs.store import ClientStore
from flexlora.training import CohortSize


@dataclass(frozen=True, eq=False)
class Start:
    """The server's state and the clients' store before the first round, and where they are from.

    parent: what becomes parent.json: path (as given), kind ("adapter" or "run"), rule and round
    (of a run), fingerprint of the tensors, commit that a run was made with, and start, the round
    whose state this is in the new run.
    """

    state: State
    store: ClientStore
    parent: Record

    def checkpoint(self) -> Checkpoint:
        """As the loop commits it: from here on a resume needs the parent no more."""
        tensors, meta = pack(self.state)
        progress, store = Progress().to_json(), self.store.to_json()
        return tensors, {"state": meta, "store": store, "progress": progress}


def kind_of(path: Path | str) -> Literal["adapter", "run"]:
    """Whether a folder holds a PEFT adapter or a run. Raises AdapterError for neither."""
    folder = Path(path).expanduser()
    if (folder / "config.toml").is_file() and (folder / "format.json").is_file():
        return "run"
    if is_peft(folder):
        return "adapter"
    what = "is neither an adapter nor a run" if folder.exists() else "does not exist"
    raise AdapterError(
        f"{path} {what}; give a PEFT folder (with adapter_config.json) or a run directory"
    )


def warm_start(config: Config, rule: Rule, setup: Setup) -> Start | None:
    """W₀ + the adapter of `model.init_from`, as the rule's state; None where nothing is named.

    A run gives all that it had learned by its best round. Layers that the adapter lacks begin at
    zero. Raises AdapterError for layers or shapes that the adapted model does not have, and,
    unless `model.init_force` is set, for an adapter that was made for another base model.
    """
    path, force = config.model.init_from, config.model.init_force
    if path is None:
        if force:
            raise ConfigError(
                "model.init_force is true but model.init_from is not set; set it, or leave out "
                "--force"
            )
        return None
    adapter, parent = _read(path)
    products = {name: factors.product() for name, factors in adapter.items()}
    generator = Streams(config.federation.seed).generator("init")
    known = base_fingerprint(config.model.precision, setup.model_fingerprint)
    try:
        state = rule.warm_start(setup.spec, products, generator)
        if not force:
            cure = "set model.name to that model, or --force to use it anyway"
            require_made_for(adapter, config.model.name, known, cure)
    except AdapterError as error:
        raise AdapterError(f"model.init_from = {path}: {error}") from error
    return Start(state, _fresh_store(setup), {**parent, "start": 0})


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
        tensors, meta = require_checkpoint(opened, round)
        with opened.undamaged("checkpoints"):
            state = unpack(tensors, meta["state"])
            store = ClientStore.from_json(meta["store"])
        return Parent(opened, state, store)

    def config_with(
        self, tables: Mapping[str, Mapping[str, Any]], overrides: Sequence[str] = ()
    ) -> Config:
        """The parent's config with these keys on top, then these `table.key=value` overrides.

        Raises ConfigError for keys as `load_config` does, for no round left to play, and for
        `model.init_from`: the parent is what the run begins from.
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
            return int(self.run.resolved["threads"])

    def at_once(self, config: Config) -> CohortSize | None:
        """The clients that the parent trained at once; None if this config names a number.

        Other numbers round differently.
        """
        if config.run.clients_at_once != "auto":
            return None
        return CohortSize(at_once_of(self.run), ())

    def start(self, config: Config, rule: Rule, setup: Setup) -> Start:
        """The parent's state, Δ, ranks and held versions, for a new run of this config.

        Bit for bit, where [rule] and the highest and lowest ranks are the parent's. Else the state
        is made anew from all that was learned, as by `warm_start`, and Δ is sent whole once.
        New clients begin as ever, those gone are dropped, and a client whose type's ranks changed
        has its new ranks. Raises RunError for another rule, α, scaling, base or other layers.
        """
        self._require_same(config, rule, setup)
        state = self.state
        if setup.spec != state.spec or config.rule != self.run.config.rule:
            streams = Streams(config.federation.seed)
            state = _made_anew(rule, setup.spec, state, streams.generator("init"))
        return Start(state, self._store(setup), self._record())

    def _require_same(self, config: Config, rule: Rule, setup: Setup) -> None:
        was, now = self.state.spec, setup.spec
        weights = self.run.data.get("model_fingerprint", setup.model_fingerprint)
        differing = [
            f"{words} is {mine}, not {theirs} as in {self.run.folder}"
            for words, mine, theirs in (
                ("rule.name", rule.name, self.run.config.rule.name),
                ("training.alpha", now.alpha, was.alpha),
                ("training.scaling", now.scaling, was.scaling),
            )
            if mine != theirs
        ]
        if weights != setup.model_fingerprint:
            differing.append(f"the base model {config.model.name} is not that of {self.run.folder}")
        if now.layers != was.layers:
            differing.append(f"the adapted layers are not those of {self.run.folder}")
        if differing:
            raise RunError(
                f"{differing[0]}, which a continued run cannot change; start a new run with "
                f'model.init_from = "{self.run.folder}"'
            )

    def _store(self, setup: Setup) -> ClientStore:
        types = self.run.config.clients.build_mix().types
        before = {
            name: types[name].resolve(setup.spec.layers) for name in set(self.store.types.values())
        }
        store = _fresh_store(setup)
        for client, ranks in store.ranks.items():
            kind = self.store.types.get(client)
            if kind is not None and before[kind] == ranks:
                store.ranks[client] = self.store.ranks[client]  # Pruned ones, perhaps.
        store.held |= {c: version for c, version in self.store.held.items() if c in store.ranks}
        return store

    def _record(self) -> Record:
        return {**_run_record(self.run, self.state), "start": self.state.round}


def _read(path: str) -> tuple[Adapter, Record]:
    """The adapter that a PEFT folder holds, or that a run hands out in full at its best round."""
    folder = Path(path).expanduser()
    if kind_of(path) == "adapter":
        adapter = load_peft(folder)
        origin = {"rule": None, "round": None, "commit": None}
        return adapter, {
            "path": path,
            "kind": "adapter",
            **origin,
            "fingerprint": fingerprint(_tensors(adapter).items()),
        }
    opened = Run.open(folder)
    rule = rule_of(opened.config.rule)
    state = load_state(opened, "best")
    return adapter_of(opened, rule, state, "full"), _run_record(opened, state) | {"path": path}


def _run_record(opened: Run, state: State) -> Record:
    return {
        "path": str(opened.folder),
        "kind": "run",
        "rule": opened.config.rule.name,
        "round": state.round,
        "commit": opened.environment.get("commit"),
        "fingerprint": fingerprint(pack(state)[0].items()),
    }


def _tensors(adapter: Adapter) -> dict[str, Tensor]:
    scales = {f"{name}.scale": torch.tensor([f.scale]).double() for name, f in adapter.items()}
    return {**factors_payload(adapter).tensors, **scales}


def _made_anew(rule: Rule, spec: Spec, state: State, generator: torch.Generator) -> State:
    warm = rule.warm_start(spec, rule.learned(state), generator)
    # A version that nobody holds and that no patch leads to: every client is sent Δ whole.
    layers = warm.delta.layers
    delta = Delta(state.delta.version + 1, layers) if layers else Delta()
    return State(spec, state.round, warm.layers, delta)


def _fresh_store(setup: Setup) -> ClientStore:
    ranks = {name: dict(found) for name, found in setup.ranks.items()}  # One for all of a type.
    return ClientStore(dict(setup.types), {c: ranks[name] for c, name in setup.types.items()})
