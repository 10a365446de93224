"""flexlora probe: a profile that a plan can be made with, and wrong input."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.config.devices import read_devices
from flexlora.planning import probe as probing


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_SIDE", {"cpu": 64})
    monkeypatch.setattr(probing, "_BLOCK", {"cpu": 1 << 12})


def test_what_is_measured_is_a_profile(flexlora: Flexlora, tmp_path: Path) -> None:
    path = tmp_path / "this.toml"
    links = ("--uplink", "20 Mbit/s", "--downlink", "1 Gbit/s")
    done = flexlora("probe", path, *links, "--name", "box", "--device", "cpu")
    assert done.code == 0, done.err
    (box,) = read_devices(path)
    assert (box.name, box.clients) == ("box", 1)
    assert set(box.device.flops) == {"float32", "bfloat16"}
    assert (box.device.uplink, box.device.downlink) == (2.5e6, 1.25e8)
    assert min(box.device.memory, box.device.bandwidth, *box.device.flops.values()) > 0
    assert "measured by flexlora probe on cpu" in box.device.sources["flops"]
    assert box.device.sources["uplink"] == "given to flexlora probe"


def test_a_link_that_is_not_told_is_asked_for(flexlora: Flexlora, tmp_path: Path) -> None:
    path = tmp_path / "this.toml"
    done = flexlora("probe", path, "--uplink", "20 Mbit/s", "--device", "cpu")
    assert "add downlink before it is planned with" in done.out
    assert_one_sentence(flexlora("plan", "tiny", path), "downlink of class this of", "is missing")


def test_wrong_input_measures_nothing(flexlora: Flexlora, tmp_path: Path) -> None:
    path = tmp_path / "this.toml"
    assert_one_sentence(
        flexlora("probe", path, "--uplink", "20"), "--uplink is '20' without a unit"
    )
    assert not path.exists()
    path.write_text("")
    assert_one_sentence(flexlora("probe", path), "this.toml")
    assert_one_sentence(flexlora("probe", tmp_path / "x.toml", "--device", "tpu"), "tpu")
