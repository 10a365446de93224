"""Whether an adapter was made for the base model that it is to be used with."""

from __future__ import annotations

from pathlib import Path

from flexlora.adapters import Adapter
from flexlora.errors import AdapterError, shown
from flexlora.formats.same_base import Base, difference


def base_fingerprint(precision: str, fingerprint: str) -> str:
    """What an adapter keeps of its base: how its weights are held, and their `model_fingerprint`.

    precision: the dtype, and the bits of a quantised base. It is part of it, since the weights of
    one model differ between precisions.
    """
    return f"{precision}:{fingerprint}"


def require_made_for(adapter: Adapter, name: str, fingerprint: str, cure: str) -> None:
    """Raise AdapterError unless the adapter was made for the base of this name and fingerprint.

    `difference` tells; an adapter that knows neither passes, but for one of another revision on the
    hub than is loaded from there. cure: what the user may do about it.
    """
    theirs, ours = adapter.base_fingerprint, fingerprint
    differing = difference(Base(adapter.base, theirs), Base(name, ours))
    if differing == "weights":
        raise AdapterError(
            f"the adapter was made for {adapter.base or 'a model'} with weights "
            f"{_short(theirs)}, not for {name} with weights {_short(ours)}; {cure}"
        )
    if differing == "name":
        raise AdapterError(f"the adapter was made for {adapter.base}, not for {name}; {cure}")
    revision = adapter.about.revision
    if revision not in ("", "main") and theirs != ours and not Path(name).exists():
        raise AdapterError(
            f"the adapter was made for {name} as of revision {shown(revision)}, and by that name "
            "the newest one is loaded; download that revision, and name its folder"
        )


def _short(fingerprint: str) -> str:
    return fingerprint.partition(":")[2][:12]
