"""Which format an adapter is in, told from the path and from what it holds: the merge's door.

A folder is PEFT's. A file is one .safetensors, whose keys say whose they are (`STYLES`). A merge is
written in the format of the first adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from flexlora.adapters import About
from flexlora.errors import AdapterError, ConfigError
from flexlora.formats.adapter_reader import AdapterReader, LayerWriter
from flexlora.formats.from_initial import FromInitial
from flexlora.formats.home import expanded
from flexlora.formats.parameters import nested
from flexlora.formats.peft_form import Form
from flexlora.formats.peft_keys import pair_keys
from flexlora.formats.peft_reader import PeftReader
from flexlora.formats.peft_writer import peft_folder
from flexlora.formats.single_file import SingleFileReader
from flexlora.formats.single_file_writer import single_file
from flexlora.formats.stored_layer import StoredLayer
from flexlora.formats.tokenizer_files import tokenizer_beside

FILE: Final = ".safetensors"
Said = TypeVar("Said")


def open_adapter(path: Path | str, initial: Path | str | None = None) -> AdapterReader:
    """The adapter, open; ~ in its path is a user's home.

    initial: the folder that its training began from, less which it is taken.
    Raises AdapterError for what is none, is damaged, or no plain LoRA."""
    place = expanded(path)
    if place.suffix == FILE or place.is_file():
        if initial is not None:
            raise AdapterError(
                f"{path} is a single file, which does not say how it began; give PEFT folders "
                "where you give initial"
            )
        return SingleFileReader(place)
    return PeftReader(place) if initial is None else FromInitial(place, initial)


def require_fitting(readers: Sequence[AdapterReader], out: Path | str, form: Form) -> None:
    """Raise AdapterError for adapters of several formats, ConfigError for an `out` or a server that
    their format does not fit.
    """
    files = [isinstance(reader, SingleFileReader) for reader in readers]
    if len(set(files)) > 1:
        one, other = (readers[files.index(is_file)].path for is_file in (True, False))
        raise AdapterError(
            f"{one} is a single file and {other} a PEFT folder; give adapters of one format"
        )
    if files[0] and form.server is not None:
        raise ConfigError(f"{form.server.name} serves PEFT folders; give no serve for single files")
    if files[0] != (Path(out).suffix == FILE):
        words = (
            ("single files", f"a file, like merged{FILE}")
            if files[0]
            else (*("PEFT folders", f"a folder, not a {FILE} file"),)
        )
        raise ConfigError(f"out is {out}, and the adapters are {words[0]}; name {words[1]}")


@contextmanager
def written_like(
    readers: Sequence[AdapterReader],
    out: Path | str,
    layers: Sequence[StoredLayer],
    whole: Sequence[str],
    form: Form,
    tokenizer: Mapping[str, bytes],
) -> Iterator[LayerWriter]:
    """Yield a writer of `out` in the readers' format; it appears whole or not at all.

    layers, whole: all that may be written. tokenizer: its files, beside a folder.
    """
    files = [reader for reader in readers if isinstance(reader, SingleFileReader)]
    if files:
        with single_file(out, files, compact=form.compact) as file:
            yield file
        return
    experts = [layer.expert for layer in layers if layer.expert is not None]
    plain = [layer for layer in layers if layer.expert is None]
    wrappers = nested((x.parameter for x in experts), {layer.name for layer in plain})
    pairs = [pair_keys(layer.name, layer.kind) for layer in plain]
    pairs += [pair_keys(wrapper) for wrapper in wrappers.values()]
    # PEFT holds adapters of different target_parameters in one model for none: what all say stays.
    targeted = [reader.target_parameters for reader in readers if reader.target_parameters]
    with peft_folder(
        out,
        [*(key for pair in pairs for key in pair), *whole],
        _about_all(readers),
        modules_to_save=readers[0].modules_to_save,
        form=form,
        wrappers=wrappers,
        target_parameters=targeted[0] if len(set(map(frozenset, targeted))) == 1 else (),
        beside=tokenizer,
    ) as folder:
        yield folder


def shared_tokenizer(readers: Sequence[AdapterReader]) -> Mapping[str, bytes] | None:
    """The files of the tokenizer beside the adapters that have one; None where they differ."""
    first: Mapping[str, bytes] = {}
    for reader in readers:
        files = {} if isinstance(reader, SingleFileReader) else tokenizer_beside(reader.path)
        if first and files and files != first:
            return None
        first = first or files
    return first


def _about_all(readers: Sequence[AdapterReader]) -> About:
    """What is said of a sum: the first base that is named, and of the rest what all agree on.

    How layers are told among a model's stays where all adapters have the same ones.
    """
    first, *others = (reader.about for reader in readers)
    told = [first, *others]
    revisions = {x.revision for x in told if x.revision}
    layers = readers[0].layers.keys()
    alike = all(reader.layers.keys() == layers for reader in readers)
    return About(
        base=next((x.base for x in told if x.base), ""),
        base_fingerprint=_common([x.base_fingerprint for x in told], ""),
        revision=revisions.pop() if len(revisions) == 1 else "",
        fan_in_fan_out=first.fan_in_fan_out,
        task_type=_common([x.task_type for x in told], None),
        auto_mapping=_common([x.auto_mapping for x in told], None),
        selection=_common([x.selection for x in told], {}) if alike else {},
    )


def _common(values: Sequence[Said], otherwise: Said) -> Said:
    return values[0] if all(value == values[0] for value in values) else otherwise
