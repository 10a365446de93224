"""What federations that differ in rule, mix or settings have in common: the model and its data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from flexlora.config.base import load_base
from flexlora.config.config import Config
from flexlora.config.sparse import sparse_rounds
from flexlora.errors import ModelError
from flexlora.evaluation.metric import Metric
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.federation.data import today_of
from flexlora.federation.examples import Dealt, Examples
from flexlora.federation.rehearsal import rehearse
from flexlora.models import AdaptedModel, model_fingerprint
from flexlora.tasks.trained import UNTRAINED, Trained

T = TypeVar("T")
# From a model, its fingerprint and the day to what its clients, who are elsewhere, told.
Gather = Callable[[AdaptedModel, str, date], Examples]
_Key = tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class Ground:
    """model: adapted, with its weights, or without where it is an outline; fingerprint: of them
    ("" for an outline); examples: encoded for it; made_of: what of a config each was made of;
    today: what a chat template was told that asks for the date.
    """

    model: AdaptedModel
    fingerprint: str
    examples: Examples
    made_of: tuple[_Key, _Key]
    today: date

    @staticmethod
    def of(
        config: Config,
        *,
        device: str | None = None,
        outline: bool = False,
        like: Ground | None = None,
        today: date | None = None,
        gather: Gather | None = None,
        deal: Callable[[Config], Dealt] = Dealt.of,
        before: Trained = UNTRAINED,
    ) -> Ground:
        """Read and load what [model], [data], [partition] and the seed say, data before weights.

        device: instead of the config's. like: whose model or examples are taken where they were
        made of the same. today: the day that templates are told where the config does not say it
        (default: that of `like`, else the day it is). gather: instead of reading any data here.
        deal: what reads the data, and makes it clients. before: what was trained on by what the
        run begins from, and is not scored.
        Raises InputErrors for all that can be wrong with either.
        """
        if config.model.date is not None:
            today = today_of(config)
        elif today is None:
            today = today_of(config) if like is None else like.today
        if gather is not None:
            model, fingerprint = _load(config, device, outline)
            made_of = _model_key(config, device, outline), ("elsewhere",)
            return Ground(model, fingerprint, gather(model, fingerprint, today), made_of, today)
        asked = _model_key(config, device, outline), (*_examples_key(config), today, before)
        if like is not None and like.made_of == asked:
            return like
        known = (None, None) if like is None else like.made_of
        dealt = None if known[1] == asked[1] else deal(config)
        if like is not None and known[0] == asked[0]:
            model, fingerprint = like.model, like.fingerprint
        else:
            model, fingerprint = _load(config, device, outline)
        if like is not None and dealt is None:
            examples = like.examples
        else:
            assert dealt is not None
            examples = dealt.encoded(config, model, today, before)
        return Ground(model, fingerprint, examples, asked, today)

    @property
    def outline(self) -> bool:
        return not self.fingerprint

    def once(self, question: Hashable, answer: Callable[[], T]) -> T:
        """What `answer` gives; found out once for all federations on this ground."""
        known: dict[Hashable, Any] = _KNOWN.setdefault(self, {})
        if question not in known:
            known[question] = answer()
        found: T = known[question]
        return found

    def rehearsed(self, config: Config, metrics: Iterable[str | Metric]) -> None:
        """Try once what a run of this config, scored by these metrics, will ask of the model.
        Raises ModelError as `rehearse`."""
        texts = any(m.needs == "text" for x in metrics for m in resolve_metrics((x,)))
        sparse = sparse_rounds(config) > 0
        self.once(
            ("rehearsed", texts, sparse), lambda: rehearse(self.model, texts=texts, sparse=sparse)
        )


# Beside the grounds, which never change; gone with them.
_KNOWN: WeakKeyDictionary[Ground, dict[Hashable, Any]] = WeakKeyDictionary()


_NOT_THE_MODEL = {"prompt", "date", "init_from", "init_force", "device"}


def _model_key(config: Config, device: str | None, outline: bool) -> _Key:
    model = config.model.model_dump(exclude=_NOT_THE_MODEL)
    return (*sorted(model.items()), device or config.model.device, outline)


def _examples_key(config: Config) -> _Key:
    evaluation = config.evaluation
    return (
        config.model.name,
        config.model.prompt,
        repr(config.data),
        repr(config.partition),
        repr(config.hostile),
        config.federation.seed,
        evaluation.unseen,
        evaluation.validation_clients,
        evaluation.validation_examples,
        evaluation.client_examples,
        evaluation.own_examples,
    )


def _load(config: Config, device: str | None, outline: bool) -> tuple[AdaptedModel, str]:
    base = load_base(config.model, device, outline=outline)
    fingerprint = "" if outline else model_fingerprint(base.model)
    model = AdaptedModel(base, config.model.targets)
    if not model.layers:
        raise ModelError(
            f"model {config.model.name} has no linear layers but its output head; give a "
            "transformer with nn.Linear layers"
        )
    return model, fingerprint
