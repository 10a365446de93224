"""flexlora demo: three rules on the embedded model and tasks, on the same data and seeds."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.cli.output import JsonOption, QuietOption, output
from flexlora.cli.places import require_place
from flexlora.cli.playing import playing
from flexlora.cli.program import program
from flexlora.errors import ConfigError

if TYPE_CHECKING:
    from flexlora.rules import Rule

SHOWN = ("fedit", "flexlora", "flexlora-increment")
# Keys that the demo itself sets.
TAKEN = {
    "rule.name": f"the demo compares {', '.join(SHOWN)}; leave rule.name out, or use flexlora run "
    "for another rule",
    "run.out": "the demo writes where --out says; give --out",
}


def demo(
    out: Annotated[Path, typer.Option(help="Parent folder of the run directories.")] = Path("runs"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key; may be repeated."),
    ] = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Compare three rules on the embedded model and tasks: minutes on two cores, no network.

    --json: the events of each run, as of run.
    """
    from flexlora.config import load_config
    from flexlora.federation import Session, prepare
    from flexlora.rules import RULES

    words = output(quiet=quiet, json=json_)
    for item in set_ or []:
        key = item.partition("=")[0].strip()
        if key in TAKEN:
            raise ConfigError(f"--set {item}: {TAKEN[key]}")
    require_place(out / "new")
    config_file = Path(__file__).with_name("demo.toml")
    overrides = [*(set_ or []), f"run.out={json.dumps(str(out), ensure_ascii=False)}"]
    configs = [load_config(config_file, [*overrides, f"rule.name={name!r}"]) for name in SHOWN]
    setup = prepare(configs[0])
    words.describe(setup)
    results = []
    for config, name in zip(configs, SHOWN, strict=True):
        words.say()
        words.say(_what(RULES[name]))
        with playing(words) as watching:
            results.append(Session.of(config, setup).play(observer=watching))
    words.results(results)
    words.say()
    last = shlex.quote(str(results[-1].folder))
    call = program()
    words.say(f"what each run did, as a page:  {call} report {shlex.quote(str(out))}/*")
    words.say(f"an adapter to take home:       {call} export {last} --rank 4 --out adapter")
    words.say("your own data and model:       docs/guide/bring_your_data.md")


def _what(rule: type[Rule]) -> str:
    """The sentence that the rule's own file begins with."""
    return (sys.modules[rule.__module__].__doc__ or rule.name).partition("\n")[0]
