"""flexlora demo: three rules on the embedded model and tasks, on the same data and seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

ARMS = (
    ("fedit", "homogeneous: every client at the lowest rank (the bucket effect)"),
    ("flexlora", "FlexLoRA: every client at its own rank, exact sums, SVD"),
    ("flexlora-increment", "the increment form: what a client was not sent stays as it is"),
)


def demo(
    out: Annotated[Path, typer.Option(help="Parent folder of the run directories.")] = Path("runs"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key; may be repeated."),
    ] = None,
) -> None:
    """Compare three rules on the embedded model and tasks: minutes on two cores, no network."""
    from flexlora.cli.progress import observer
    from flexlora.cli.tables import describe, results_table, say
    from flexlora.federation import load_config, prepare, run

    config_file = Path(__file__).with_name("demo.toml")
    overrides = [*(set_ or []), f"run.out={json.dumps(str(out), ensure_ascii=False)}"]
    configs = [load_config(config_file, [*overrides, f"rule.name={arm!r}"]) for arm, _ in ARMS]
    setup = prepare(configs[0])
    describe(setup)
    results = []
    for config, (_, words) in zip(configs, ARMS, strict=True):
        say(f"\n{words}")
        with observer(config.rule.name, config.federation.rounds) as watching:
            results.append(run(config, observer=watching, setup=setup))
    say("")
    results_table(results)
    for result in results:
        say(f"run directory: {result.folder}")
