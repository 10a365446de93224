"""How a PEFT folder is written: as every reader reads it alike, or with PEFT's patterns.

vLLM reads r and lora_alpha, and no patterns; llama.cpp's converter lora_alpha alone, and no rsLoRA
(`vllm/lora/peft_helper.py`, `convert_lora_to_gguf.py`). Where layers differ in rank or scale, only
one rank for all, α = r and the scale inside B mean the same to everyone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from flexlora.errors import AdapterError, ConfigError, RankError
from flexlora.formats.peft_keys import Kind
from flexlora.registry import Registry


@dataclass(frozen=True)
class Server:
    """What a program that serves adapters takes of them.

    ranks: those that it can be set to, ascending; kinds: of layers; skips: how keys end that it
    passes over among the tensors beside LoRA (all others it refuses).
    """

    name: str
    ranks: tuple[int, ...]
    kinds: frozenset[Kind]
    skips: tuple[str, ...]

    def rank(self, rank: int) -> int:
        """The lowest of its ranks that holds this one. Raises RankError where none does."""
        for known in self.ranks:
            if rank <= known:
                return known
        raise RankError(
            f"rank {rank} is above {self.ranks[-1]}, the highest that {self.name} serves; give a "
            "lower rank, or an energy"
        )

    def require_layer(self, name: str, kind: Kind) -> None:
        if kind not in self.kinds:
            raise AdapterError(
                f"layer {name} is LoRA on a {kind}, which {self.name} does not serve; leave that "
                "layer out, or write the adapter for other readers"
            )

    def require_beside(self, key: str) -> None:
        if not key.endswith(self.skips):
            raise AdapterError(
                f"{key} is saved whole beside LoRA, which {self.name} does not serve; train "
                "without modules_to_save, or put it into the base model"
            )


SERVERS: Final[Registry[Server]] = Registry("server", "serve")
SERVERS.add(
    "vllm",
    Server(
        "vLLM",
        ranks=(8, 16, 32, 64, 128, 256, 320, 512),  # Of its `max_lora_rank`.
        kinds=frozenset({"linear", "embedding"}),
        skips=(".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight"),
    ),
)


@dataclass(frozen=True)
class Form:
    """How layers of different ranks and scales are written.

    compact: ranks and scales as they are, with patterns, which PEFT alone reads. Else one rank,
    filled up with zeros where a layer has less, and α = r. server: whose rules hold, if any.
    """

    compact: bool = False
    server: Server | None = None

    @staticmethod
    def of(*, compact: bool, serve: str | None) -> Form:
        """Raises ConfigError for an unknown server, and for patterns that it would not read."""
        if serve is None:
            return Form(compact)
        server = SERVERS.named(serve)
        if compact:
            raise ConfigError(
                f"compact keeps rank_pattern and alpha_pattern, which {server.name} does not read; "
                "give just one of compact and serve"
            )
        return Form(server=server)

    def one_rank(self, ranks: Iterable[int]) -> int | None:
        """What every layer is filled up to; None where each keeps its own.

        Raises RankError for a rank that the server does not serve.
        """
        if self.compact:
            return None
        highest = max(1, *ranks)
        return highest if self.server is None else self.server.rank(highest)


ALIKE: Final = Form()
