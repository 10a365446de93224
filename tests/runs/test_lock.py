"""One process plays a run; others see that it does, and a dead one lets go."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from flexlora.errors import RunError
from flexlora.runs.lock import in_use, locked

HOLDS = """
import sys
from pathlib import Path
from flexlora.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == [b"held"]
        assert in_use(tmp_path)
        refused = f"{tmp_path} is in use by another process; wait for it or stop it"
        with pytest.raises(RunError, match=refused), locked(tmp_path):
            pytest.fail("the lock was given twice")
        holder.kill()
        holder.wait()
    assert not in_use(tmp_path)
    with locked(tmp_path):
        assert in_use(tmp_path)


def test_looking_writes_nothing(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        assert in_use(tmp_path)
        assert in_use(tmp_path)
    assert not in_use(tmp_path)


def test_two_who_look_do_not_take_each_other_for_a_run(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with locked(tmp_path):
        pass
    with open(tmp_path / ".lock", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # As another process does while it looks.
        assert not in_use(tmp_path)


def test_who_looks_stops_nobody_from_playing(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with locked(tmp_path):
        pass
    with open(tmp_path / ".lock", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        with locked(tmp_path):
            assert in_use(tmp_path)


def test_it_is_released_whatever_happens_within(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    assert not in_use(tmp_path)


def test_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a reader of another's run: filelock opens its file for writing."""
    pytest.importorskip("fcntl")
    with locked(tmp_path):
        monkeypatch.setattr(filelock.FileLock, "acquire", denied)
        assert in_use(tmp_path)
    assert not in_use(tmp_path)
    cure = "cannot be locked: Permission denied; make it writable, or copy it"
    with pytest.raises(RunError, match=cure), locked(tmp_path):
        pytest.fail("nothing was locked")


def denied(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")
