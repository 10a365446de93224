"""Device profiles: named ones with sources, files, and what is refused, by file, class and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexlora.allocation.devices import require_known
from flexlora.config.devices import named_devices, read_devices
from flexlora.errors import ConfigError

WHOLE = """
memory = "16GB"
flops = { float32 = "8 TFLOPS" }
bandwidth = "300 GB/s"
uplink = "20 Mbit/s"
downlink = "100 Mbit/s"
"""


def write(folder: Path, text: str, name: str = "devices.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_named_devices_have_a_source_for_every_figure() -> None:
    assert set(named_devices()) == {"phone", "laptop", "T4", "4090", "H100"}
    keys = {"memory", "flops", "bandwidth", "uplink", "downlink", "availability"}
    for name, device in named_devices().items():
        assert set(device.sources) == keys, name
        assert all(len(text) > 20 for text in device.sources.values())


def test_a_file_of_classes(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f'[clinics]\nclients = ["a", "b"]\nexamples = 500\n{WHOLE}\navailability = "6 h/day"\n'
        '[servers]\ndevice = "T4"\nmemory = "15 GB"\nclients = 3\n',
    )
    clinics, servers = read_devices(path)
    assert (clinics.name, clinics.clients, clinics.named) == ("clinics", 2, ("a", "b"))
    assert clinics.examples == 500
    assert clinics.device.uplink == pytest.approx(2.5e6)
    assert clinics.device.availability == pytest.approx(0.25)
    assert (servers.clients, servers.named, servers.examples) == (3, (), None)
    assert servers.device.memory == 15e9
    assert servers.device.flops == named_devices()["T4"].flops
    # What the file says itself is not the named device's figure any more.
    assert "memory" not in servers.device.sources
    assert "flops" in servers.device.sources


def test_json_says_the_same(tmp_path: Path) -> None:
    toml = read_devices(write(tmp_path, f"[x]\n{WHOLE}"))
    table = {
        "memory": "16GB",
        "flops": {"float32": "8 TFLOPS"},
        "bandwidth": "300 GB/s",
        "uplink": "20 Mbit/s",
        "downlink": "100 Mbit/s",
    }
    assert read_devices(write(tmp_path, json.dumps({"x": table}), "d.json")) == toml


def test_a_dtype_that_is_not_told_runs_at_the_speed_of_another() -> None:
    t4 = named_devices()["T4"]
    assert t4.speed("float16") == 65e12
    assert t4.speed("bfloat16") == t4.speed("float32") == 8.1e12


REFUSED = [
    ("", "names no device class"),
    ("[x]\n", "memory of class x of FILE is missing; give it"),
    (f"[x]\n{WHOLE.replace('uplink', '# uplink')}", "uplink of class x of FILE is missing"),
    (f"[x]\n{WHOLE.replace('16GB', '-16GB')}", "memory of class x of FILE is '-16GB', expected"),
    ('[x]\ndevice = "T4"\nmemory = 16\n', "memory of class x of FILE is 16 without a unit"),
    ('[x]\ndevice = "T4"\nmemory = "16 Mbit/s"\n', "which is not an amount of memory"),
    (
        '[x]\ndevice = "T4"\nuplink = "20 GB"\n',
        "uplink of class x of FILE is '20 GB', which is not",
    ),
    ('[x]\ndevice = "t4"\n', "device of class x of FILE is 't4'; did you mean 'T4'?"),
    ('[x]\ndevice = "fridge"\n', "device of class x of FILE is 'fridge'; known: 4090"),
    ("[x]\ndevice = 4090\n", "device of class x of FILE is 4090; did you mean '4090'?"),
    ('[x]\ndevice = "T4"\nmemry = "1GB"\n', "memry of class x of FILE is unknown; did you mean"),
    ('[x]\ndevice = "T4"\nclients = 0\n', "clients of class x of FILE is 0, expected"),
    ('[x]\ndevice = "T4"\nclients = []\n', "clients of class x of FILE is [], expected"),
    ('[x]\ndevice = "T4"\nexamples = -1\n', "examples of class x of FILE is -1, expected"),
    ('[x]\ndevice = "T4"\nclients = ["a", "a"]\n', "client 'a' is named in x and in x"),
    (
        '[x]\ndevice = "T4"\nclients = ["a"]\n[y]\ndevice = "T4"\nclients = ["a"]\n',
        "client 'a' is named in x and in y",
    ),
    ('[x]\ndevice = "T4"\navailability = "130%"\n', "more than all of the time"),
    ('[x]\ndevice = "T4"\nflops = "8 TFLOPS"\n', "expected a table by dtype"),
    ('[x]\ndevice = "T4"\nflops = { float31 = "8 TFLOPS" }\n', "did you mean 'float32'?"),
    ('[x]\ndevice = "T4"\nflops = { float32 = "8 TB" }\n', "flops.float32 of class x of FILE"),
    ('x = "T4"\n', "x of FILE is 'T4', expected a table"),
    ("[x\n", "is not TOML"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read_devices(path)
    assert words.replace("FILE", str(path)) in str(raised.value)


def test_a_file_that_is_not_there_and_one_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; check the path"):
        read_devices(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is not readable JSON"):
        read_devices(write(tmp_path, "[x]", "d.json"))


def test_a_named_client_that_the_data_does_not_have(tmp_path: Path) -> None:
    classes = read_devices(write(tmp_path, '[x]\ndevice = "T4"\nclients = ["hospital-a"]\n'))
    require_known(classes, ["hospital-a", "b"])
    with pytest.raises(ConfigError, match=r"'hospital-a' of x is not in the data; did you mean"):
        require_known(classes, ["hospital-b"])
