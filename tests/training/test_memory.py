"""What memory is left, what was taken, and which errors say that there is none."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from flexlora.training import memory
from flexlora.training.memory import free_bytes, total_bytes

CPU = torch.device("cpu")


FREE = """
import torch
from flexlora.training.memory import peak_bytes

def small_parts():
    return [torch.ones(2**14) for _ in range(512)]  # 64 KiB each: from the heap.

torch.ones(8)
cpu = torch.device("cpu")
found = [*(peak_bytes(small_parts, cpu) for _ in range(3)), peak_bytes(lambda: None, cpu)]
if None not in found:  # A sandbox may not let a process clear its peak.
    print(*found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_the_peak_is_what_was_taken_also_where_it_lay_free_before() -> None:
    """From the second time on it is taken from what the first has left."""
    done = subprocess.run([sys.executable, "-c", FREE], capture_output=True, text=True, check=True)
    if not done.stdout:
        pytest.skip("this system does not tell the peak of a process")
    *found, nothing = map(int, done.stdout.split())
    assert all(32e6 < taken < 40e6 for taken in found), found
    assert nothing < 1e6


RISE = """
import torch
from flexlora.training.memory import Rise

held = torch.ones(2**24)  # 64 MiB that were there before.
rise = Rise(torch.device("cpu"))
found = [rise.bytes()]
taken = torch.ones(2**23)
found.append(rise.bytes())
del taken, held
found.append(rise.bytes())
if None not in found:
    print(*found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_a_rise_counts_from_its_beginning_and_stays_when_memory_is_let_go() -> None:
    done = subprocess.run([sys.executable, "-c", RISE], capture_output=True, text=True, check=True)
    if not done.stdout:
        pytest.skip("this system does not tell the peak of a process")
    before, there, after = map(int, done.stdout.split())
    assert before < 1e6
    assert 2**25 <= there < 2**25 + 2e6
    assert abs(after - there) < 1e6  # Linux adds up what its processors have counted.


def test_where_no_peak_can_be_begun_anew_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_RESET", tmp_path / "no folder" / "clear_refs")
    assert memory.Rise(CPU).bytes() is None
    assert memory.peak_bytes(lambda: None, CPU) is None


HOLES = """
import sys
from pathlib import Path
import torch
from flexlora.training.memory import return_what_is_freed

def resident():
    text = open("/proc/self/status").read()
    return 1024 * int(text[text.index("VmRSS:"):].split()[1])

if sys.argv[1] == "returned":
    return_what_is_freed()
parts = [torch.ones(2**15) for _ in range(512)]  # 128 KiB each
before = resident()
del parts[::2]  # What is left lies between the holes.
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
@pytest.mark.parametrize(("how", "returned"), [("returned", True), ("kept", False)])
def test_what_is_freed_goes_back_at_once_where_asked(how: str, returned: bool) -> None:
    command = [sys.executable, "-c", HOLES, how]
    freed = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (freed > 30e6) == returned, freed


def test_free_memory_is_some_of_this_machine() -> None:
    assert 1e6 < free_bytes(CPU) < 1e15


def test_all_memory_is_that_of_the_machine_whoever_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a container's limit where there is one, whatever is taken of it."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_LIMITS", tmp_path)
    whole = total_bytes(CPU)
    assert whole == psutil.virtual_memory().total
    (tmp_path / "groups").write_text("0::/outer/inner\n")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text("1000000\n")
    (tmp_path / "outer" / "inner" / "memory.max").write_text("max\n")
    for used in (5, 900_000):
        (tmp_path / "outer" / "memory.current").write_text(f"{used}\n")
        assert total_bytes(CPU) == 1_000_000


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tightest of its own group and those around it; files in the cache can go."""
    (tmp_path / "groups").write_text("1:name=systemd:/old\n0::/outer/inner\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_LIMITS", tmp_path)
    whole = free_bytes(CPU)

    def limit(group: str, bytes: str, used: int, cached: int = 0) -> None:
        (folder := tmp_path / group).mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{bytes}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")

    limit("outer/inner", "max", 5)
    assert free_bytes(CPU) == pytest.approx(whole, rel=0.5)
    limit("outer", "1000000", 600_000, 100_000)
    assert free_bytes(CPU) == 500_000
    limit("outer/inner", "1000", 400)
    assert free_bytes(CPU) == 600
    limit("outer/inner", "1000", 4000)
    assert free_bytes(CPU) == 0
