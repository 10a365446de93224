"""A plot as a file of its own."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from flexlora.report import charts
from flexlora.report.drawn import drawn

LONG = "little_is_enough · geometric_median"  # As a name is that says two things.


def test_a_plot_stands_alone_with_its_names_and_colours() -> None:
    rows = [
        {"name": "one", "x": 2.0, "low": 1.0, "high": 3.0, "aside": False},
        {"name": LONG, "x": 4.0, "low": None, "high": None, "aside": True},
    ]
    text = drawn(charts.spans(rows, x="bits", order=["one", LONG]))
    root = ElementTree.fromstring(text)
    words = {element.text for element in root.iter() if element.text}
    assert {"one", LONG, "bits"} <= words
    assert "var(" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "#0b6fb5" in text
    assert "#6a737d" in text
