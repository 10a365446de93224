"""The page: sections in order, the template, the plotting library inside."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import metadata, resources
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flexlora.formats.visible import all_visible, visible
from flexlora.formats.words import count
from flexlora.report.blocks import Figure, Front, Heading, Note, Section, Table, Tiles
from flexlora.report.charts import CONFIG
from flexlora.report.clients import clients
from flexlora.report.devices import devices
from flexlora.report.failures import failures
from flexlora.report.outcome import outcome
from flexlora.report.partition import partition
from flexlora.report.predictions import predictions
from flexlora.report.ranks import ranks
from flexlora.report.rounds import costs, progress
from flexlora.report.runs import ReportRun
from flexlora.report.settings import settings
from flexlora.report.spectra import spectra

SECTIONS = (
    outcome,
    progress,
    clients,
    predictions,
    ranks,
    costs,
    devices,
    spectra,
    partition,
    failures,
    settings,
)
TITLED = 3  # Names that the title has at most.
# What the page calls of the library.
_EXPOSED = "window.vegaEmbed = vegaEmbed;"
_KINDS = {Figure: "figure", Table: "table", Note: "note", Tiles: "tiles", Heading: "heading"}


def page(runs: Sequence[ReportRun], front: Front | None = None) -> str:
    """The whole page; front: how it begins (default: with the runs' names).

    What comes from runs is escaped, in the HTML and inside the scripts. Characters that are not
    seen are made visible there (`_shown`, `_json`).
    """
    sections = [*([front.section] if front else ()), *(make(runs) for make in SECTIONS)]
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    template = environment.from_string(_file("page.html"))
    return template.render(
        title=front.title if front else _title(runs),
        subtitle=front.subtitle if front else _subtitle(runs),
        sections=sections,
        kinds=_kind,
        css=Markup(_file("page.css")),
        library=Markup(library()),
        script=Markup(_file("page.js")),
        figures=_json([_described(figure) for figure in _figures(sections)]),
        config=_json(CONFIG),
        version=metadata.version("flexlora"),
    )


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle(_EXPOSED, vl_version=version).replace(
        "</script", "<\\/script"
    )


def _title(runs: Sequence[ReportRun]) -> str:
    names = list(dict.fromkeys(run.arm if len(runs) > 1 else run.label for run in runs))
    more = f" and {len(names) - TITLED} more" if len(names) > TITLED else ""
    return ", ".join(names[:TITLED]) + more


def _subtitle(runs: Sequence[ReportRun]) -> str:
    if len(runs) > 1:
        return f"{count(len(runs), 'run')} side by side"
    run = runs[0]
    model = run.config.get("model", {}).get("name", "")
    return f"{run.rule} on {model}, {run.data.get('source', '')} data, seed {run.seed}"


def _figures(sections: Sequence[Section]) -> list[Figure]:
    return [block for s in sections for block in s.blocks if isinstance(block, Figure)]


def _described(figure: Figure) -> dict[str, Any]:
    return {**figure.spec, "description": f"{figure.title}. {figure.reading}"}


def _kind(block: object) -> str:
    return _KINDS[type(block)]


def _shown(value: object) -> object:
    """What a template writes: texts keep their lines, all else that is hidden is made visible."""
    return visible(value, "\n\t") if isinstance(value, str) and type(value) is str else value


def _json(value: Any) -> Markup:
    """JSON that can stand inside a script element whatever strings it holds.

    Visible: the plotting library makes expressions of names, which a line separator would end.
    """
    text = json.dumps(all_visible(value), separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _file(name: str) -> str:
    return resources.files("flexlora.report").joinpath(name).read_text(encoding="utf-8")
