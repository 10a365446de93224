"""What a federation begins from other than the bare base model: an adapter, or another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from flexlora.adapters import Adapter, factors_payload
from flexlora.config.config import Config
from flexlora.errors import AdapterError, ConfigError
from flexlora.federation.setup import Setup
from flexlora.formats.fingerprint import fingerprint
from flexlora.formats.home import expanded
from flexlora.formats.peft import is_peft, load_peft
from flexlora.models import base_fingerprint, require_made_for
from flexlora.rules import Rule, State
from flexlora.rules.promises import require_begun
from flexlora.runs.committed import Committed
from flexlora.runs.packed_state import pack
from flexlora.runs.progress import Progress
from flexlora.runs.readout import adapter_of, load_state, shared_rule
from flexlora.runs.run_directory import Checkpoint, Record, Run
from flexlora.runs.store import ClientStore
from flexlora.tasks.trained import UNTRAINED, Trained


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
        return Committed(self.state, self.store, Progress()).checkpoint()


def kind_of(path: Path | str) -> Literal["adapter", "run"]:
    """Whether a folder holds a PEFT adapter or a run. Raises AdapterError for neither."""
    folder = expanded(path)
    if (folder / "config.toml").is_file() and (folder / "format.json").is_file():
        return "run"
    if is_peft(folder):
        return "adapter"
    what = "is neither an adapter nor a run" if folder.exists() else "does not exist"
    raise AdapterError(
        f"{path} {what}; give a PEFT folder (with adapter_config.json) or a run directory"
    )


def trained_before(config: Config) -> Trained:
    """What the run that `model.init_from` names was trained on; of an adapter nothing is known.

    Raises AdapterError for what is neither.
    """
    path = config.model.init_from
    if path is None:
        return UNTRAINED
    return Run.open(path).trained() if kind_of(path) == "run" else Trained(whole=False)


def warm_start(setup: Setup, rule: Rule) -> Start | None:
    """W₀ + the adapter of `model.init_from`, as the rule's state; None where nothing is named.

    A run gives all that it had learned by its best round. Layers that the adapter lacks begin at
    zero. Raises AdapterError for layers or shapes that the adapted model does not have, and,
    unless `model.init_force` is set, for an adapter that was made for another base model.
    """
    config = setup.config
    path, force = config.model.init_from, config.model.init_force
    if path is None:
        if force:
            raise ConfigError(
                "model.init_force is true but model.init_from is not set; set it, or leave out "
                "model.init_force (--force)"
            )
        return None
    adapter, parent = _read(path)
    products = {name: factors.product() for name, factors in adapter.items()}
    generator = setup.streams.generator("init")
    known = base_fingerprint(config.model.precision, setup.ground.fingerprint)
    try:
        state = require_begun(rule, rule.warm_start(setup.spec, products, generator))
        if not force:
            cure = "set model.name to that model, or model.init_force to true (--force)"
            require_made_for(adapter, config.model.name, known, cure)
    except AdapterError as error:
        raise AdapterError(f"model.init_from = {path}: {error}") from error
    return Start(state, setup.roster.fresh_store(), {**parent, "start": 0})


def _read(path: str) -> tuple[Adapter, Record]:
    """The adapter that a PEFT folder holds, or that a run hands out in full at its best round."""
    folder = expanded(path)
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
    rule = shared_rule(opened)
    state = load_state(opened, "best")
    return adapter_of(opened, rule, state, "full"), run_record(opened, state) | {"path": path}


def run_record(opened: Run, state: State) -> Record:
    return {
        "path": str(opened.folder),
        "kind": "run",
        "rule": opened.config.rule_name,
        "round": state.round,
        "commit": opened.environment.get("commit"),
        "fingerprint": fingerprint(pack(state)[0].items()),
    }


def _tensors(adapter: Adapter) -> dict[str, Tensor]:
    scales = {f"{name}.scale": torch.tensor([f.scale]).double() for name, f in adapter.items()}
    return {**factors_payload(adapter).tensors, **scales}
