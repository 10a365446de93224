"""A comparison's folder as it is begun, and begun again: with the same config, or with more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from flexlora.comparing.comparison import FILE, Comparison, read_comparison
from flexlora.config.toml import describe
from flexlora.errors import RunError, shown
from flexlora.formats.atomic import atomic_write
from flexlora.formats.refused import refused

LOCKS = ".locks"
_MORE = ("rules", "mixes", "hosts", "controls", "seeds", "rates", "tuning_seeds")
_TOLD = 5  # Differences that an error lists at most.


def begin(comparison: Comparison, out: Path) -> None:
    """Write OUT/compare.toml; where there is one, hold this comparison to it.

    Arms, seeds and rates may come to it. Raises RunError for a folder that holds something else,
    and for a config that has changed otherwise, with what differs.
    """
    require_beginnable(comparison, out)
    with held(out, "comparison"):
        require_beginnable(comparison, out)  # Another process may have begun it meanwhile.
        atomic_write(out / FILE, comparison.to_toml())


def require_beginnable(comparison: Comparison, out: Path) -> None:
    """Raise RunError where OUT is no place for this comparison, as `begin` does; write nothing."""
    if (out / FILE).is_file():
        require_same(read_comparison(out), comparison, out)
    elif out.exists() and any(x.name != LOCKS for x in out.iterdir()):
        raise RunError(f"{out} holds something else than a comparison; choose another --out")


def require_same(before: Comparison, now: Comparison, out: Path) -> None:
    """Raise RunError for anything that was played in OUT otherwise, or is asked for no more."""
    if differing := differences(before, now):
        more = f"; and {len(differing) - _TOLD} more" if len(differing) > _TOLD else ""
        raise RunError(
            f"{out} holds another comparison: {'; '.join(differing[:_TOLD])}{more}; give another "
            "--out, or the config as it was (arms, seeds and rates may be added)"
        )


def require_current(comparison: Comparison, out: Path) -> None:
    """Raise RunError where OUT was begun again meanwhile, with more than this process knows of."""
    if not begun_as(comparison, out):
        raise RunError(
            f"{out} is played with more arms, seeds or rates by now, which may have changed the "
            "learning rates; start this process again, with the config that they are in"
        )


def begun_as(comparison: Comparison, out: Path) -> bool:
    """Whether OUT holds this comparison, with nothing more and nothing less."""
    path = out / FILE
    return path.is_file() and path.read_text(encoding="utf-8") == comparison.to_toml()


def differences(before: Comparison, now: Comparison) -> list[str]:
    """In what `now` is not `before` with more arms, seeds or rates, in words."""
    found = []
    for key in type(before.settings).model_fields:
        was, is_now = getattr(before.settings, key), getattr(now.settings, key)
        if key in ("seeds", "rates", "tuning_seeds"):
            if lost := [x for x in was if x not in is_now]:
                found.append(f"compare.{key} lacks {', '.join(map(str, lost))}")
        elif key == "tuning_rounds" and not before.settings.tuned:
            continue  # Nothing was tuned by it.
        elif key not in _MORE and was != is_now:
            found.append(f"compare.{key} is {_words(is_now)}, was {_words(was)}")
    arms = {arm.name: arm for arm in now.arms}
    changes: dict[str, list[str]] = {}
    for arm in before.arms:
        if arm.name not in arms:
            found.append(f"arm {shown(arm.name)} is missing")
            continue
        for words in _changes(_flat(arm.tables), _flat(arms[arm.name].tables)):
            changes.setdefault(words, []).append(arm.name)
    for words, names in changes.items():
        whose = "" if len(names) == len(before.arms) else f" (arm {', '.join(names)})"
        found.append(words + whose)
    return found


@contextmanager
def held(out: Path, name: str) -> Iterator[None]:
    """Hold something of OUT against other processes, waiting for it; one that dies lets go."""
    with lock_of(out, name):
        yield


def lock_of(out: Path, name: str) -> FileLock:
    """The lock of this name. Files of locks stay: removing them would let two hold one."""
    folder = out / LOCKS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(out, error) from error
    return FileLock(folder / f"{name}.lock")


def _flat(tables: Any) -> dict[str, Any]:
    return {
        f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()
    }


def _changes(was: dict[str, Any], is_now: dict[str, Any]) -> Iterator[str]:
    for key in sorted({*was, *is_now}):
        if was.get(key) != is_now.get(key):
            yield f"{key} is {_words(is_now.get(key))}, was {_words(was.get(key))}"


def _words(value: Any) -> str:
    return "not given" if value is None else describe(value)
