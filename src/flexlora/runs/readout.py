"""What a run hands out: its state after a round, and adapters of any rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flexlora.adapters import About, Adapter, Factors, LayerSpec, Ranks, factors_of
from flexlora.adapters.kept import parsed_rank, require_rank_or_energy
from flexlora.config.settings import played_rule, rule_fingerprint
from flexlora.errors import ConfigError, RuleError, RunError, nearest, shown
from flexlora.formats.json_fields import table, text
from flexlora.lowrank import svd
from flexlora.models import base_fingerprint
from flexlora.rules import Rule, State
from flexlora.runs.packed_state import unpack
from flexlora.runs.run_directory import CODE, Checkpoint, Run

_DIGITS = 18  # Of a round's number as text at most: no run has more.


def load_adapter(
    folder: Path | str,
    rank: int | str | Mapping[str, int] | None = None,
    round: int | str = "best",
    *,
    energy: float | None = None,
    type: str | None = None,
) -> Adapter:
    """The adapter that a run hands out at this rank ("full": the state's own), energy or type.

    rank: of every layer, or {pattern: rank} as in [clients.types]. type: instead of a rank, the
    ranks that this type of the run's clients affords, at which it is scored (it trains at others
    where clients.level is not "own"). energy: instead of a rank, the share of
    ‖ΔW‖² that every layer is to keep, above 0 and at most 1; each layer gets the lowest rank that
    does. round: a number of a kept checkpoint, "best" (by validation), or "last". The adapter knows
    the base model that the run adapted. Raises RunError for a run without that checkpoint,
    RankError for a rank that does not fit, ConfigError for none or two of rank, energy and type, a
    type that no client is of, or an energy out of its range.
    """
    opened = Run.open(folder)
    rule = shared_rule(opened)
    if type is None or rank is not None or energy is not None:
        require_rank_or_energy(rank, energy, "what the adapter is to hold")
    if type is not None and (rank is not None or energy is not None):
        raise ConfigError("type is given beside rank or energy; give just one of them")
    state = load_state(opened, round)
    if type is not None:
        with _of_a_whole_state(opened):
            ranks = rule.ranks_for(state.spec, _ranks_of(opened, type, state))
            return _described(opened, rule.readout(state, ranks))
    if energy is not None:
        with _of_a_whole_state(opened):
            return _described(opened, _of_energy(rule, state, energy))
    return adapter_of(opened, rule, state, "full" if rank is None else rank)


def shared_rule(opened: Run) -> Rule:
    """The rule that hands a run's adapters out. RunError where every client keeps its own, and for
    one whose file is not as the run had it: it would hand out something else."""
    require_rule_as_played(opened)
    rule = played_rule(opened.config)
    if rule.traits.alone:
        raise RunError(
            f"every client of {opened.folder} has trained alone and keeps its own adapter, so that "
            "there is none to hand out; give a run whose federation.mode is another"
        )
    return rule


def require_rule_as_played(opened: Run) -> None:
    """Raise RunError where the run's rule is in a file that has changed since it was played."""
    if not opened.config.rule.in_file:
        return
    with opened.undamaged("data.json"):
        was = text(opened.data, "rule_fingerprint")
    if rule_fingerprint(opened.config.rule) != was:
        raise RunError(
            f"the file of rule {opened.config.rule.name} has changed since {opened.folder} was "
            f"played; restore it: as it was, it lies in {opened.folder / CODE}"
        )


def _ranks_of(opened: Run, type: str, state: State) -> dict[str, int]:
    """Layer → rank of a type that clients of the run have."""
    there = table(opened.resolved, "clients")
    if type not in there:
        raise ConfigError(
            f"{opened.folder} has no clients of type {shown(type)}; {nearest(type, there)}"
        )
    if opened.config.federation.mode == "centralised":  # It has one client, of the highest ranks.
        return dict(state.spec.highest)
    found = ranks_of_type(opened, type, state.spec.layers)
    if found is None:
        raise ValueError(f"clients has the type {shown(type)}, which its config has not")
    return found


def ranks_of_type(opened: Run, kind: str, layers: Sequence[LayerSpec]) -> dict[str, int] | None:
    """Layer → rank of a client type, by the config or as its devices afforded it; None for a type
    that the run has not."""
    afforded: Mapping[str, Mapping[str, int]] = opened.resolved.get("afforded", {})
    if kind in afforded:
        return Ranks.of(afforded[kind]).resolve(layers, clip=True)
    clients = opened.config.clients
    found = clients.ranks_of(kind)
    return None if found is None else found.resolve(layers, clip=not clients.strict)


def adapter_of(
    opened: Run, rule: Rule, state: State, rank: int | str | Mapping[str, int]
) -> Adapter:
    """The adapter that this state of the run hands out at this rank, as `load_adapter` does."""
    if isinstance(rank, Mapping):
        asked: int | str | Mapping[str, int] = rank
    else:
        asked = parsed_rank(rank, f"rank '{rank}'")
    with _of_a_whole_state(opened):
        if asked == "full":
            values = rule.singular_values(state)
            ranks = {name: max(1, len(of_layer)) for name, of_layer in values.items()}
        else:
            assert not isinstance(asked, str)
            ranks = Ranks.of(asked).resolve(state.spec.layers)
        return _described(opened, rule.readout(state, ranks))


@contextmanager
def _of_a_whole_state(opened: Run) -> Iterator[None]:
    """What a rule cannot do with the tensors of a checkpoint is damage to that checkpoint."""
    with opened.undamaged("checkpoints"):
        try:
            yield
        except RuleError as error:
            if error.__cause__ is None:  # The rule's own slip, whatever the tensors.
                raise
            raise ValueError(str(error)) from error
        except RuntimeError as error:  # torch's, for shapes and values that do not go together.
            raise ValueError(str(error)) from error


def _of_energy(rule: Rule, state: State, energy: float) -> dict[str, Factors]:
    """Layer → the best factors that keep this share; a layer of zeros has rank 1, of zeros."""
    layers = {}
    for name, matrix in rule.learned(state).items():
        spectrum = svd(matrix)
        rank = max(1, spectrum.rank_for(energy))
        layers[name] = factors_of(spectrum, rank, state.spec.scale(rank))
    return layers


def _described(opened: Run, layers: Mapping[str, Factors]) -> Adapter:
    """The adapter that knows the base model of its run."""
    model, weights = opened.config.model, opened.data.get("model_fingerprint")
    about = About(
        base=model.name,
        base_fingerprint=base_fingerprint(model.precision, str(weights)) if weights else "",
        fan_in_fan_out=opened.resolved.get("fan_in_fan_out") is True,
    )
    return Adapter(dict(layers), about)


def load_state(opened: Run, round: int | str = "best") -> State:
    """A run's state after a round: its number, "best" or "last". Raises RunError for none."""
    tensors, meta = require_checkpoint(opened, round)
    with opened.undamaged("checkpoints"):
        return unpack(tensors, table(meta, "state"))


def require_checkpoint(opened: Run, round: int | str) -> Checkpoint:
    """(tensors, meta) of a round: its number (also as text), "best" or "last".

    Raises RunError naming the rounds that are kept.
    """
    if isinstance(round, str) and round.isascii() and round.isdecimal():
        round = int(round[:_DIGITS])
    checkpoint = opened.load_checkpoint(round)
    if checkpoint is None:
        kept = ", ".join(map(str, opened.checkpoints()))
        raise RunError(
            f"{opened.folder} has no checkpoint of round {round}; it keeps those of {kept}"
            if kept
            else f"{opened.folder} has no checkpoint yet; go on with: flexlora resume"
        )
    return checkpoint
