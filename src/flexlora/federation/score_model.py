"""Scoring one model, with or without an adapter, on whole test tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flexlora.adapters import Adapter
from flexlora.config.base import load_base
from flexlora.config.config import Config
from flexlora.config.settings import eval_settings
from flexlora.errors import AdapterError, DataError, ModelError
from flexlora.evaluation import Scores, evaluate
from flexlora.federation.data import (
    eval_clients,
    read_corpus,
    require_context,
    require_unseen,
    today_of,
    too_long_notes,
)
from flexlora.federation.examples import Dealt
from flexlora.federation.sampling import sample
from flexlora.federation.starts import trained_before
from flexlora.federation.streams import Streams
from flexlora.formats.peft import load_peft
from flexlora.models import (
    AdaptedModel,
    BaseModel,
    base_fingerprint,
    model_fingerprint,
    require_made_for,
)
from flexlora.tasks.clients import as_clients
from flexlora.tasks.special_text import special_text_notes
from flexlora.tasks.task import Task
from flexlora.tasks.trained import UNTRAINED, Trained


def score_model(
    config: Config,
    adapter: Adapter | Path | str | None = None,
    *,
    tasks: int | None = None,
    force: bool = False,
) -> Scores:
    """Score the config's model, with this adapter (or PEFT folder), on its source's test tasks.

    Uses [model], [data], [partition], [evaluation] and the seed of the config; nothing is trained
    or written.
    What a run of this config would train on, too, is not scored, unless data.duplicates says so;
    of a source that is recalled (see `Corpus`) just that is scored, as its clients hold it.
    tasks: score so many of the test tasks, drawn by the seed (none: all that there are); more than
    there are is a DataError. force: use an adapter that was made for another base, too, as long as
    its layers fit.
    Raises AdapterError for an adapter that is malformed or was made for another model.
    """
    asked = config.evaluation.model_copy(update={"unseen": True})  # Whatever a run of it does.
    config = config.model_copy(update={"evaluation": asked})
    settings = eval_settings(config, config.evaluation.metrics)
    if isinstance(adapter, str | Path):
        adapter = load_peft(adapter)
    base = load_base(config.model)
    model = (
        AdaptedModel(base, config.model.targets)
        if adapter is None
        else _with(base, config.model.precision, adapter, force=force)
    )
    require_context(config, model)
    streams = Streams(config.federation.seed)
    if config.data.duplicates == "keep":
        data = config.data.without_training()
        corpus = read_corpus(config.model_copy(update={"data": data}), streams)
        require_unseen(config, corpus)
        said = corpus.notes if corpus.recalled else ()
        chosen = _some(corpus.train if corpus.recalled else corpus.unseen, tasks, streams)
        clients = as_clients(chosen, seed=streams.derive("split"), unseen=True)
    else:  # What is scored depends on what a run of this config would train on.
        dealt = Dealt.of(config)
        corpus = dealt.corpus
        if corpus.recalled:
            chosen = _some([client.task("train") for client in dealt.clients], tasks, streams)
            clients = as_clients(chosen, seed=streams.derive("split"), unseen=True)
            said = corpus.notes
        else:
            parts = dealt.parts(config, _some(corpus.unseen, tasks, streams), _before(config))
            clients, said = parts.unseen, tuple(filter(None, [parts.told.get("unseen")]))
    scored = eval_clients(model, clients, "test", config, today_of(config))
    if not scored:
        raise DataError(
            f"none of {len(clients)} test tasks holds an example that fits "
            f"{config.data.max_tokens} tokens; raise data.max_tokens"
        )
    scores = evaluate(model, scored, settings)
    wanted, kept = sum(len(c.test) for c in clients), sum(len(c.examples) for c in scored)
    fits = {c.id: c.examples for c in scored}
    marked = special_text_notes(base.tokenizer, (x for c in clients for x in c.test))
    notes = (*said, *scores.notes, *too_long_notes(config, [(clients, "test", fits)]), *marked)
    return replace(scores, left_out=wanted - kept, notes=notes)


def _before(config: Config) -> Trained:
    """What a run of it would have been trained on before it began, as far as that is there."""
    try:
        return trained_before(config)
    except AdapterError:  # A run would end by it; what is scored here does not begin from it.
        return UNTRAINED


def _some(tasks: Sequence[Task], count: int | None, streams: Streams) -> Sequence[Task]:
    """So many of them, in their order."""
    if count is None:
        return tasks
    if not 1 <= count <= len(tasks):
        raise DataError(
            f"tasks is {count}, but there are {len(tasks)} test tasks; give 1 to {len(tasks)}"
        )
    chosen = set(sample([task.name for task in tasks], count, streams.generator("test_tasks")))
    return [task for task in tasks if task.name in chosen]


def _with(base: BaseModel, precision: str, adapter: Adapter, *, force: bool) -> AdaptedModel:
    adapter.require_finite()
    # Taken before the layers are wrapped (that changes their parameters' names), and only where
    # there is something to compare it with.
    weights = model_fingerprint(base.model) if adapter.base_fingerprint else ""
    try:
        model = AdaptedModel(base, tuple(adapter))
        model.set_delta({name: factors.product() for name, factors in adapter.items()})
    except (ModelError, AdapterError) as error:
        raise AdapterError(
            f"the adapter was made for {adapter.base or 'another model'}, not for {base.name}: "
            f"{error}"
        ) from error
    if not force:
        known = base_fingerprint(precision, weights)
        require_made_for(adapter, base.name, known, "give that model, or force it (--force)")
    return model
