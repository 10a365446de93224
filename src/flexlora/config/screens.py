"""[screens]: what updates pass before they are weighed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from flexlora.config.table import Table


class ScreensConfig(Table):
    """[screens]: what updates pass before they are weighed, in this order: name → its options."""

    chosen: dict[str, dict[str, Any]] = Field(
        default={}, description="screens by name, each with an inline table of its options"
    )
