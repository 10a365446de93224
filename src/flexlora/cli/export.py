"""flexlora export: an adapter of any rank from a run, alone or inside its base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.cli.arguments import CompactOption, ServeOption
from flexlora.cli.form_words import CHANGES_NOTHING, form_words
from flexlora.cli.places import require_free, require_there
from flexlora.cli.trust import TrustOption, require_trust

if TYPE_CHECKING:
    from flexlora.adapters import Adapter


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    out: Annotated[Path, typer.Option(help="The folder to make; it must not exist.")],
    rank: Annotated[str | None, typer.Option(help="A rank for every layer, or 'full'.")] = None,
    energy: Annotated[
        float | None,
        typer.Option(help="Keep this share of the energy in each layer, like 0.999, at any rank."),
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="The ranks that this type of client affords, at which it is scored, whatever "
            "clients.level has it train at.",
        ),
    ] = None,
    round_: Annotated[
        str, typer.Option("--round", help="'best' by validation, 'last', or a kept round.")
    ] = "best",
    compact: CompactOption = False,
    serve: ServeOption = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16 (default: float32 for an adapter; merged, as the "
            "run held its base model)."
        ),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            help="Write a whole model, the run's base with the adapter inside its weights.",
        ),
    ] = False,
    trust: TrustOption = None,
) -> None:
    """Write a PEFT adapter that all readers load alike, or a model that needs no adapter."""
    from flexlora.adapters.kept import require_rank_or_energy
    from flexlora.cli.console import say
    from flexlora.errors import ConfigError
    from flexlora.formats.peft import save_peft
    from flexlora.formats.peft_form import Form
    from flexlora.formats.stored_dtype import dtype_named
    from flexlora.runs import load_adapter

    beside = "--compact" if compact else "--serve"
    if merged and (compact or serve is not None):
        raise ConfigError(
            f"--merged writes a whole model, whose layers have no ranks, and {beside} says how an "
            "adapter's are written; give just one of them"
        )
    dtype_named(dtype)  # A wrong one ends here.
    form = Form.of(compact=compact, serve=serve)
    require_free(out)
    require_there("run", folder)
    if type_ is None:
        require_rank_or_energy(rank, energy, "what the adapter is to hold", dashes="--")
    elif rank is not None or energy is not None:
        raise ConfigError("--type is given beside --rank or --energy; give just one of them")
    require_trust(folder, trust, metrics=False)
    adapter = load_adapter(folder, rank, round_, energy=energy, type=type_)
    if merged:
        _merge(adapter, out, dtype)
    else:
        save_peft(adapter, out, compact=compact, serve=serve, dtype=dtype)
        say(f"{adapter!r} written to {out}, {form_words(form.one_rank(adapter.ranks.values()))}")
    if all(factors.is_zero() for factors in adapter.values()):
        say(CHANGES_NOTHING)


def _merge(adapter: Adapter, out: Path, dtype: str | None) -> None:
    from flexlora.cli.console import say, waiting
    from flexlora.models import save_merged

    with waiting(f"merging into {adapter.base}"):
        lost = save_merged(adapter, out, dtype=dtype)
    took = f"; rounding took {lost:.2%} of the update" if lost > 1e-4 else ""
    say(f"{adapter!r} inside the weights of {adapter.base} written to {out}, a whole model{took}")
