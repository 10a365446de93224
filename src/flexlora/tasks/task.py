"""What a task is: a definition in words and its examples. One task is one client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One instance: an input text and one or more acceptable responses.

    The first reference is what training learns; scores take the best over all of them.
    """

    id: str
    input: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A named task: `definition` says in words what to do; `category` groups tasks for reports."""

    name: str
    definition: str
    category: str
    examples: tuple[Example, ...]
