from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from flexlora.errors import ConfigError, DataError
from flexlora.tasks.source import SOURCES, Corpus, fingerprint, open_source, register
from flexlora.tasks.task import Example, Task, Turn

FIRST = Example("1", "do", "in", ("out", "put"), "c", ("out", "off"))
SECOND = Example("2", "do", "", ("x",))
TASK = Task("t", (FIRST, SECOND))


def test_the_fingerprint_is_pinned() -> None:
    assert fingerprint([TASK], []) == Corpus.of([TASK], []).fingerprint
    assert fingerprint([TASK], []) == (
        "61bd676ca3bfd2e340ca3ab561df5a434330fb9a0e74f3e334eaa7a57c9a1982"
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(TASK, name="u"),
        Task("t", (SECOND, FIRST)),
        Task("t", (FIRST,)),
        *(
            Task("t", (replace(FIRST, **change), SECOND))
            for change in (
                {"id": "0"},
                {"instruction": "Do"},
                {"input": "i"},
                {"category": "d"},
                {"choices": ("out",)},
                # The same letters, divided differently.
                {"references": ("output",)},
                {"input": "ino", "references": ("ut", "put")},
                {"references": ("out",), "choices": ("put", "out", "off")},
                {"references": ("out", "put", "choices", "out", "off"), "choices": ()},
                {"choices": ("out",), "history": (Turn("off", ""),)},
            )
        ),
    ],
)
def test_the_fingerprint_sees_every_change(other: Task) -> None:
    assert fingerprint([TASK], []) != fingerprint([other], [])


def test_the_fingerprint_tells_turns_apart() -> None:
    chats = (
        (Turn("user", "r"), Turn("assistant", "b"), Turn("user", "c")),
        (Turn("user", "r", "assistant"), Turn("b", "user", "c")),
        (Turn("user", "r"), Turn("assistant", "b", "user"), Turn("c", "")),
    )
    tasks = [replace(TASK, examples=(replace(TASK.examples[0], history=x),)) for x in chats]
    assert len({fingerprint([task], []) for task in tasks}) == 3


def test_the_fingerprint_sees_the_part_and_the_order() -> None:
    other = replace(TASK, name="u")
    nothing: list[Task] = []
    orders = (
        ([TASK], nothing),
        (nothing, [TASK]),
        ([TASK, other], nothing),
        ([other, TASK], nothing),
    )
    prints = {fingerprint(*parts) for parts in orders}
    assert len(prints) == 4


@dataclass(frozen=True)
class Fixed:
    name: str
    count: int = 1

    def load(self) -> Corpus:
        return Corpus.of([replace(TASK, name=self.name)] * self.count, [])


def test_a_source_is_registered_once_and_opened_with_its_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SOURCES, "fixed", Fixed)
    register("fixed", Fixed)
    assert SOURCES.named("fixed") is Fixed
    assert len(open_source("fixed", {"name": "n", "count": 2}).load().train) == 2
    with pytest.raises(ConfigError, match="'fixed' is registered already"):
        register("fixed", "flexlora.tasks.dolly:Dolly")
    with pytest.raises(ConfigError, match=r"data\.source is 'fixd'; did you mean 'fixed'"):
        SOURCES.named("fixd")
    with pytest.raises(
        ConfigError, match=r"data\.cuont is not an option of 'fixed'; did you mean 'count'"
    ):
        open_source("fixed", {"name": "n", "cuont": 2})
    with pytest.raises(
        ConfigError, match=r"data\.source is 'fixed', which needs data.name; give it"
    ):
        open_source("fixed", {})


def test_the_built_in_sources_are_there() -> None:
    for name in ("embedded", "natural_instructions"):
        assert hasattr(SOURCES.named(name), "load")


def test_sources_import_neither_pyarrow_nor_transformers() -> None:
    code = (
        "import sys; from flexlora.tasks.source import SOURCES; "
        "SOURCES['natural_instructions']; SOURCES['embedded']; import flexlora.tasks.prompts;"
        "import flexlora.evaluation.scores; "
        "print([m for m in ('pyarrow', 'transformers', 'rouge_score') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_embedded_tasks_are_a_function_of_the_options() -> None:
    options = {"train_tasks": 5, "examples_per_task": 12, "seed": 3}
    corpus = open_source("embedded", options).load()
    assert corpus == open_source("embedded", options).load()
    assert len(corpus.train) == 5
    assert {len(task.examples) for task in corpus.train + corpus.unseen} == {12}
    other = open_source("embedded", options | {"unseen": "development", "unseen_tasks": 2}).load()
    assert other.train == corpus.train
    assert len(other.unseen) == 2
    families = [{task.name.split(".")[0] for task in c.unseen} for c in (corpus, other)]
    assert not families[0] & families[1]
    assert open_source("embedded", options | {"seed": 4}).load().fingerprint != corpus.fingerprint


def test_embedded_refuses_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"data\.unseen is .stale.; known: development, fresh"):
        open_source("embedded", {"unseen": "stale"})
    with pytest.raises(
        ConfigError, match=r"data\.examples_per_task is 0, expected a whole number of 1 or more"
    ):
        open_source("embedded", {"examples_per_task": 0})
    with pytest.raises(DataError, match="train_tasks is 9999, but there are"):
        open_source("embedded", {"train_tasks": 9999, "examples_per_task": 1}).load()
