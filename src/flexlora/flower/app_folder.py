"""A Flower app: the folder that `flwr run` takes, with the federation's config in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from flexlora.config.config import Config
from flexlora.flower.packets import package_version
from flexlora.flower.server_settings import ServerSettings
from flexlora.formats.atomic import atomic_folder

_APPS = "flexlora.flower"


def write_app(
    folder: Path, config: Config, settings: ServerSettings, texts: Mapping[str, str] | None = None
) -> Path:
    """Make the folder, whole or not at all. texts: name → what else lies in it.

    Raises RunError where it is there already.
    """
    with atomic_folder(folder) as aside:
        for name, words in (texts or {}).items():
            (aside / name).write_text(words, encoding="utf-8")
        (aside / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        text = tomli_w.dumps(_pyproject(settings.model_dump()))
        (aside / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def _pyproject(run_config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "project": {
            "name": "flexlora-federation",
            "version": package_version(),
            "description": "A federation of FlexLoRA",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "flexlora",
                    "components": {
                        "serverapp": f"{_APPS}.server_app:app",
                        "clientapp": f"{_APPS}.client_app:app",
                    },
                    "config": dict(run_config),
                }
            }
        },
    }
