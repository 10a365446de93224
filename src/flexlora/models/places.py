"""Where a base model lies: a name that is known, a folder, a GGUF file, or the hub."""

from __future__ import annotations

from pathlib import Path

from flexlora.errors import ModelError
from flexlora.formats.home import expanded
from flexlora.models.gguf import ENDING, gguf_file, is_gguf, unpacked
from flexlora.models.known import KNOWN

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def place_of(name: str | Path) -> Path:
    """Where it would be on this disk; perhaps nothing is there, and the hub has it.

    Raises ModelError for a known model whose package is not installed.
    """
    known = KNOWN.get(str(name))
    return expanded(name) if known is None else known.place(str(name))


def names_gguf(name: str) -> bool:
    """Whether its weights come out of a GGUF file, as far as can be told without opening one."""
    known = KNOWN.get(name)
    return is_gguf(expanded(name) if known is None else Path(known.path))


def about(name: str) -> str:
    """What is to be said of a base model beside every figure; "" where nothing is known."""
    known = KNOWN.get(name)
    if known is not None:
        return known.about
    return "its weights come from a GGUF file, perhaps of few bits" if names_gguf(name) else ""


def folder_of(name: str | Path, *, weights: bool = True) -> Path | None:
    """The folder that transformers can load; None for what only the hub can have.

    weights: a folder with weights; of a GGUF file it may else be one without. Raises ModelError
    for what is not there, and for a folder or file that holds no model; as `unpacked` otherwise.
    """
    place = place_of(name)
    if is_gguf(place):
        if not place.exists():
            raise ModelError(f"GGUF file {name} does not exist; check the path")
        return unpacked(gguf_file(place, str(name)), str(name), weights=weights)
    if place.is_dir():
        _require_model(place, str(name))
        return place
    if isinstance(name, Path) or _looks_like_path(name):
        raise ModelError(
            f"model folder {name} does not exist; give a folder with config.json, a {ENDING} file, "
            f"a name on the Hugging Face hub, or one that is known: {', '.join(KNOWN)}"
        )
    return None


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _require_model(folder: Path, name: str) -> None:
    """Refuse a folder that holds no model, before transformers opens it."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model folder {name} has no config.json; give a folder as save_pretrained writes it"
        )
    if not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            raise ModelError(
                f"model {name} has its weights in pickle files only, which can run code when "
                "loaded; convert them with save_pretrained(safe_serialization=True)"
            )
        raise ModelError(
            f"model folder {name} has no model.safetensors; copy the weights beside config.json"
        )
