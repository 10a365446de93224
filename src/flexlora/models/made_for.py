"""Whether an adapter was made for the base model that it is to be used with."""

from __future__ import annotations

from flexlora.adapters import Adapter
from flexlora.errors import AdapterError
from flexlora.formats.same_base import Base, difference


def base_fingerprint(precision: str, fingerprint: str) -> str:
    """What an adapter keeps of its base: how its weights are held, and their `model_fingerprint`.

    precision: the dtype, and the bits of a quantised base. It is part of it, since the weights of
    one model differ between precisions.
    """
    return f"{precision}:{fingerprint}"


def require_made_for(adapter: Adapter, name: str, fingerprint: str, cure: str) -> None:
    """Raise AdapterError unless the adapter was made for the base of this name and fingerprint.

    `difference` tells; an adapter that knows neither passes. cure: what the user may do about it.
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


def _short(fingerprint: str) -> str:
    return fingerprint.partition(":")[2][:12]
