"""flexlora plan: the table, its JSON, and wrong input, each in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from wrong_input import Arguments, Cases

# As in tests/planning: what a pass takes is found once for both.
SHORT = ("--length", 64, "--batch", 2, "--examples", 10, "--dtype", "float32")
DEVICES = """
[phones]
device = "phone"
clients = 8
availability = "50%"

[boxes]
clients = ["hospital-a", "clinic 3"]
memory = "14 MB"
flops = { float32 = "100 GFLOPS" }
bandwidth = "10 GB/s"
uplink = "20 Mbit/s"
downlink = "100 Mbit/s"
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text(DEVICES, encoding="utf-8")
    return tmp_path


def test_the_plan_in_the_terminal_and_as_json(flexlora: Flexlora) -> None:
    done = flexlora("plan", "tiny", "devices.toml", *SHORT)
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    for part in (
        "tiny of 0.9 million parameters, flexlora",
        "phones at rank 1 instead of 128 would save",
        "of memory,",
        "an adapter holds about 0.3 bits",
        "a round: 6 clients (4 phones, 2 boxes;",
        "bucket effect: one rank for all would leave",
        "in 100 rounds",
    ):
        assert part in words, part
    told = json.loads(flexlora("plan", "tiny", "devices.toml", *SHORT, "--json").out)
    phones, boxes = told["classes"]
    assert (phones["fits"], boxes["fits"]) == (True, True)
    assert boxes["cost"]["memory"]["peak"] <= 14e6
    assert phones["cost"]["rank"] == "128"


def test_devices_by_name_and_what_would_make_one_fit(flexlora: Flexlora) -> None:
    Path("devices.toml").write_text(DEVICES.replace("14 MB", "5 MB"), encoding="utf-8")
    done = flexlora("plan", "tiny", "devices.toml", *SHORT)
    assert "boxes does not fit: rank 1 takes" in done.out
    named = flexlora("plan", "tiny", "T4,phone", *SHORT, "--order", "ffn-first", "--json")
    assert [x["name"] for x in json.loads(named.out)["classes"]] == ["T4", "phone"]
    assert json.loads(named.out)["classes"][0]["cost"]["rank"] == "attention 38, mlp 128"


def test_a_mixture_of_experts_is_refused_by_name(flexlora: Flexlora) -> None:
    """Which experts compute follows from numbers, and there are none."""
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    Path("moe").mkdir()
    Path("moe/config.json").write_text(json.dumps({"model_type": "mixtral", **sizes, **heads}))
    assert_one_sentence(
        flexlora("plan", "moe", "T4", *SHORT), 'target "all-linear" meets expert parameter', "moe"
    )
    assert_one_sentence(
        flexlora("plan", "moe", "T4", *SHORT, "--targets", "attention"),
        "model moe",
        "experts, so that its memory cannot be foreseen from sizes",
        "measure a step of it",
    )


CASES: Cases[Path] = Cases()
case = CASES.add


@case("unknown-device", "device of the command line is 'fridge'; known: 4090")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4,fridge"]


@case("no-such-file", "device file fridge does not exist")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "fridge"]


@case("device-twice", "device T4 is named twice")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4,T4"]


@case("unknown-model", "model llama-3-8b is no well-known one", "did you mean 'llama-3.1-8b'?")
def _(_place: Path) -> Arguments:
    return ["plan", "llama-3-8b", "T4"]


@case("config-without-sizes", "lacks hidden_size")
def _(place: Path) -> Arguments:
    table = {"model_type": "llama", "vocab_size": 9, "num_hidden_layers": 1}
    (place / "config.json").write_text(json.dumps({**table, "num_attention_heads": 1}))
    return ["plan", place / "config.json", "T4"]


@case("unknown-rule", "rule.name is 'flexlore'; did you mean 'flexlora'?")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", "--rule", "flexlore"]


@case("deadline-without-unit", "--deadline is '10' without a unit; write it like \"10m\"")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", "--deadline", "10"]


@case("deadline-of-memory", "--deadline is '10GB', which is not a time")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", "--deadline", "10GB"]


@case("nobody-in-bytes", "no device class keeps to --traffic 5.0 kB: at rank 1", "too much")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", *SHORT, "--traffic", "5kB"]


@case("nobody-in-time", "no device class meets the deadline", "T4, the closest, takes", "too long")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4,phone", *SHORT, "--deadline", "0.001s"]


@case("nobody-has-room", "fits no device class", "boxes, the closest, has 100.0 kB")
def _(place: Path) -> Arguments:
    text = DEVICES[DEVICES.index("[boxes]") :].replace("14 MB", "100 kB")
    (place / "devices.toml").write_text(text)
    return ["plan", "tiny", "devices.toml", *SHORT]


@case("batch-of-none", "plan.batch is 0, expected a whole number of 1 or more")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", "--batch", 0]


@case("unknown-dtype", "plan.dtype is", "did you mean 'bfloat16'?")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", "--dtype", "bfloat"]


@case("targets-of-nothing", 'target "nothing" matches no layer of tiny')
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", "--targets", "nothing"]


@case("too-long", "--length 9999 is above the 512 positions of model tiny")
def _(_place: Path) -> Arguments:
    return ["plan", "tiny", "T4", "--length", 9999]


@pytest.mark.parametrize("name", list(CASES))
def test_a_plan_that_cannot_be_made(name: str, place: Path, flexlora: Flexlora) -> None:
    CASES.assert_refused(name, place, flexlora, untouched=[])


def test_a_client_named_twice(flexlora: Flexlora) -> None:
    Path("devices.toml").write_text(DEVICES.replace("clinic 3", "hospital-a"), encoding="utf-8")
    assert_one_sentence(
        flexlora("plan", "tiny", "devices.toml"),
        "client 'hospital-a' is named in boxes and in boxes; name it in one of them, once",
    )
