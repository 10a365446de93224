"""What same_bits.py shows: a table of run × part, and what differs."""

from __future__ import annotations

from collections.abc import Mapping

from same_bits_digests import PARTS, Fingerprint

Runs = Mapping[str, Fingerprint]


def table(wanted: Runs, got: Runs) -> str:
    """A line for each run of `got`, and below one for each thing that differs."""
    width = max(map(len, got), default=0) + 2
    lines = ["".join([" " * width, *(f"{part:12}" for part in PARTS)]).rstrip()]
    for name, found in got.items():
        cells = (f"{_cell(part, wanted.get(name, {}), found):12}" for part in PARTS)
        lines.append("".join([f"{name:{width}}", *cells]).rstrip())
    return "\n".join([*lines, "", *(differences(wanted, got) or ["All bits are the same."])])


def differences(wanted: Runs, got: Runs) -> list[str]:
    """In sentences; none if all bits of the runs in `got` are the same."""
    found: list[str] = []
    for name, now in got.items():
        before = wanted.get(name, {})
        failed = [side["failed"]["why"] for side in (before, now) if "failed" in side]
        if failed:
            found += [f"{name} failed: {why}" for why in failed]
            continue
        if not before:
            found.append(f"{name} has no kept fingerprint; --write keeps one")
            continue
        for part in PARTS:
            one, other = before.get(part, {}), now.get(part, {})
            found += [
                f"{name}, {part}, {key}: {one.get(key, 'nothing')} → {other.get(key, 'nothing')}"
                for key in {**one, **other}
                if one.get(key) != other.get(key)
            ]
    return found


def _cell(part: str, wanted: Fingerprint, got: Fingerprint) -> str:
    """ "–": neither version has any of it."""
    if "failed" in wanted or "failed" in got:
        return "failed"
    if not wanted:
        return "not kept"
    one, other = wanted.get(part, {}), got.get(part, {})
    return ("same" if one else "–") if one == other else "DIFFERENT"
