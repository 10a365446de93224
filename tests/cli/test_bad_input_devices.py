"""Wrong devices, precisions, workers, memory: exit code 2, one sentence, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Flexlora
from small import small, write
from wrong_input import Arguments, Cases

CASES: Cases[Path] = Cases()
case = CASES.add


def run(folder: Path, *settings: str) -> Arguments:
    config = write(small(), folder / "c.toml")
    return ["run", config, "--out", folder / "out", *(x for s in settings for x in ("--set", s))]


case(
    "a GPU that is not there", "device 'cuda:77' is not one of this machine, which has cpu", "auto"
)(lambda p: run(p, "model.device=cuda:77"))
case("no device", "device 'gpu' is not one of this machine, which has cpu")(
    lambda p: run(p, "model.device=gpu")
)
case("an empty device", 'config model.device is "", expected')(
    lambda p: [*run(p), "--set", 'model.device=""']
)
case("unknown bits", 'config model.quantise is "5bit"; did you mean')(
    lambda p: run(p, "model.quantise=5bit")
)
case("checkpointing in words", 'config model.checkpointing is "on", expected')(
    lambda p: run(p, "model.checkpointing=on")
)
case("a device of eval", "device 'cuda:77' is not one of this machine")(
    lambda _: ["eval", "tiny", "--data", "embedded", "--device", "cuda:77"]
)
case("bits of eval", '--quantise is "16bit"; did you mean')(
    lambda _: ["eval", "tiny", "--data", "embedded", "--quantise", "16bit"]
)
for key, value, words in (
    ("clients_at_once", "0", "is 0, expected"),
    ("clients_at_once", "-1", "is -1, expected"),
    ("clients_at_once", "1.5", "is 1.5, expected"),
    ("clients_at_once", "many", 'is "many"'),
    ("workers", "0", "is 0, expected"),
    ("workers", "-1", "is -1, expected"),
    ("workers", "many", 'is "many"'),
    ("memory_gb", "0", "is 0, expected"),
    ("memory_gb", "-2.5", "is -2.5, expected"),
    ("memory_gb", "inf", "is inf, expected"),
    ("memory_gb", "nan", "is nan, expected"),
    ("memory_gb", "auto", 'is "auto", expected'),
    ("threads", "0", "is 0, expected"),
):
    case(f"run.{key}={value}", f"config run.{key} {words}")(
        lambda p, setting=f"run.{key}={value}": run(p, setting)  # type: ignore[misc]
    )


@pytest.mark.parametrize("name", CASES)
def test_wrong_devices(flexlora: Flexlora, tmp_path: Path, name: str) -> None:
    CASES.assert_refused(name, tmp_path, flexlora, untouched=[tmp_path])


def test_bits_without_bitsandbytes(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flexlora.extras.find_spec", lambda name: None if name == "bitsandbytes" else True
    )
    done = flexlora(*run(tmp_path, "model.quantise=4bit"))
    assert done.code == 2
    assert (
        "is 4bit, but bitsandbytes is not installed; install the extra flexlora[quant]" in done.err
    )
