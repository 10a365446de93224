"""A plot of the report as a file of its own: an SVG in the page's light colours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from flexlora.report.charts import CONFIG

_WIDTH = 560
_NAME = 320  # Pixels: there is room for a name beside the plot.
# What shows the file may have wider letters than what set it.
_PADDING = {"left": 48, "top": 12, "right": 12, "bottom": 12}


def drawn(spec: Mapping[str, Any]) -> str:
    """The figure as SVG text. Needs the extra flexlora[report]."""
    import vl_convert

    config = {**CONFIG, "axisY": {**CONFIG["axisY"], "labelLimit": _NAME}}
    still = {**spec, "width": _WIDTH, "config": config, "padding": _PADDING, "autosize": "pad"}
    still["background"] = "var(--page)"
    colours = _light()
    text = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], json.dumps(still))
    svg: str = vl_convert.vegalite_to_svg(text)
    return svg


def _light() -> dict[str, str]:
    """Name → colour, of the first rule of the page's style: the light one."""
    style = files("flexlora.report").joinpath("page.css").read_text(encoding="utf-8")
    light = style[: style.index("}")]
    return dict(re.findall(r"--([\w-]+): ([^;]+);", light))
