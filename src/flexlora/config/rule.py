"""How adapters are combined."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from flexlora.config.table import Choice, PathText


class RuleConfig(Choice):
    """[rule]: how adapters are combined. All other keys of the table are the rule's options."""

    name: PathText = Field(
        default="flexlora",
        description="name of the aggregation rule, or path/to/file.py:Class",
    )
    options: dict[str, Any] = Field(default={}, description="options of the rule: see below")

    @property
    def in_file(self) -> bool:
        """Whether a file of the user's own holds the rule."""
        return ":" in self.name or self.name.endswith(".py")

    @property
    def label(self) -> str:
        """A short name without slashes: the rule's, or its class's in a file."""
        return self.name.rpartition(":")[2]
