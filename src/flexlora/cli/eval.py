"""flexlora eval: score a model, with or without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="'tiny', a model folder or a Hugging Face name.")],
    data: Annotated[str, typer.Option(help="'embedded', or a Natural Instructions folder.")],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT folder.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Score this many of the test tasks.")] = None,
    examples: Annotated[int | None, typer.Option(help="Examples per task at most.")] = None,
    prompt: Annotated[str, typer.Option(help="'alpaca' or 'chat'.")] = "alpaca",
    max_tokens: Annotated[int, typer.Option(help="Prompt and response together.")] = 512,
    max_new_tokens: Annotated[int, typer.Option(help="Generated tokens at most.")] = 32,
    dtype: Annotated[str, typer.Option(help="'float32' or 'bfloat16'.")] = "float32",
    skip_too_long: Annotated[
        bool, typer.Option("--skip-too-long", help="Leave out, and count, what does not fit.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take an adapter made for another base, if it fits.")
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric, or path/to/file.py:function; give it again for more."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses tasks and examples.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Scores on the test tasks (default: loss, ROUGE-L, exact match), by client and category."""
    from flexlora.cli.output import print_json, scores_json
    from flexlora.cli.tables import scores_table
    from flexlora.federation import score_model
    from flexlora.federation.config_file import parse_config

    table: dict[str, object] = {
        "source": "embedded" if data == "embedded" else "natural_instructions",
        "path": "" if data == "embedded" else data,
        "max_tokens": max_tokens,
        "skip_too_long": skip_too_long,
    }
    table |= {"unseen_tasks": tasks} if tasks is not None else {}
    table |= {"unseen_examples_per_task": examples} if examples is not None else {}
    scoring: dict[str, object] = {"max_new_tokens": max_new_tokens}
    scoring |= {"metrics": metric} if metric else {}
    config = parse_config(
        {
            "model": {"name": model, "dtype": dtype, "prompt": prompt},
            "data": table,
            "evaluation": scoring,
            "federation": {"seed": seed},
        }
    )
    scores = score_model(config, adapter, force=force)
    if json:
        print_json(scores_json(scores, model, None if adapter is None else str(adapter)), indent=2)
    else:
        scores_table(scores)
