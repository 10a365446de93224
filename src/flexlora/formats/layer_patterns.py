"""PEFT's `rank_pattern` and `alpha_pattern`: which number a layer has, in time linear in its name.

PEFT takes the first entry whose key matches as a regular expression at the end of the layer's
name, `re.match(rf"(.*\\.)?({key})$", name)`, layer by layer. Run as such, an expression from
somebody else's file may take for ever, and a folder of n layers with a pattern each takes n² steps.
Here plain names, which nearly all keys are, are looked up; the rest is run by RE2, whose time is
linear. What RE2 would read in another way than Python is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, final

import re2

from flexlora.errors import shown

MOST_EXPRESSIONS: Final = 256  # Of one table; plain names do not count, but for their shapes.
LONGEST: Final = 1000  # Characters of one key.
# Bytes of an expression's program: linear time has a factor, and RE2 unfolds counted repetitions.
# The slowest found that fits takes 0.03 ms for a name of 512 characters; of the default size, a
# second.
_MEMORY: Final = 4096

# One literal character: escaped, or of no meaning of its own; a dot that is not escaped stands for
# any character.
_CHARACTER = r"\\[^A-Za-z0-9]|[^\\.^$*+?{}\[\]|()\n]"
_NAME = re.compile(rf"(\^?)((?:{_CHARACTER}|\.)+)")
_PART = re.compile(rf"({_CHARACTER})|\.")
# What RE2 and Python read alike. Refused are look-around, back references, flags, {,n}, …
_ALIKE = re.compile(
    rf"(?:{_CHARACTER}|\\[dDwWsSbB]|[.^$|)]|\((?:\?:|(?!\?))|[*+?]\??|\{{[0-9]{{1,3}}(?:,[0-9]{{0,3}})?\}}\??"
    r"|\[\^?\]?(?:\\[dws]|\\[^A-Za-z0-9]|[^\]\[\\])*\])+"
)
_Shape = tuple[bool, tuple[int, ...]]
_Found = tuple[int, Any]


@final
class LayerPatterns:
    """The entries of one such table: key → value, of which the first that matches a name counts.

    Raises ValueError that names the key for one that is no regular expression or beyond the limits,
    and says so where the keys beside plain names are too many.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        # Length of a name → (from the first character on?, where any character may stand) → name
        # with those taken out → place in the table and value.
        self._names: dict[int, dict[_Shape, dict[str, _Found]]] = {}
        self._expressions: list[tuple[int, Any, Any]] = []
        shapes = 0
        for place, (key, value) in enumerate(table.items()):
            if len(key) > LONGEST:
                raise ValueError(f"{shown(key)}: longer than {LONGEST} characters")
            match = _NAME.fullmatch(key)
            if match is None:
                self._expressions.append((place, _compiled(key), value))
            else:
                anchored, characters = bool(match[1]), [x[1] for x in _PART.finditer(match[2])]
                wild = tuple(at for at, x in enumerate(characters) if x is None)
                text = "".join("" if x is None else x[-1] for x in characters)
                of_length = self._names.setdefault(len(characters), {})
                shapes += bool(wild) and (anchored, wild) not in of_length
                of_length.setdefault((anchored, wild), {}).setdefault(text, (place, value))
            if shapes + len(self._expressions) > MOST_EXPRESSIONS:
                raise ValueError(
                    f"{shown(key)}: more than {MOST_EXPRESSIONS} expressions; write out the "
                    "layers' full names, with their dots escaped"
                )

    def of(self, name: str, default: Any) -> Any:
        """The value of the first key that matches the layer's name; default: where none does.

        Raises ValueError for a name that no expression is run on: not printable ASCII.
        """
        if not self._names and not self._expressions:
            return default
        if "\n" in name or (self._expressions and not (name.isascii() and name.isprintable())):
            raise ValueError(f"layer name {shown(name)}, which no expression can be held against")
        found = [*self._named(name)]
        for place, expression, value in self._expressions:
            if expression.match(name.encode()) is not None:
                found.append((place, value))
                break
        return min(found, key=lambda x: x[0])[1] if found else default

    def _named(self, name: str) -> Iterator[_Found]:
        for length, shapes in self._names.items():
            begin = len(name) - length
            if begin < 0 or (begin and name[begin - 1] != "."):
                continue
            for (anchored, wild), texts in shapes.items():
                if anchored and begin:
                    continue
                found = texts.get(_without(name[begin:], wild))
                if found is not None:
                    yield found


def _without(text: str, places: tuple[int, ...]) -> str:
    if not places:
        return text
    ends = (*places, len(text))
    begins = (0, *(place + 1 for place in places))
    return "".join(text[begin:end] for begin, end in zip(begins, ends, strict=True))


def _compiled(key: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MEMORY
    options.encoding = re2.Options.Encoding.LATIN1
    try:
        if not key.isascii() or _ALIKE.fullmatch(key) is None:
            raise ValueError("it has parts that cannot be run in linear time")
        return re2.compile(rf"(.*\.)?({key})$".encode(), options)
    except (ValueError, re2.error) as error:
        words = error.args[0] if error.args else ""
        reason = words.decode(errors="replace") if isinstance(words, bytes) else words
        raise ValueError(f"{shown(key)}: {reason}") from error
