"""What a PEFT LoRA folder says of itself: `adapter_config.json`, and our notes beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

from flexlora.adapters import About, Scaling
from flexlora.adapters.about import TASK_TYPE
from flexlora.errors import AdapterError, shown
from flexlora.formats import json_fields
from flexlora.formats.json_file import json_table
from flexlora.formats.layer_patterns import LayerPatterns
from flexlora.formats.plain_lora import require_plain

CONFIG, WEIGHTS, EXTRA = "adapter_config.json", "adapter_model.safetensors", "flexlora.json"
# Keys of a config that tell its layers among all of the model's.
SELECTION: Final = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
LARGEST_CONFIG_BYTES = 1 << 24
LARGEST_NUMBER: Final = 1e30  # Of r and α: what float32 holds, with room for α/r.
LONGEST_NAME: Final = 4096  # Characters of a name or path.
_LISTED: Final = 6  # Adapters that an error names at most.
Config = dict[str, Any]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_table_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(x is None or _is_text(x) for x in value.values())


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_places(value: object) -> bool:
    places = value if isinstance(value, list) else [value]
    return all(isinstance(x, int) and not isinstance(x, bool) for x in places)


def _are_patterns(value: object) -> bool:
    return _is_text(value) or _are_texts(value)


# What is read of a config beside numbers: what it must be where it is given.
_TYPES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "base_model_name_or_path": (_is_text, "the name of a model"),
    "revision": (_is_text, "a name"),
    "task_type": (_is_text, "a name"),
    "auto_mapping": (_is_table_of_texts, "a table of names"),
    "target_modules": (_are_patterns, "a pattern, or a list of names"),
    "exclude_modules": (_are_patterns, "a pattern, or a list of names"),
    "layers_to_transform": (_are_places, "a number, or a list of numbers"),
    "layers_pattern": (_are_patterns, "a name, or a list of names"),
    "modules_to_save": (_are_texts, "a list of names"),
    "target_parameters": (_are_texts, "a list of names"),
    "rank_pattern": (_is_table, "a table of patterns and numbers"),
    "alpha_pattern": (_is_table, "a table of patterns and numbers"),
}


def read_config(path: Path, *, as_published: bool = True) -> Config:
    """The folder's config. Raises AdapterError where its update is not scale · B A.

    as_published: that of the base model as it was published; else that of what the initialisation
    left of it will do.
    """
    if not path.is_dir():
        raise AdapterError(f"{path} is not a folder; give a PEFT adapter folder")
    try:
        config = json_table(path / CONFIG, limit_bytes=LARGEST_CONFIG_BYTES)
    except FileNotFoundError as error:
        raise AdapterError(f"{path} has no {CONFIG}; {_where_one_is(path)}") from error
    except OSError as error:
        raise AdapterError(
            f"{path / CONFIG} cannot be read ({error.strerror}); check the path"
        ) from error
    except ValueError as error:
        raise AdapterError(f"{path / CONFIG} {error}; save the adapter again") from error
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{path} is a PEFT adapter of type {shown(kind)}; only LORA can be read")
    require_plain(path, config, as_published=as_published)
    for key, (fits, words) in _TYPES.items():
        if config.get(key) is not None and not fits(config[key]):
            raise AdapterError(f"{path / CONFIG} has {key} {shown(config[key])}; make it {words}")
    return config


def about(config: Mapping[str, Any], base_fingerprint: str) -> About:
    """What the folder is for. Names of layers have no order in a config; here they do."""

    def ordered(value: Any) -> Any:
        return sorted(value) if isinstance(value, list) else value

    task_type = config.get("task_type", TASK_TYPE)
    return About(
        base=config.get("base_model_name_or_path") or "",
        base_fingerprint=base_fingerprint,
        revision=config.get("revision") or "",
        fan_in_fan_out=config.get("fan_in_fan_out") is True,
        task_type=None if task_type is None else str(task_type),
        auto_mapping=config.get("auto_mapping"),
        selection={key: ordered(config[key]) for key in SELECTION if config.get(key) is not None},
    )


def scaling_of(config: Mapping[str, Any]) -> Scaling:
    return "rslora" if config.get("use_rslora") else "lora"


@final
class PerLayer:
    """r or lora_alpha (key) by layer: that of the first pattern that matches, or what all have.

    Raises AdapterError for patterns that cannot be read.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], key: Literal["r", "lora_alpha"]
    ) -> None:
        self._where, self.key = path / CONFIG, key
        self._common = config.get(key, 8)
        table = config.get("rank_pattern" if key == "r" else "alpha_pattern") or {}
        try:
            self._patterns = LayerPatterns(table)
        except ValueError as error:
            raise self._unreadable(error) from error

    def of(self, layer: str) -> float:
        """The number. Raises AdapterError for what is none, or for a rank below 1."""
        try:
            value = self._patterns.of(layer, self._common)
        except ValueError as error:
            raise self._unreadable(error) from error
        known = isinstance(value, int | float) and not isinstance(value, bool)
        least = 1 if self.key == "r" else -LARGEST_NUMBER
        if not known or not least <= value <= LARGEST_NUMBER:
            words = "a whole number of 1 or more" if self.key == "r" else "a number"
            raise AdapterError(
                f"{self._where} has {self.key} {shown(value)} for layer {layer}; give {words}"
            )
        return float(value)

    def _unreadable(self, error: ValueError) -> AdapterError:
        return AdapterError(
            f"{self._where} has a pattern for {self.key} that cannot be read ({error}); correct it"
        )


@dataclass(frozen=True)
class Extra:
    """What `save_peft` noted beside PEFT's own files.

    ranks: of the layers that are filled up with zeros, without these; scales: of the layers whose
    scale no α/r rounds to.
    """

    ranks: Mapping[str, int]
    scales: Mapping[str, float]
    base_fingerprint: str


def read_extra(path: Path) -> Extra:
    """The notes; none for folders of others. Raises AdapterError for damaged ones."""
    try:
        extra = json_table(path / EXTRA, limit_bytes=LARGEST_CONFIG_BYTES)
        return Extra(
            json_fields.counts(extra, "ranks"),
            json_fields.numbers(extra, "scales"),
            json_fields.text({"base_fingerprint": "", **extra}, "base_fingerprint"),
        )
    except FileNotFoundError:
        return Extra({}, {}, "")
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise AdapterError(
            f"{path / EXTRA} is damaged ({words}); remove it, or save the adapter again"
        ) from error


def _where_one_is(path: Path) -> str:
    """What to give instead of a folder without a config: PEFT saves named adapters in folders."""
    if (path / "checkpoints").is_dir() and (path / "resolved.toml").is_file():
        return f"it is a run: flexlora export {path} --rank full --out ADAPTER takes one out of it"
    held = sorted(found.parent.name for found in path.glob(f"*/{CONFIG}"))
    if not held:
        return "give a folder that save_pretrained wrote"
    names = ", ".join(map(shown, held[:_LISTED])) + (", …" if len(held) > _LISTED else "")
    return f"it holds adapters of their own ({names}); give one of them, like {path / held[0]}"
