"""Optional packages: which extra brings which, and one sentence for all that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from flexlora.errors import ConfigError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "parquet": ("pyarrow",),
    "datasets": ("datasets",),
    "tensorboard": ("accelerate", "tensorboard"),
    "mlflow": ("accelerate", "mlflow", "sqlalchemy", "alembic"),
    "wandb": ("accelerate", "wandb"),
    "trackio": ("accelerate", "trackio"),
    "quant": ("bitsandbytes", "accelerate"),
    "gguf": ("gguf", "accelerate"),
    "flower": ("flwr",),
    "report": ("altair", "vl_convert"),
    "watch": ("starlette", "uvicorn"),
}
"""Extra → the modules that it brings."""


def require_extras(asked: Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError, naming all of them at once, for extras that are not installed.

    asked: what asks for it ("run.trackers has mlflow"), and the extra.
    """
    words: dict[str, None] = {}
    extras: dict[str, None] = {}
    for what, extra in asked:
        lacking = [module for module in EXTRAS[extra] if find_spec(module) is None]
        if lacking:
            verb = "is" if len(lacking) == 1 else "are"
            words[f"{what}, but {' and '.join(lacking)} {verb} not installed"] = None
            extras[extra] = None
    if words:
        which = "the extra" if len(extras) == 1 else "the extras"
        raise ConfigError(f"{'; '.join(words)}; install {which} flexlora[{','.join(extras)}]")
