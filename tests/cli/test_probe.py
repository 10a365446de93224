"""flexlora probe: a profile that a plan can be made with, and wrong input."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.config.devices import read_devices
from flexlora.planning import measured as measuring
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


class _Sends(BaseHTTPRequestHandler):
    """A file of 200 kB, and a smaller one."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * (200_000 if self.path == "/large" else 200))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Sends) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_disk_and_a_link_are_measured_where_somebody_says_where(
    flexlora: Flexlora, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_WRITTEN", 1 << 16)
    path, place = tmp_path / "this.toml", tmp_path / "disk"
    place.mkdir()
    asked = ("--uplink", "20 Mbit/s", "--device", "cpu", "--disk", place)
    done = flexlora("probe", path, *asked, "--link", f"{address}/large")
    assert done.code == 0, done.err
    assert "add downlink" not in done.out
    (this,) = read_devices(path)
    assert this.device.disk is not None
    assert min(this.device.disk, this.device.downlink) > 0
    assert this.device.sources["downlink"] == f"fetched from {address}/large"
    assert list(place.iterdir()) == []
    short = ("--length", 64, "--batch", 2, "--dtype", "float32", "--examples", 10)
    assert "this reads the base from its disk in" in flexlora("plan", "tiny", path, *short).out
    other = tmp_path / "other.toml"
    for wrong, words in (
        (("--link", f"{address}/small"), "too few to tell a rate"),
        (("--link", "ftp://host"), "--link is 'ftp://host'; give an address"),
        (("--link", "http://127.0.0.1:1/x"), "which sends nothing"),
        (("--link", f"{address}/large", "--downlink", "1 MB/s"), "both say"),
        (("--disk", tmp_path / "nowhere"), "cannot be measured: No such file"),
    ):
        assert_one_sentence(flexlora("probe", other, "--device", "cpu", *wrong), words)
        assert not other.exists()


@pytest.mark.parametrize("name", ["my laptop", "Müller", "a.b", "x]y", '"', "two\nlines"])
def test_a_class_is_called_whatever_its_owner_likes(
    flexlora: Flexlora, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "this.toml"
    links = ("--uplink", "20 Mbit/s", "--downlink", "1 Gbit/s", "--device", "cpu")
    done = flexlora("probe", path, *links, "--name", name)
    assert done.code == 0, done.err
    assert [device.name for device in read_devices(path)] == [name]


def test_wrong_input_measures_nothing(flexlora: Flexlora, tmp_path: Path) -> None:
    path = tmp_path / "this.toml"
    assert_one_sentence(
        flexlora("probe", path, "--uplink", "20"), "--uplink is '20' without a unit"
    )
    assert_one_sentence(flexlora("probe", path, "--name", " "), "--name is empty; name this class")
    assert not path.exists()
    path.write_text("")
    assert_one_sentence(flexlora("probe", path), "this.toml")
    assert_one_sentence(flexlora("probe", tmp_path / "x.toml", "--device", "tpu"), "tpu")
