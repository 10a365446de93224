"""What a task is: a name and its examples. Most sources make one client of each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a chat. calls: the tools that an assistant calls, a list in JSON; "" none."""

    role: str
    text: str
    calls: str = ""


@dataclass(frozen=True)
class Example:
    """One instance: an instruction, an input text, and one or more acceptable responses.

    The first reference is what training learns; scores take the best over all of them. `category`
    groups examples for reports and for partitions by label. `choices`: the answers that multiple
    choice ranks by likelihood, the first reference among them; empty where there are none.
    `history`: a chat's turns before this instruction; empty where there are none. A blank
    instruction: what is answered is the last of these. `type`: of the client that holds it, as the
    data says; "" where it does not.
    """

    id: str
    instruction: str
    input: str
    references: tuple[str, ...]
    category: str = ""
    choices: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()
    type: str = ""


@dataclass(frozen=True)
class Task:
    """A named group of examples."""

    name: str
    examples: tuple[Example, ...]
