"""Which format an adapter is in, told from the path and from what it holds: the merge's door.

A folder is PEFT's. A file is one .safetensors, whose keys say whose they are (`STYLES`). A merge is
written in the format of the first adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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

FILE: Final = ".safetensors"


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
    task_type: str | None,
) -> Iterator[LayerWriter]:
    """Yield a writer of `out` in the readers' format; it appears whole or not at all.

    layers, whole: all that may be written. task_type: what a PEFT folder says of its task.
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
    digests = {reader.base_fingerprint for reader in readers}
    with peft_folder(
        out,
        [*(key for pair in pairs for key in pair), *whole],
        base=next((reader.base for reader in readers if reader.base), ""),
        base_fingerprint=readers[0].base_fingerprint if len(digests) == 1 else "",
        fan_in_fan_out=readers[0].fan_in_fan_out,
        task_type=task_type,
        modules_to_save=readers[0].modules_to_save,
        form=form,
        wrappers=wrappers,
        target_parameters=targeted[0] if len(set(map(frozenset, targeted))) == 1 else (),
    ) as folder:
        yield folder
