"""The source "huggingface": a dataset of the `datasets` library, by folder or by its hub name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

from flexlora.errors import DataError, cut_short, nearest, shown
from flexlora.options import Option
from flexlora.tasks.files import place_of, require_size
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.table_source import TableSource


@final
@dataclass(frozen=True)
class HuggingFace(TableSource):
    """A dataset and its splits. Needs the extra datasets.

    path: a folder (as `save_to_disk` writes it, or with data files), for which nothing is fetched;
    or a name on the hub, from the local cache where the network is switched off
    (HF_HUB_OFFLINE=1). No code of a dataset is run, and no download is reported.
    test_split stands instead of test_path, test_share or unseen_tasks.
    Slices of one split that overlap are not noticed; a split and a slice of it are.
    Class labels are read as their names. Only the columns that the options name are decoded. Rows
    are counted from 0.
    """

    extra = "datasets"

    ways: ClassVar[tuple[str, ...]] = ("test_path", "test_split")

    subset: Annotated[str, Option("configuration of a dataset that has several")] = ""
    split: Annotated[str, Option("split that trains")] = "train"
    test_split: Annotated[str, Option("split that is kept unseen")] = ""

    def rows(self, path: str, *, test: bool) -> Rows:
        datasets = _library(path)
        split = self.test_split if test and self.test_split else self.split
        where = f"{path} ({split})"
        with _quiet(datasets):
            data = _load(datasets, path, self.subset, split)
        columns = tuple(data.column_names)
        wanted = self.named_columns()
        data = data.select_columns([name for name in columns if name in wanted])
        require_size(where, data.data.nbytes, self.limits.table_bytes)
        names = {
            column: list(feature.names)
            for column, feature in data.features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        rows = [
            Row(f"{where}, row {number}", f"{split}:{number}", _named(values, names))
            for number, values in enumerate(data.to_list())
        ]
        return Rows(where, columns, rows, self._parts(path, split))

    def _parts(self, path: str, split: str) -> tuple[str, ...]:
        """Several splits have a + between them."""
        folder = place_of(path)
        name = str(folder.resolve()) if folder.is_dir() else path
        subset = f", {self.subset}" if self.subset else ""
        return tuple(f"{name}{subset} ({part.strip()})" for part in split.split("+"))


def _named(values: Mapping[str, Any], names: Mapping[str, list[str]]) -> Mapping[str, Any]:
    """Class labels as their names; one that is missing (none, or −1) is null."""
    named = dict(values)
    for column, known in names.items():
        label = values[column]
        named[column] = None if label is None or label < 0 else known[label]
    return named


def _library(path: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path} is read with the library datasets, which is not installed; install the extra "
            "flexlora[datasets]"
        ) from error
    return datasets


def _load(datasets: Any, path: str, subset: str, split: str) -> Any:
    """One split. Raises DataError for whatever the library says against it."""
    folder = place_of(path)
    if folder.is_file():
        raise DataError(
            f"{path} is a file; give its folder, or set data.source to 'jsonl', 'csv' or 'parquet'"
        )
    looks_like_path = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not folder.is_dir() and looks_like_path:
        raise DataError(f"folder {path} does not exist; set data.path to a folder or a hub name")
    if folder.is_dir() and not any(folder.iterdir()):
        raise DataError(f"folder {path} is empty; set data.path to a folder with a dataset")
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        if not saved:
            source = str(folder) if folder.is_dir() else path
            return datasets.load_dataset(source, subset or None, split=split)
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # of many kinds, by the format and by the network
        reason = " ".join(str(error).split())
        cure = "the files" if folder.is_dir() else "the name, data.subset and the network"
        raise DataError(
            f"dataset {path}, split {shown(split)}, cannot be loaded ({cut_short(reason, 200)}); "
            f"check {cure}"
        ) from error
    if not isinstance(found, datasets.DatasetDict):
        if split != "train":
            raise DataError(
                f"dataset {path} was saved without splits, but split {shown(split)} is asked for; "
                "leave data.split and data.test_split out"
            )
        return found
    if split not in found:
        raise DataError(f"dataset {path} has no split {shown(split)}; {nearest(split, found)}")
    return found[split]


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """The library without bars, without chatter, and without telling the hub what is loaded."""
    from huggingface_hub.utils import logging as hub_logging

    bars = not datasets.are_progress_bars_disabled()
    loggers = [(datasets.logging, datasets.logging.get_verbosity())]
    loggers.append((hub_logging, hub_logging.get_verbosity()))
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    for logger, _ in loggers:
        logger.set_verbosity_error()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        for logger, level in loggers:
            logger.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
