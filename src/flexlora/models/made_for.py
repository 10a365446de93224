"""Whether an adapter was made for the base model that it is to be used with."""

from __future__ import annotations

from flexlora.adapters import Adapter
from flexlora.errors import AdapterError
from flexlora.formats.same_base import same_base


def base_fingerprint(dtype: str, fingerprint: str) -> str:
    """What an adapter keeps of its base: the dtype of its weights, and their `model_fingerprint`.

    The dtype is part of it, since the weights of one model differ between dtypes.
    """
    return f"{dtype}:{fingerprint}"


def require_made_for(adapter: Adapter, name: str, fingerprint: str, cure: str) -> None:
    """Raise AdapterError unless the adapter was made for the base of this name and fingerprint.

    Fingerprints decide where both are of one dtype; else the names, by `same_base`. An adapter
    that knows neither passes. cure: what the user may do about it.
    """
    theirs, ours = adapter.base_fingerprint, fingerprint
    if theirs and theirs.partition(":")[0] == ours.partition(":")[0]:
        if theirs != ours:
            raise AdapterError(
                f"the adapter was made for {adapter.base or 'a model'} with weights "
                f"{_short(theirs)}, not for {name} with weights {_short(ours)}; {cure}"
            )
    elif adapter.base and not same_base(adapter.base, name):
        raise AdapterError(f"the adapter was made for {adapter.base}, not for {name}; {cure}")


def _short(fingerprint: str) -> str:
    return fingerprint.partition(":")[2][:12]
