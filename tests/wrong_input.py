"""Tables of wrong commands: each ends with one sentence and exit code 2, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from commands import Done, Flexlora, assert_one_sentence
from reference import as_in_production

Arguments = Sequence[object]
Place = TypeVar("Place")


class Cases(Generic[Place]):
    """Name → a command made wrong in its place, and what its sentence must hold."""

    def __init__(self) -> None:
        self._cases: dict[str, tuple[Callable[[Place], Arguments], tuple[str, ...]]] = {}

    def add(
        self, name: str, *fragments: str
    ) -> Callable[[Callable[[Place], Arguments]], Callable[[Place], Arguments]]:
        """Decorate what makes the arguments of `flexlora`."""

        def add(make: Callable[[Place], Arguments]) -> Callable[[Place], Arguments]:
            assert name not in self._cases
            self._cases[name] = (make, fragments)
            return make

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)

    def assert_refused(
        self, name: str, place: Place, flexlora: Flexlora, *flags: str, untouched: Sequence[Path]
    ) -> Done:
        """Run the case, with these flags too; `untouched` folders must stay as they were made."""
        make, fragments = self._cases[name]
        arguments = make(place)
        before = [contents(folder) for folder in untouched]
        with as_in_production():
            done = flexlora(*arguments, *flags)
        assert_one_sentence(done, *fragments)
        assert [contents(folder) for folder in untouched] == before
        return done


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Everything below a folder, to see that nothing changed."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}
