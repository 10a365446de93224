"""flexlora flower up: a whole federation on this machine, to try one out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.arguments import RunOption, SetOption
from flexlora.cli.output import JsonOption, QuietOption, output
from flexlora.cli.places import require_free, require_place
from flexlora.errors import ConfigError


def up(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The federation's config.")],
    clients: Annotated[
        int,
        typer.Option(min=1, max=64, help="How many silos: the data's clients are dealt to them."),
    ] = 2,
    ranks: Annotated[
        str | None,
        typer.Option(metavar="R,R,…", help="Ranks that the silos bring (default: the config's)."),
    ] = None,
    set_: SetOption = None,
    out: RunOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Try a federation on this machine: a SuperLink, a node and a trainer for each silo, a run.

    All are processes of their own, over TLS and with keys made for it in a temporary folder. All of
    it is taken down at the end, also after Ctrl-C; what stays is the run directory.
    """
    import tempfile

    from flexlora.config import load_config
    from flexlora.extras import require_extras
    from flexlora.flower.local import short_place
    from flexlora.flower.networked import require_networked, require_no_code_begun_from
    from flexlora.flower.silos import silos_of
    from flexlora.flower.trial import Trial
    from flexlora.formats.home import expanded
    from flexlora.runs.run_directory import fresh_folder

    words = output(quiet=quiet, json=json)
    require_free(out)
    asked = load_config(config, set_ or [])
    require_networked(asked)
    require_no_code_begun_from(asked)
    require_extras([("flexlora flower up runs Flower's SuperLink and nodes", "flower")])
    if out is None:
        require_place(Path(asked.run.out) / "new", "run.out")
    target = fresh_folder(asked) if out is None else expanded(out)
    place = short_place([tempfile.gettempdir(), "/tmp"])
    with tempfile.TemporaryDirectory(prefix="flexlora-", dir=place) as made:
        folder = Path(made)
        silos = silos_of(asked, clients, _ranks(ranks), folder)
        with words.observer() as observer:
            ended = Trial(folder, words.say).play(asked, silos, target, observer)
    if not json:
        words.ended(ended)
        words.say(f"run directory: {target}")


def _ranks(given: str | None) -> list[int] | None:
    if given is None:
        return None
    words = [word.strip() for word in given.split(",")]
    if not all(word.isdecimal() and 0 < int(word) < 10**6 for word in words):
        raise ConfigError(f"--ranks is {given!r}; give whole numbers of 1 or more, as 1,4,16,64")
    return [int(word) for word in words]
