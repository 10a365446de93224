"""What a client's operator says: its name, its rank, its model and its data, in one TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from flexlora.config.config import Config, DataConfig, PartitionConfig
from flexlora.config.config_file import read_document, sentence
from flexlora.config.plain import require_plain
from flexlora.config.run import MOST_THREADS
from flexlora.config.table import Choice, PathText, Positive, Table, Text, as_tuple
from flexlora.config.toml import describe
from flexlora.errors import ConfigError, nearest, shown
from flexlora.formats.visible import brief

# Keys of [data] that all clients have alike, as the server's config has them.
COMMON = ("max_tokens", "learn")
_CHOICES: Mapping[str, type[Choice]] = {"data": DataConfig, "partition": PartitionConfig}


class ClientTable(Table):
    """[client]: who this is, and what the server is told."""

    name: Text = Field(description="what the server calls this client; no two have the same")
    rank: Positive | None = Field(
        default=None, description="rank that this machine affords; none: the server decides"
    )
    devices: PathText | None = Field(
        default=None,
        description="instead of rank: a file of device classes, as flexlora probe writes it: the "
        "server decides the rank by this machine's profile",
    )
    device: Text | None = Field(
        default=None,
        description="which class of that file this machine is, where it has several; without a "
        "file: a named device, like T4",
    )
    rows: Literal["all", "named"] = Field(
        default="all",
        description="whose rows of the data it trains on: all of them, or those of the client that "
        "has its name",
    )
    owners: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description="with rows = 'named': whose rows, by the names that the data gives them; none: "
        "those of its own name",
    )
    labels: bool = Field(
        default=False, description="tell the server the names of its tasks or categories"
    )
    folder: PathText = Field(
        default="flexlora-client",
        description="folder of its own for what it remembers and for its socket",
    )


class OwnModel(Table):
    """[model]: where the base model lies here, and on what it runs."""

    name: PathText = Field(
        default="tiny", description="known model, folder, GGUF file, or hub name"
    )
    device: Text = Field(default="auto", description="cpu, cuda, cuda:1, mps, or auto")


class OwnRun(Table):
    """[run]: with what it computes."""

    threads: int | None = Field(
        default=None, ge=1, le=MOST_THREADS, description="CPU threads; none: as the server has them"
    )


class ClientFile(Table):
    """The whole file."""

    client: ClientTable
    model: OwnModel = OwnModel()
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    run: OwnRun = OwnRun()


def load_client(path: Path | str) -> ClientFile:
    """Read it. Raises ConfigError for a file that cannot be read, and as `parse_client` does."""
    return parse_client(read_document(path))


def parse_client(document: Mapping[str, Any]) -> ClientFile:
    """The same from its tables. Raises ConfigError naming the table, key and value."""
    require_plain(document)
    known = ClientFile.model_fields
    for name, table in document.items():
        if name not in known and name in Config.model_fields:
            raise ConfigError(
                f"client file has the table [{name}], which the server's config says for all; "
                "leave it out, or give this file to flwr run's app"
            )
        if name not in known:
            raise ConfigError(f"client file has {brief(name)!r}, unknown; {nearest(name, known)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"client file: {name} is {describe(table)}, expected [{name}]")
    client = document.get("client", {})
    if "owners" in client and client.get("rows") != "named":
        raise ConfigError(
            "client.owners says whose rows, so client.rows is 'named'; write that too"
        )
    for key in ("devices", "device"):
        if key in client and "rank" in client:
            raise ConfigError(
                f"client.rank is {shown(client['rank'])} and client.{key} is {shown(client[key])}, "
                "which both say what this machine trains at; give one of them"
            )
    if "name" not in client:
        raise ConfigError("client file says no name; write one into [client], as name = 'north'")
    for key in COMMON:
        if key in document.get("data", {}):
            raise ConfigError(f"data.{key} is the server's to say, for all clients; leave it out")
    tables = {name: _with_options(name, table) for name, table in document.items()}
    try:
        return ClientFile.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(sentence(error, ClientFile)) from error


def _with_options(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    kind = _CHOICES.get(name)
    if kind is None:
        return dict(table)
    own = {key: value for key, value in table.items() if key in kind.own_keys()}
    return {**own, "options": {key: value for key, value in table.items() if key not in own}}
