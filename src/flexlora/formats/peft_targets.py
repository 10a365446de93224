"""Which pairs of a PEFT folder are LoRA on bare parameters, and on which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from flexlora.errors import AdapterError, shown
from flexlora.formats.parameters import INNER, Parameter, declared
from flexlora.formats.peft_config import CONFIG
from flexlora.formats.peft_keys import LONGEST_KEY

_MOST_NAMES: Final = 64  # Of parameters that may be of one module.
FitsLayer = Callable[[str], bool]


class TargetParameters:
    """`target_parameters` of a config: the ends of parameters' full names.

    Raises AdapterError for more of them than one module can have.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._names: dict[str, set[str]] = {}  # The end of a module's name → of its parameters.
        for target in config.get("target_parameters") or []:
            module, _, name = target.rpartition(".")
            self._names.setdefault(module, set()).add(name)
            if len(self._names[module]) > _MOST_NAMES or len(target) > LONGEST_KEY:
                raise self._too_many(target)
        modules = config.get("target_modules")
        listed = modules if isinstance(modules, list) else []
        self._modules = {x for x in listed if isinstance(x, str)}
        self._expression = isinstance(modules, str)

    def found(self, pairs: Iterable[str], fits_layer: FitsLayer) -> dict[str, Parameter]:
        """Name of a pair, as its keys have it → the parameter that it adapts, for all such pairs.

        fits_layer: whether a pair has the rank that it has to have as a layer's.
        Raises AdapterError for wrappers that the config does not account for.
        """
        wrappers: dict[str, set[int]] = {}
        for pair in pairs if self._names else ():
            module, inside = pair, 0
            while module.endswith(INNER):
                module, inside = module.removesuffix(INNER), inside + 1
            wrappers.setdefault(module, set()).add(inside)
        found: dict[str, Parameter] = {}
        for module, held in wrappers.items():
            named, depth = tuple(sorted(self._of(module))), len(held)
            if not named or (held == {0} and self._is_layer(module, fits_layer)):
                continue
            if len("+".join(named)) > LONGEST_KEY:
                raise self._too_many(module)
            if held != set(range(depth)) or depth > len(named):
                known = shown(", ".join(named))
                raise AdapterError(
                    f"{self._path} holds LoRA for {depth} parameters of {module}, up to "
                    f"{module + INNER * max(held)}, but {CONFIG} names {known} in "
                    "target_parameters; save the adapter again"
                )
            order = self._order(module, depth)
            for place in range(depth):
                names = named if order is None else (order[place],)
                pair = module + INNER * (depth - 1 - place)
                found[pair] = Parameter(module, names, place, depth)
        return found

    def _too_many(self, where: str) -> AdapterError:
        return AdapterError(
            f"{self._path / CONFIG} has target_parameters of more than {_MOST_NAMES} names for one "
            f"module, or of {LONGEST_KEY} characters ({shown(where)}); correct it"
        )

    def _of(self, module: str) -> set[str]:
        """What the parameters of this module may be."""
        return self._named(module) | self._names.get("", set())

    def _named(self, module: str) -> set[str]:
        """Those that are named together with their module."""
        return {name for end in _ends(module) for name in self._names.get(end, ())}

    def _order(self, module: str, depth: int) -> tuple[str, ...] | None:
        """The names of so many parameters as the model declares them, where that is known."""
        for names in (self._named(module), self._of(module)):
            if len(names) == depth:
                return declared(names)
        return None

    def _is_layer(self, module: str, fits_layer: FitsLayer) -> bool:
        """A name alone, "gate_up_proj", may be of any module that has such a parameter: what is a
        layer by target_modules, or by its rank where these are an expression, is one.
        """
        if self._expression:
            return not self._named(module) and fits_layer(module)
        return any(end in self._modules for end in _ends(module))


def _ends(module: str) -> Iterator[str]:
    """The name, and what is behind each of its dots."""
    yield module
    for place, character in enumerate(module):
        if character == ".":
            yield module[place + 1 :]
