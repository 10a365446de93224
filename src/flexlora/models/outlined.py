"""Models by their config alone: well-known ones by name, and any config.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flexlora.errors import ModelError, nearest
from flexlora.formats.home import expanded
from flexlora.formats.json_file import json_table
from flexlora.models.known import KNOWN
from flexlora.models.weights import first_line

_SHAPES = Path(__file__).with_name("shapes")
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_LIMIT = 1 << 20


def well_known() -> tuple[str, ...]:
    """Names of models whose config comes with the package."""
    return tuple(sorted(path.stem for path in _SHAPES.glob("*.json")))


def config_alone(name: str) -> Any:
    """The config of transformers of a model by name, a folder with config.json, or such a file.

    Nothing is fetched and no weights are needed. Raises ModelError for what is not there or no
    such file, for a type that transformers does not know or that is no causal language model, and
    for one that lacks a size: transformers would take one of its own.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = _place(name)
    try:
        table = json_table(path, limit_bytes=_LIMIT)
    except (OSError, ValueError) as error:
        raise ModelError(f"config {path} of model {name}: {error}; give another one") from error
    kind = table.pop("model_type", None)
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        words = f"has model_type '{kind}'" if isinstance(kind, str) else "has no model_type"
        raise ModelError(
            f"config of model {name} {words}, which transformers needs to know; "
            f"{nearest(str(kind), CONFIG_MAPPING)}"
        )
    made: Any = CONFIG_MAPPING[kind]
    _require_sizes(made, table, name)
    try:
        config = made(**table)
    except Exception as error:
        raise ModelError(
            f"config of model {name} cannot be read: {first_line(error)}; repair it"
        ) from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"model {name} is of type {kind}, not a causal language model; give a decoder such as "
            "Llama, Qwen, Gemma or GPT-2"
        )
    return config


def _place(name: str) -> Path:
    if (_SHAPES / f"{name}.json").is_file() and "/" not in name:
        return _SHAPES / f"{name}.json"
    place = KNOWN[name].place(name) if name == "tiny" else expanded(name)
    if place.is_dir():
        place = place / "config.json"
    if not place.is_file():
        raise ModelError(
            f"model {name} is no well-known one, no folder with a config.json and no such file; "
            f"{nearest(name, (*well_known(), 'tiny'))}"
        )
    return place


def _require_sizes(made: Any, table: dict[str, Any], name: str) -> None:
    """Under the names that this kind of config has for them, perhaps in a table of its own."""
    text = table.get("text_config", table)
    other: dict[str, str] = getattr(made, "attribute_map", {}) if text is table else {}
    lacking = [key for key in _names(other) if not _is_size(text.get(key[0], text.get(key[1])))]
    if lacking:
        words = ", ".join(key[0] for key in lacking)
        raise ModelError(
            f"config of model {name} lacks {words} as a whole number; give the config.json that "
            "belongs to the model"
        )


def _names(other: dict[str, str]) -> Iterable[tuple[str, str]]:
    return ((other.get(key, key), key) for key in _NEEDED)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < 10**8
