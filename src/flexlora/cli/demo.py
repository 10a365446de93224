"""flexlora demo: what four clients remember together, by how the ranks are chosen and combined."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.arguments import SetOption
from flexlora.cli.output import LOADING, READING, JsonOption, QuietOption, output
from flexlora.cli.places import require_place
from flexlora.cli.playing import playing
from flexlora.cli.program import program
from flexlora.errors import ConfigError


@dataclass(frozen=True)
class Arm:
    """A run of the demo: the name of its folder, what it is in a few words, and what it sets."""

    name: str
    words: str
    sets: Mapping[str, str] = field(default_factory=dict)

    def overrides(self) -> list[str]:
        """As `--set` takes them."""
        return [f"{key}={value!r}" for key, value in {"run.name": self.name, **self.sets}.items()]


ARMS = (
    Arm("all-weakest", "everyone at the weakest rank", {"clients.level": "lowest"}),
    Arm("flexlora", "own ranks, flexlora"),
    Arm(
        "flexlora-increment",
        "own ranks, flexlora-increment",
        {"rule.name": "flexlora-increment"},
    ),
    Arm("all-strongest", "everyone at the strongest rank", {"clients.level": "highest"}),
)
# Keys that the demo itself sets.
TAKEN = {
    "rule.name": "the demo compares flexlora and flexlora-increment; leave rule.name out, or use "
    "flexlora compare for other rules",
    "clients.level": "the demo plays all of lowest, own and highest; leave clients.level out",
    "run.out": "the demo writes where --out says; give --out",
    "run.name": "the demo names its runs; leave run.name out",
}


def demo(
    out: Annotated[Path, typer.Option(help="Parent folder of the run directories.")] = Path("runs"),
    set_: SetOption = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """What weak and strong machines remember together: a minute on two cores, no network.

    Four clients own made-up facts that only they can teach; two train at rank 1, two at rank 32.
    --json: the events of each run, as of run.
    """
    words = output(quiet=quiet, json=json_)
    with words.waiting(LOADING):
        from flexlora.cli.demo_view import remembered
        from flexlora.config import load_config
        from flexlora.federation import Session, prepare
    for item in set_ or []:
        key = item.partition("=")[0].strip()
        if key in TAKEN:
            raise ConfigError(f"--set {item}: {TAKEN[key]}")
    require_place(out / "new")
    asked = [*(set_ or []), f"run.out={json.dumps(str(out), ensure_ascii=False)}"]
    config_file = Path(__file__).with_name("demo.toml")
    configs = [load_config(config_file, [*asked, *arm.overrides()]) for arm in ARMS]
    with words.waiting(READING):
        setup = prepare(configs[0])
    words.say("Four clients own made-up facts, which only they can teach: two weak machines, of")
    words.say("rank 1, and two strong ones, of rank 32. What does the model that they share learn?")
    results = []
    for config, arm in zip(configs, ARMS, strict=True):
        words.say()
        words.say(arm.words)
        with playing(words) as watching:
            results.append(Session.of(config, setup).play(observer=watching))
    if quiet or json_:
        words.results(results)
        return
    remembered(setup, [arm.words for arm in ARMS], results)
    call, last = program(), shlex.quote(str(results[2].folder))
    words.say()
    words.say(f"what each run did, as a page:  {call} report {shlex.quote(str(out))}/*")
    words.say(f"an adapter to take home:       {call} export {last} --rank 4 --out adapter")
    words.say("your own data and model:       docs/guide/bring_your_data.md")
