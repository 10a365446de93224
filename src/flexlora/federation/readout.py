"""What a run hands out: its state after a round, and adapters of any rank."""

from __future__ import annotations

from pathlib import Path

from flexlora.adapters import Adapter, Ranks
from flexlora.errors import RankError, RunError
from flexlora.federation.checkpoint import unpack
from flexlora.federation.run_directory import Checkpoint, Run
from flexlora.models import base_fingerprint
from flexlora.rules import Rule, State, make_rule


def load_adapter(folder: Path | str, rank: int | str, round: int | str = "best") -> Adapter:
    """The adapter that a run hands out at this rank ("full": the state's own rank).

    round: a number of a kept checkpoint, "best" (by validation), or "last". The adapter knows the
    base model that the run adapted. Raises RunError for a run without that checkpoint, RankError
    for a rank that does not fit.
    """
    opened = Run.open(folder)
    rule = make_rule(opened.config.rule.name, opened.config.rule.options)
    return adapter_of(opened, rule, load_state(opened, round), rank)


def adapter_of(opened: Run, rule: Rule, state: State, rank: int | str) -> Adapter:
    """The adapter that this state of the run hands out at this rank, as `load_adapter` does."""
    if rank == "full":
        values = rule.singular_values(state)
        ranks = {name: max(1, len(of_layer)) for name, of_layer in values.items()}
    else:
        ranks = Ranks.of(_whole(rank)).resolve(state.spec.layers)
    model, weights = opened.config.model, opened.data.get("model_fingerprint")
    return Adapter(
        dict(rule.readout(state, ranks)),
        base=model.name,
        base_fingerprint=base_fingerprint(model.dtype, str(weights)) if weights else "",
        fan_in_fan_out=opened.resolved.get("fan_in_fan_out") is True,
    )


def load_state(opened: Run, round: int | str = "best") -> State:
    """A run's state after a round: its number, "best" or "last". Raises RunError for none."""
    tensors, meta = require_checkpoint(opened, round)
    with opened.undamaged("checkpoints"):
        return unpack(tensors, meta["state"])


def require_checkpoint(opened: Run, round: int | str) -> Checkpoint:
    """(tensors, meta) of a round. Raises RunError naming the rounds that are kept."""
    checkpoint = opened.load_checkpoint(round)
    if checkpoint is None:
        kept = ", ".join(map(str, opened.checkpoints()))
        raise RunError(
            f"{opened.folder} has no checkpoint of round {round}; it keeps those of {kept}"
            if kept
            else f"{opened.folder} has no checkpoint yet; go on with: flexlora resume"
        )
    return checkpoint


def _whole(rank: int | str) -> int:
    try:
        return int(rank)
    except ValueError as error:
        raise RankError(f"rank '{rank}' is no whole number; give 1 or more, or 'full'") from error
