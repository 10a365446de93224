"""flexlora eval: score a model, with or without an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flexlora.errors import ConfigError, DataError


def evaluate(
    model: Annotated[
        str, typer.Argument(help="'tiny', a folder, a GGUF file or a Hugging Face name.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="'embedded', a Natural Instructions folder, or a config (*.toml) whose unseen "
            "examples, prompt, lengths and metrics are used, in place of the defaults below."
        ),
    ],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT folder.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Score this many of the test tasks.")] = None,
    examples: Annotated[int | None, typer.Option(help="Examples per task at most.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="'alpaca' (default), 'plain' or 'chat'.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Prompt and response together (default: 512).")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Generated tokens at most (default: 32).")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="'float32' (default) or 'bfloat16'.")] = None,
    device: Annotated[
        str | None, typer.Option(help="'auto' (default: a GPU if there is one), 'cpu', 'cuda:1', …")
    ] = None,
    quantise: Annotated[
        str | None, typer.Option(help="'none' (default), '4bit' or '8bit' (extra quant).")
    ] = None,
    skip_too_long: Annotated[
        bool, typer.Option("--skip-too-long", help="Leave out, and count, what does not fit.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take an adapter made for another base, if it fits.")
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric, or path/to/file.py:function; give it again for more (default: those of "
            "evaluation.metrics)."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Chooses tasks and examples (default: 0).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Scores on the test tasks, by client and category."""
    from flexlora.cli.console import waiting
    from flexlora.cli.output import print_json, scores_json
    from flexlora.cli.tables import scores_table
    from flexlora.config.config_file import parse_config
    from flexlora.federation import score_model

    if tasks is not None and tasks < 1:  # Of a config's own, no key of it holds this one.
        raise ConfigError(f"--tasks is {tasks}, expected a whole number of 1 or more; correct it")
    tables, own = _tables(data), data.endswith(".toml")
    given: dict[str, dict[str, object]] = {
        "model": {
            "name": model,
            "dtype": dtype,
            "device": device,
            "quantise": quantise,
            "prompt": prompt,
        },
        "data": {
            "unseen_tasks": None if own else tasks,
            "unseen_examples_per_task": examples,
            "max_tokens": max_tokens,
            "skip_too_long": skip_too_long or None,
        },
        "evaluation": {"max_new_tokens": max_new_tokens, "metrics": metric or None},
        "federation": {"seed": seed},
    }
    for name, table in given.items():
        known = {key: value for key, value in table.items() if value is not None}
        tables[name] = tables.get(name, {}) | known
    try:
        config = parse_config(tables)
    except ConfigError as error:
        raise ConfigError(_in_options(str(error), given)) from error
    # Of a config's own test examples: it says itself what they are.
    some = tasks if own else None
    try:
        with waiting(f"scoring {model}"):
            scores = score_model(config, adapter, tasks=some, force=force)
    except DataError as error:
        if not str(error).startswith("tasks is "):
            raise
        raise DataError(f"--{error}") from error
    if json:
        print_json(scores_json(scores, model, None if adapter is None else str(adapter)), indent=2)
    else:
        scores_table(scores)


# Of a config: what is scored depends on who trains on what.
_TABLES = ("model", "data", "partition", "evaluation", "federation")
# Files of rows, which a config describes.
_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")

# Key of the config → the option that sets it, where that has another name.
_OPTIONS = {"name": "MODEL", "unseen_tasks": "--tasks", "unseen_examples_per_task": "--examples"}
_OPTIONS |= {"metrics": "--metric"}


def _in_options(words: str, given: Mapping[str, Mapping[str, object]]) -> str:
    """An error about keys of a config, with the options that were typed in place of those keys."""
    for table, keys in given.items():
        for key, value in keys.items():
            if value is not None:
                option = _OPTIONS.get(key, f"--{key.replace('_', '-')}")
                words = words.replace(f"config {table}.{key} ", f"{option} ")
                words = words.replace(f"{table}.{key} ", f"{option} ")
    return words


def _tables(data: str) -> dict[str, dict[str, Any]]:
    """What to score on, as tables of a config: of one that the user has, or of a source."""
    from flexlora.config import load_config

    if data.endswith(".toml"):
        document = load_config(data).document()
        return {name: document[name] for name in _TABLES}
    if data.endswith(_FILES):
        raise ConfigError(
            f"--data {data} is a file of rows, whose columns only a config names; write one with "
            "[data] source, path, prompt and response, and give that: --data CONFIG.toml"
        )
    every = {"duplicates": "keep"}  # Nothing is trained on.
    if data == "embedded":
        return {"data": {"source": "embedded", **every}}
    return {"data": {"source": "natural_instructions", "path": data, **every}}
