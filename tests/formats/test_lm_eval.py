"""An exported adapter in lm-evaluation-harness: it loads, and its likelihoods are ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flexlora
from flexlora import AdaptedModel, load_adapter, load_model, load_peft, run, save_peft
from flexlora.evaluation import EvalClient, EvalSettings, continuation_losses, evaluate
from flexlora.tasks.prompts import encode
from flexlora.tasks.task import Example
from follow import ROOT, blocks, follow
from small import small
from warm import Warm

lm_eval = pytest.importorskip(
    "lm_eval",
    reason="lm_eval is not installed (350 MB): pip install -c constraints.txt -e '.[harness]'",
)

TINY = Path(flexlora.__file__).parent / "models" / "tiny"
COLOURS = ["red", "light green", "a kind of blue"]

TASK = """
task: own_choices
dataset_path: json
dataset_kwargs:
  data_files: {data}
  cache_dir: {cache}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    played = run(small(federation={"rounds": 1}, evaluation={"unseen": False}), folder / "run")
    save_peft(load_adapter(played.folder, 4), folder / "adapter")
    return folder / "adapter"


@pytest.fixture(scope="module")
def ours(adapter: Path) -> AdaptedModel:
    loaded = load_peft(adapter)
    model = AdaptedModel(load_model("tiny"), tuple(loaded))
    model.set_delta({name: factors.product() for name, factors in loaded.items()})
    return model


def some_examples() -> list[Example]:
    return [
        Example(
            str(i),
            f"Name a colour that goes with number {i}.",
            "" if i % 2 else f"The number is {i}.",
            (COLOURS[i % 3],),
            choices=tuple(COLOURS),
        )
        for i in range(9)
    ]


def written(ours: AdaptedModel, folder: Path) -> Path:
    """The examples as a task of the harness: our prompts as text, EOS after each choice."""
    end = ours.tokenizer.eos_token
    with (folder / "rows.jsonl").open("w") as file:
        for example in some_examples():
            prompt = encode(ours.tokenizer, example, max_tokens=250).prompt
            row = {
                "prompt": ours.tokenizer.decode(prompt, skip_special_tokens=True),
                "choices": [choice + end for choice in COLOURS],
                "answer": COLOURS.index(example.references[0]),
            }
            file.write(json.dumps(row) + "\n")
    tasks = folder / "tasks"
    tasks.mkdir()
    task = TASK.format(data=folder / "rows.jsonl", cache=folder / "cache")
    (tasks / "own.yaml").write_text(task)
    return tasks


def scored(adapter: Path | None, tasks: Path) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    peft = {} if adapter is None else {"peft": str(adapter)}
    model = HFLM(pretrained=str(TINY), device="cpu", dtype="float32", batch_size=4, **peft)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, tasks=["own_choices"], task_manager=manager, bootstrap_iters=0
    )
    return {"lm": model, "acc": found["results"]["own_choices"]["acc,none"]} | {
        "logs": [
            [log for log, _ in sample["filtered_resps"]]
            for sample in sorted(found["samples"]["own_choices"], key=lambda s: s["doc_id"])
        ]
    }


def test_its_likelihoods_are_ours(adapter: Path, ours: AdaptedModel, tmp_path: Path) -> None:
    tasks = written(ours, tmp_path)
    theirs = scored(adapter, tasks)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    # The harness moves blanks from the prompt's end to the choice: its split, our likelihoods.
    pairs = [
        (tuple(begin), tuple(end))
        for row in rows
        for choice in row["choices"]
        for begin, end in [theirs["lm"]._encode_pair(row["prompt"], choice)]
    ]
    losses = continuation_losses(ours, pairs, batch_size=4)
    flat = [log for logs in theirs["logs"] for log in logs]
    assert flat == pytest.approx([-loss.total for loss in losses], rel=1e-4)
    examples = tuple(encode(ours.tokenizer, e, max_tokens=250) for e in some_examples())
    settings = EvalSettings(metrics=("choice",))
    assert evaluate(ours, [EvalClient("a", examples)], settings).mean()["choice"] == pytest.approx(
        100 * theirs["acc"]
    )
    bare = [log for logs in scored(None, tasks)["logs"] for log in logs]
    assert flat != pytest.approx(bare, rel=1e-2)  # The adapter was not left aside.


@pytest.fixture
def warm() -> Iterator[Warm]:
    server = Warm()
    yield server
    server.close()


def test_the_guide_runs_with_the_harness_as_it_stands(
    tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `test_guide` only shows is run here, but for installing."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    page = (ROOT / "docs" / "guide" / "score_elsewhere.md").read_text(encoding="utf-8")
    reason = "<!-- shown: the harness is large, and not part of the usual set-up -->\n"
    commands = [block.text for block in blocks(page) if block.mark == "shown"]
    assert [reason in page, *("pip install" in text for text in commands)] == [True, True, False]
    head, install, *rest = page.split(reason)
    done = follow("".join([head, reason, install, *rest]), tmp_path, warm)
    assert done.count("shown") == 1
    assert list((tmp_path / "scores").rglob("results_*.json"))
