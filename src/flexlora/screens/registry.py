"""The registry of screens: one line each. A name is taken once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexlora.errors import ConfigError, nearest
from flexlora.rules.registry import require_options
from flexlora.screens.base import Screen
from flexlora.screens.norm_clip import NormClip

SCREENS: dict[str, type[Screen]] = {}


def register(screen: type[Screen]) -> type[Screen]:
    """Add a screen under its `name`; usable as a decorator. ConfigError for a taken name."""
    if SCREENS.get(screen.name, screen) is not screen:
        raise ConfigError(f"screen '{screen.name}' is registered already; choose another name")
    SCREENS[screen.name] = screen
    return screen


def make_screen(name: str, options: Mapping[str, Any] | None = None) -> Screen:
    """The screen of this name with its options. ConfigError for an unknown name or option."""
    if name not in SCREENS:
        raise ConfigError(f"screen '{name}' is unknown; {nearest(name, SCREENS)}")
    require_options(SCREENS[name], f"screens.{name}", name, options or {})
    return SCREENS[name](**(options or {}))


register(NormClip)
