"""Device profiles: the named ones, and files (TOML or JSON) that say which clients have which."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flexlora.allocation.devices import Device, DeviceClass, require_once
from flexlora.config.toml import read_toml
from flexlora.errors import ConfigError, nearest, seen, shown
from flexlora.formats.json_file import json_table
from flexlora.formats.quantities import MEMORY, RATE, SHARE, SPEED, Kind, quantity
from flexlora.formats.refused import cure_of

DTYPES = ("float32", "bfloat16", "float16")
_FIGURES = {"memory": MEMORY, "bandwidth": RATE, "uplink": RATE, "downlink": RATE}
_KEYS = (*_FIGURES, "flops", "availability", "disk", "sources")
_OF_CLASS = (*_KEYS, "device", "clients", "examples")
_NAMED = Path(__file__).with_name("named_devices.toml")
_LIMIT = 4 << 20
_MOST = 10**9


def read_devices(path: Path) -> tuple[DeviceClass, ...]:
    """The classes of a file: one table each, `device = "T4"` for a named one, whatever else is
    said beside it in its stead; `clients`: how many, or a list of names (default: one).

    Every figure is a text with its unit. Raises ConfigError that names the file, the class and the
    key: for a file that is no TOML or JSON, or has no class; an unknown device or key; a figure
    that is missing, without a unit, of another kind or not above 0; a client that is named twice.
    """
    tables = _tables(path)
    if not tables:
        raise ConfigError(f"{path} names no device class; give a table for each, like [phones]")
    classes = tuple(_class(name, table, str(path)) for name, table in tables.items())
    require_once(classes)
    return classes


@cache
def named_devices() -> Mapping[str, Device]:
    """Those that have names, with the source of every figure."""
    tables = read_toml(_NAMED)
    return {name: _device(table, f"named device {name}") for name, table in tables.items()}


def named_device(name: object, where: str) -> Device:
    """Raises ConfigError with the nearest."""
    known = named_devices()
    if not isinstance(name, str) or name not in known:
        told = name if isinstance(name, str) else shown(name)
        by_case = {key.lower(): key for key in known}
        near = by_case.get(told.lower())
        cure = f"did you mean '{near}'?" if near else nearest(told, known)
        raise ConfigError(f"device of {where} is {shown(name)}; {cure}")
    return known[name]


def _tables(path: Path) -> dict[str, Any]:
    try:
        is_json = path.suffix.lower() == ".json"
        return json_table(path, limit_bytes=_LIMIT) if is_json else read_toml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"device file {path} does not exist; check the path") from error
    except OSError as error:
        raise ConfigError(
            f"device file {path} cannot be read: {error.strerror}; {cure_of(error)}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"device file {path} {error}") from error


def _class(name: str, table: object, file: str) -> DeviceClass:
    where = f"class {seen(name)} of {file}"
    if not isinstance(table, dict):
        raise ConfigError(
            f"{seen(name)} of {file} is {shown(table)}, expected a table; write [{seen(name)}] and "
            "its figures below"
        )
    for key in table:
        if key not in _OF_CLASS:
            raise ConfigError(f"{seen(key)} of {where} is unknown; {nearest(key, _OF_CLASS)}")
    base = named_device(table["device"], where) if "device" in table else None
    clients, named = _clients(table.get("clients", 1), where)
    examples = table.get("examples")
    if examples is not None and not _counts(examples):
        raise ConfigError(
            f"examples of {where} is {shown(examples)}, expected a whole number of 1 or more; "
            "give how many each client holds"
        )
    return DeviceClass(name, _device(table, where, base), clients, named, examples)


def _clients(given: object, where: str) -> tuple[int, tuple[str, ...]]:
    if isinstance(given, list) and given and all(isinstance(x, str) and x for x in given):
        return len(given), tuple(given)
    if isinstance(given, int) and _counts(given):
        return given, ()
    raise ConfigError(
        f"clients of {where} is {shown(given)}, expected a whole number of 1 or more, or a list of "
        "names; correct it"
    )


def _counts(given: object) -> bool:
    return type(given) is int and 1 <= given <= _MOST


def _device(table: Mapping[str, Any], where: str, base: Device | None = None) -> Device:
    """base: what says all that the table does not."""
    for key in (*_FIGURES, "flops"):
        if key not in table and base is None:
            like = SPEED.like if key == "flops" else _FIGURES[key].like
            raise ConfigError(
                f'{key} of {where} is missing; give it, like "{like}", or start from a named '
                f'device, like device = "T4"'
            )

    def figure(key: str, kind: Kind, default: float) -> float:
        return quantity(table[key], kind, f"{key} of {where}") if key in table else default

    availability = figure("availability", SHARE, base.availability if base else 1.0)
    if availability > 1.0:
        raise ConfigError(
            f"availability of {where} is {shown(table['availability'])}, more than all of the "
            "time; give at most 100%"
        )
    return Device(
        **{key: figure(key, kind, getattr(base, key, 0.0)) for key, kind in _FIGURES.items()},
        flops=_flops(table["flops"], where)
        if "flops" in table
        else dict(base.flops if base else {}),
        availability=availability,
        disk=quantity(table["disk"], RATE, f"disk of {where}")
        if "disk" in table
        else (base.disk if base else None),
        sources=_sources(table, where, base),
    )


def _flops(given: object, where: str) -> dict[str, float]:
    if not isinstance(given, dict) or not given:
        raise ConfigError(
            f"flops of {where} is {shown(given)}, expected a table by dtype; write it like "
            '{ float32 = "8 TFLOPS", bfloat16 = "65 TFLOPS" }'
        )
    for dtype in given:
        if dtype not in DTYPES:
            raise ConfigError(f"flops of {where} has {seen(dtype)}; {nearest(dtype, DTYPES)}")
    return {
        dtype: quantity(value, SPEED, f"flops.{dtype} of {where}") for dtype, value in given.items()
    }


def _sources(table: Mapping[str, Any], where: str, base: Device | None) -> dict[str, str]:
    """Of the figures that stand: those of a named device but for what the file says itself."""
    own = table.get("sources", {})
    if not isinstance(own, dict) or not all(isinstance(x, str) for x in own.values()):
        raise ConfigError(f"sources of {where} is {shown(own)}, expected a table of texts")
    kept = {key: text for key, text in (base.sources if base else {}).items() if key not in table}
    return {**kept, **own}
