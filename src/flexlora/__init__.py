"""FlexLoRA: federated LoRA fine-tuning in which every client trains at the rank it affords.

The public names, loaded on first use: importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexlora.adapters import About as About
    from flexlora.adapters import Adapter as Adapter
    from flexlora.adapters import Factors as Factors
    from flexlora.adapters import Ranks as Ranks
    from flexlora.allocation import Mix as Mix
    from flexlora.config import Config as Config
    from flexlora.config import load_config as load_config
    from flexlora.config import make_config as make_config
    from flexlora.federation import Session as Session
    from flexlora.federation import Setup as Setup
    from flexlora.federation import continue_run as continue_run
    from flexlora.federation import prepare as prepare
    from flexlora.federation import resume as resume
    from flexlora.federation import run as run
    from flexlora.federation.score_model import score_model as score_model
    from flexlora.formats.peft import load_peft as load_peft
    from flexlora.formats.peft import save_peft as save_peft
    from flexlora.lowrank import LowRank as LowRank
    from flexlora.lowrank import svd as svd
    from flexlora.merging import Merged as Merged
    from flexlora.merging import merge as merge
    from flexlora.models import AdaptedModel as AdaptedModel
    from flexlora.models import load_model as load_model
    from flexlora.models import save_merged as save_merged
    from flexlora.rules import RULES as RULES
    from flexlora.rules import Rule as Rule
    from flexlora.rules import make_rule as make_rule
    from flexlora.rules import register as register
    from flexlora.runs import Result as Result
    from flexlora.runs import load_adapter as load_adapter
    from flexlora.tasks.held_rows import hold_rows as hold_rows

__version__ = "0.1.0"

_HOMES = {
    "flexlora.adapters": ("About", "Adapter", "Factors", "Ranks"),
    "flexlora.allocation": ("Mix",),
    "flexlora.config": ("Config", "load_config", "make_config"),
    "flexlora.federation": (
        "Session",
        "Setup",
        "continue_run",
        "prepare",
        "resume",
        "run",
        "score_model",
    ),
    "flexlora.runs": ("Result", "load_adapter"),
    "flexlora.formats.peft": ("load_peft", "save_peft"),
    "flexlora.lowrank": ("LowRank", "svd"),
    "flexlora.merging": ("Merged", "merge"),
    "flexlora.models": ("AdaptedModel", "load_model", "save_merged"),
    "flexlora.rules": ("RULES", "Rule", "make_rule", "register"),
    "flexlora.tasks.held_rows": ("hold_rows",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "RULES",
    "About",
    "AdaptedModel",
    "Adapter",
    "Config",
    "Factors",
    "LowRank",
    "Merged",
    "Mix",
    "Ranks",
    "Result",
    "Rule",
    "Session",
    "Setup",
    "continue_run",
    "hold_rows",
    "load_adapter",
    "load_config",
    "load_model",
    "load_peft",
    "make_config",
    "make_rule",
    "merge",
    "prepare",
    "register",
    "resume",
    "run",
    "save_merged",
    "save_peft",
    "score_model",
    "svd",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flexlora' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
