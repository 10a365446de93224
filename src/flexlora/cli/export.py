"""flexlora export: a PEFT adapter of any rank from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.arguments import CompactOption, ServeOption
from flexlora.cli.form_words import form_words
from flexlora.cli.places import require_free, require_there
from flexlora.cli.trust import TrustOption, require_trust


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    out: Annotated[Path, typer.Option(help="The PEFT folder to make; it must not exist.")],
    rank: Annotated[str | None, typer.Option(help="A rank for every layer, or 'full'.")] = None,
    energy: Annotated[
        float | None,
        typer.Option(help="Keep this share of the energy in each layer, like 0.999, at any rank."),
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option("--type", help="The ranks of this client type, as its clients train them."),
    ] = None,
    round_: Annotated[
        str, typer.Option("--round", help="'best' by validation, 'last', or a kept round.")
    ] = "best",
    compact: CompactOption = False,
    serve: ServeOption = None,
    trust: TrustOption = None,
) -> None:
    """Write a PEFT adapter that PeftModel.from_pretrained and other readers load alike."""
    from flexlora.adapters.kept import require_rank_or_energy
    from flexlora.cli.console import say
    from flexlora.errors import ConfigError
    from flexlora.formats.peft import save_peft
    from flexlora.formats.peft_form import Form
    from flexlora.runs import load_adapter

    form = Form.of(compact=compact, serve=serve)
    require_free(out)
    require_there("run", folder)
    if type_ is None:
        require_rank_or_energy(rank, energy, "what the adapter is to hold", dashes="--")
    elif rank is not None or energy is not None:
        raise ConfigError("--type is given beside --rank or --energy; give just one of them")
    require_trust(folder, trust, metrics=False)
    adapter = load_adapter(folder, rank, round_, energy=energy, type=type_)
    save_peft(adapter, out, compact=compact, serve=serve)
    say(f"{adapter!r} written to {out}, {form_words(form.one_rank(adapter.ranks.values()))}")
