"""What the clients of one adapted layer send back, as it really comes out of training.

`train` plays a few rounds of a federation that has this layer alone, under the rule `flexlora`:
each client regresses its own targets (directions that all share, directions of its own, noise) on
its own tokens, whose coordinates decay in size, with AdamW from what it is sent at its rank. The
factors of the last round are written to a folder, one file a client, beside the state that they
were sent from. `draw` writes Gaussian factors instead: nothing decays.

The same seed gives the same data. No client's factors are held longer than it takes
to add or to write them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexlora.adapters import Factors, LayerSpec
from flexlora.allocation.mixes import MIXES, TYPES, Mix
from flexlora.federation.streams import Streams
from flexlora.rules import ClientView, Contribution, LayerState, Listed, Spec, make_rule

RULE = make_rule("flexlora")
# A draw of ten from the uniform mix: their ranks on attention add up to 722.
_TEN = {"type1": 4, "type2": 2, "type3": 1, "type4": 3}
_EXAMPLES = (80, 240)  # Training examples of a client, about Natural Instructions' median of 159.


@dataclass(frozen=True)
class Training:
    """How the clients train, in steps over a few batches of their own.

    tokens: of a batch. cohort: clients in the rounds before the last, which has them all. shared,
    own: directions of the targets. noise: of the targets.
    """

    rounds: int = 3
    cohort: int = 80
    steps: int = 10
    batches: int = 2
    tokens: int = 256
    learning_rate: float = 2e-3
    shared: int = 256
    own: int = 32
    noise: float = 10.0


def clients_of(count: int) -> list[tuple[str, str]]:
    """(id, type) of so many clients, in order of id: the paper's uniform mix, types in turn."""
    counts = _TEN if count == 10 else Mix(TYPES, MIXES["uniform"]).counts(count)
    left, types = dict(counts), list[str]()
    while len(types) < count:
        for name in left:
            if left[name]:
                left[name] -= 1
                types.append(name)
    return [(f"client-{index:06d}", kind) for index, kind in enumerate(types)]


def ranks_of(count: int, layer: LayerSpec, scale: float = 1.0) -> list[int]:
    """The clients' ranks on a layer, by its kind; the paper's types times `scale`."""
    both = [LayerSpec(f"{kind}.{layer.name}", layer.m, layer.n) for kind in ("attention", "mlp")]
    name = f"{layer.kind}.{layer.name}"
    ranks = {kind: TYPES[kind].scaled(scale).resolve(both)[name] for kind in TYPES}
    return [ranks[kind] for _, kind in clients_of(count)]


def examples_of(count: int) -> list[int]:
    """Training examples of each client: what it is weighed by."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(*_EXAMPLES, (count,), generator=generator).tolist()


@dataclass(frozen=True)
class Replies:
    """A round's replies for one layer, on disk: `layer.json`, `state.safetensors`, one a client."""

    folder: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "layer.json").read_text()))

    @property
    def layer(self) -> LayerSpec:
        m, n = self.about["shape"]
        return LayerSpec(self.about["name"], m, n)

    @property
    def ranks(self) -> list[int]:
        return list(self.about["ranks"])

    @property
    def width(self) -> int:
        """Σ r: the inner width of the sum."""
        return sum(self.ranks)

    @property
    def weights(self) -> list[float]:
        """By training examples; they sum to 1."""
        examples = self.about["examples"]
        return [count / sum(examples) for count in examples]

    @cached_property
    def spec(self) -> Spec:
        return spec_of(self.layer, self.ranks)

    @property
    def nbytes(self) -> int:
        """Of all factors, in float32."""
        return 4 * self.width * (self.layer.m + self.layer.n)

    def factors(self, client: int) -> Factors:
        tensors = load_file(self.folder / f"{client:06d}.safetensors")
        # What is loaded is a view of the file until it is copied.
        b, a = (tensors[side].clone() for side in "ba")
        return Factors(b, a, self.spec.scale(self.ranks[client]))

    def state(self) -> dict[str, Tensor]:
        """What the clients were sent from: `vh` are the last round's right singular vectors."""
        held = load_file(self.folder / "state.safetensors")
        return {name: tensor.clone() for name, tensor in held.items()}


def spec_of(layer: LayerSpec, ranks: Sequence[int]) -> Spec:
    return Spec.of([layer], [{layer.name: rank} for rank in ranks])


def first_state(spec: Spec, generator: torch.Generator) -> LayerState:
    (layer,) = spec.at(0, generator)
    return RULE.init_layer(layer)


def sent_to(spec: Spec, state: LayerState, rank: int, generator: torch.Generator) -> Factors:
    """What a client of this rank is sent of the one layer."""
    (layer,) = spec.at(1, generator)
    return RULE.send_layer(layer, state, ClientView("", {layer.name: rank}))


def train(
    folder: Path, layer: LayerSpec, ranks: Sequence[int], seed: int, how: Training | None = None
) -> Replies:
    """The replies of a few rounds' training."""
    how = how or Training()
    generator = torch.Generator().manual_seed(seed)
    spec, task = spec_of(layer, ranks), _Task(layer, how, seed)
    state = first_state(spec, generator)
    examples = examples_of(len(ranks))
    for number in range(1, how.rounds):
        count = min(how.cohort, len(ranks))
        cohort = torch.randperm(len(ranks), generator=generator)[:count].sort().values.tolist()
        everyone = sum(examples[client] for client in cohort)
        contributions = [
            Contribution(
                f"client-{client:06d}",
                examples[client] / everyone,
                ranks[client],
                partial(task.trained, spec, state, ranks[client], client, number),
                sent_to(spec, state, ranks[client], generator),
            )
            for client in cohort
        ]
        (seen,) = spec.at(number, generator)
        state = RULE.combine(seen, state, Listed(contributions)).state
    trained = (
        task.trained(spec, state, rank, client, how.rounds) for client, rank in enumerate(ranks)
    )
    return _written(folder, layer, ranks, examples, state, trained)


def draw(folder: Path, layer: LayerSpec, ranks: Sequence[int], seed: int) -> Replies:
    """Gaussian replies, every direction of the same size: a flat spectrum."""
    generator = torch.Generator().manual_seed(seed)
    spec = spec_of(layer, ranks)

    def drawn(rank: int) -> Factors:
        b = torch.randn(layer.m, rank, generator=generator) / math.sqrt(layer.m)
        a = torch.randn(rank, layer.n, generator=generator) / math.sqrt(layer.n)
        return Factors(b / spec.scale(rank), a, spec.scale(rank))

    state = first_state(spec, generator)
    return _written(folder, layer, ranks, [1] * len(ranks), state, map(drawn, ranks))


def _written(
    folder: Path,
    layer: LayerSpec,
    ranks: Sequence[int],
    examples: Sequence[int],
    state: LayerState,
    replies: Iterator[Factors],
) -> Replies:
    folder.mkdir(parents=True)
    about = {"name": layer.name, "shape": [layer.m, layer.n], "ranks": list(ranks)}
    (folder / "layer.json").write_text(json.dumps(about | {"examples": list(examples)}))
    save_file(_plain(state), folder / "state.safetensors")
    for client, factors in enumerate(replies):
        save_file(_plain({"b": factors.b, "a": factors.a}), folder / f"{client:06d}.safetensors")
    return Replies(folder)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


class _Task:
    """What the clients of a layer have to learn, and how they do."""

    def __init__(self, layer: LayerSpec, how: Training, seed: int) -> None:
        self._layer, self._how, self._streams = layer, how, Streams(seed)
        generator = self._streams.generator("shared targets")
        decay = torch.arange(1, how.shared + 1) ** -0.7 / math.sqrt(layer.n)
        self._shared = (
            torch.randn(layer.m, how.shared, generator=generator) * decay,
            torch.randn(how.shared, layer.n, generator=generator),
        )
        sizes = torch.arange(1, layer.n + 1) ** -0.5
        self._sizes = (sizes / sizes.square().mean().sqrt())[:, None]

    def trained(
        self, spec: Spec, state: LayerState, rank: int, client: int, number: int
    ) -> Factors:
        """What a client makes, in round `number`, of what it is sent from this state."""
        how, generator = self._how, self._streams.generator("train", number, client)
        sent = sent_to(spec, state, rank, generator)
        own = self._own(client)
        b, a = sent.b.clone().requires_grad_(), sent.a.clone().requires_grad_()
        optimiser = torch.optim.AdamW((b, a), lr=how.learning_rate, weight_decay=0.0, fused=True)
        batches = [self._batch(own, generator) for _ in range(how.batches)]
        for step in range(how.steps):
            tokens, target = batches[step % how.batches]
            loss = (sent.scale * (b @ (a @ tokens)) - target).square().sum() / (2 * how.tokens)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return Factors(b.detach(), a.detach(), sent.scale)

    def _batch(
        self, own: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Tokens (n, t) and what is to come out of the layer for them (m, t)."""
        m, n, how = self._layer.m, self._layer.n, self._how
        tokens = torch.randn(n, how.tokens, generator=generator) * self._sizes
        target = torch.randn(m, how.tokens, generator=generator) * how.noise
        for left, right in (self._shared, own):
            target.addmm_(left, right @ tokens)
        return tokens, target

    def _own(self, client: int) -> tuple[Tensor, Tensor]:
        generator = self._streams.generator("own targets", client)
        m, n, own = self._layer.m, self._layer.n, self._how.own
        left = torch.randn(m, own, generator=generator) * 0.3 / math.sqrt(n)
        return left, torch.randn(own, n, generator=generator)
