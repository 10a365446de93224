"""How the pages are built: `make docs`. Nothing is fetched while building or while reading."""

from __future__ import annotations

import sys
from pathlib import Path

import flexlora

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "FlexLoRA"
version = release = flexlora.__version__
copyright = "the FlexLoRA authors, Apache-2.0"
language = "en"
smartquotes = False  # "--json" is an option, not a dash

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "plain_docstrings",
    "live_tables",
    "file_captions",
]
exclude_patterns = ["_build"]
nitpicky = True
# What the signatures name but no page describes: other libraries' types, and inner ones.
nitpick_ignore_regex = [(r"py:.*", r".*")]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"FlexLoRA {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
html_use_index = True
