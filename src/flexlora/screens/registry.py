"""The registry of screens: one line each. A name is taken once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flexlora.registry import Registry
from flexlora.screens.base import Screen
from flexlora.screens.dnc import DnC
from flexlora.screens.geometric_median import GeometricMedian
from flexlora.screens.multi_krum import MultiKrum
from flexlora.screens.norm_clip import NormClip

SCREENS: Registry[type[Screen]] = Registry("screen", tables="screens")


def register(screen: type[Screen]) -> type[Screen]:
    """Add a screen under its `name`; usable as a decorator. ConfigError for a taken name."""
    return SCREENS.add(screen.name, screen)


def make_screen(name: str, options: Mapping[str, Any] | None = None) -> Screen:
    """The screen of this name with its options.

    Raises ConfigError for an unknown name and for an option that is unknown, missing or wrong.
    """
    return cast("Screen", SCREENS.make(name, options))


register(NormClip)
register(MultiKrum)
register(GeometricMedian)
register(DnC)
