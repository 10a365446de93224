"""The commands: what they print, write and return."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.text import Text
from typer.testing import CliRunner

import flexlora as flexlora_package
from commands import PROCESS, Flexlora, assert_one_sentence
from flexlora.cli.arguments import command_line, leaves
from flexlora.cli.commands import app
from flexlora.errors import RoundError
from flexlora.federation import prepare, run
from flexlora.formats.peft import load_peft, save_peft
from flexlora.runs import load_adapter
from flexlora.runs.events import Failed
from flexlora.runs.run_directory import Run
from small import small, write

CONFIG = small(federation={"rounds": 2})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(CONFIG, tmp_path / "c.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = prepare(CONFIG)
    return run(CONFIG, tmp_path_factory.mktemp("runs") / "r", setup=made).folder


def test_help_is_the_table_of_contents() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for name in leaves(command_line(app)):
        assert name.split()[0] in shown.output
        assert CliRunner().invoke(app, [*name.split(), "--help"]).exit_code == 0
    assert "0 done, 1 the run failed, 2 the input was wrong" in " ".join(shown.output.split())


def test_every_argument_has_its_help() -> None:
    for command in leaves(command_line(app)).values():
        for parameter in command.params:
            assert getattr(parameter, "help", None), (command.name, parameter.name)


def test_help_is_shown_whole() -> None:
    """Rich takes words in brackets for markup, and drops them."""
    for command in leaves(command_line(app)).values():
        helps = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        for text in filter(None, helps):
            assert Text.from_markup(text).plain == text, command.name


def test_run_writes_a_run_and_ends_with_a_table_and_its_directory(
    flexlora: Flexlora, config: Path, tmp_path: Path
) -> None:
    done = flexlora("run", config, "--out", tmp_path / "r", "--set", "federation.rounds=1")
    assert (done.code, done.err) == (0, "")
    assert "round 1/1, train loss" in done.out
    assert "base model" in done.out
    assert "full state" in done.out
    assert done.out.rstrip().endswith(f"run directory: {tmp_path / 'r'}")
    opened = Run.open(tmp_path / "r")
    assert opened.config == small(federation={"rounds": 1})
    assert opened.read_results() is not None


def test_run_numbers_its_directories(flexlora: Flexlora, config: Path, tmp_path: Path) -> None:
    for _ in range(2):
        out = f"run.out={str(tmp_path / 'runs')!r}"
        tuning = ("--set", "evaluation.unseen=false", "--set", "federation.rounds=1")
        done = flexlora("run", config, *tuning, "--set", out, "--set", "rule.name=fedit")
        assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["fedit-1", "fedit-2"]


def test_a_dry_run_checks_everything_and_writes_nothing(
    flexlora: Flexlora, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = flexlora("run", config, "--dry-run", "--out", tmp_path / "r")
    assert (done.code, done.err) == (0, "")
    assert "4 clients" in done.out
    assert "high" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]
    for setting, words in {
        "rule.name=flexlorra": "did you mean 'flexlora'",
        "rule.gamma=0.5": "not an option",
        "federation.clients_per_round=99": "there are 4 clients",
        "data.examples_per_task=1": "no validation examples",
    }.items():
        assert_one_sentence(flexlora("run", config, "--dry-run", "--set", setting), words)


def test_export_writes_what_the_run_hands_out(
    flexlora: Flexlora, folder: Path, tmp_path: Path
) -> None:
    for rank in ("3", "full"):
        done = flexlora("export", folder, "--rank", rank, "--out", tmp_path / rank)
        assert (done.code, done.err) == (0, "")
        assert str(tmp_path / rank) in done.out
        assert load_peft(tmp_path / rank).ranks == load_adapter(folder, rank).ranks
        named = json.loads((tmp_path / rank / "adapter_config.json").read_text())
        assert (named["lora_alpha"], named["rank_pattern"]) == (named["r"], {})
        assert f"rank {named['r']} in every layer, α = r" in done.out
    done = flexlora("export", folder, "--rank", 2, "--serve", "vllm", "--out", tmp_path / "vllm")
    named = json.loads((tmp_path / "vllm" / "adapter_config.json").read_text())
    assert (named["r"], named["lora_alpha"]) == (8, 8)
    done = flexlora("export", folder, "--energy", 0.9, "--compact", "--out", tmp_path / "compact")
    assert "each layer at its own rank" in done.out
    last = Run.open(folder).checkpoints()[-1]
    done = flexlora("export", folder, "--rank", 2, "--round", last, "--out", tmp_path / "last")
    assert (done.code, done.err) == (0, "")
    named = json.loads((tmp_path / "last" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == "tiny"


def test_each_option_reaches_the_export(
    flexlora: Flexlora, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = Run.open(folder).checkpoints()[-1]
    for name, flags, options in (
        ("share", ("--energy", 0.6), {"energy": 0.6}),
        ("type", ("--type", "high"), {"type": "high"}),
        ("round", ("--rank", 2, "--round", last), {"rank": 2, "round": last}),
        ("last", ("--rank", 2, "--round", "last"), {"rank": 2, "round": "last"}),
    ):
        assert flexlora("export", folder, *flags, "--out", tmp_path / name).code == 0
        save_peft(load_adapter(folder, **options), tmp_path / f"same {name}")
        for file in (tmp_path / name).iterdir():
            assert file.read_bytes() == (tmp_path / f"same {name}" / file.name).read_bytes()
    done = flexlora("export", folder, "--rank", 2, "--type", "high", "--out", tmp_path / "none")
    assert_one_sentence(done, "--type is given beside --rank or --energy")
    done = flexlora("export", folder, "--rank", 2, "--round", 99, "--out", tmp_path / "none")
    assert_one_sentence(done, "has no checkpoint of round 99; it keeps those of ")
    given = []
    monkeypatch.setattr("flexlora.runs.load_adapter", lambda *a, **k: given.append((a, k)))
    flexlora("export", folder, "--rank", 2, "--out", tmp_path / "none")
    flexlora("export", folder, "--energy", 0.5, "--round", "007", "--out", tmp_path / "none")
    assert given == [
        ((folder, "2", "best"), {"energy": None, "type": None}),
        ((folder, None, "007"), {"energy": 0.5, "type": None}),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "gone", "--out", "o"), "gone does not exist; give a run directory"),
        (("merge", "gone", "a", "--out", "o"), "gone does not exist; give a PEFT folder"),
        (
            ("export", "{folder}", "--out", "o"),
            "just one of --rank and --energy (neither is given)",
        ),
        (
            ("export", "{folder}", "--rank", "2", "--energy", "0.9", "--out", "o"),
            "just one of --rank and --energy (both are given)",
        ),
        (("merge", "{folder}", "--energy", "2", "--out", "o"), "--energy is 2.0; give a share"),
        (("run", "{config}", "--set", "data.train_tasks=0"), "no training examples; give some, or"),
        (("demo", "--set", "rule.name=flora"), "--set rule.name=flora: the demo compares flexlora"),
        (("demo", "--set", "run.out = x"), "--set run.out = x: the demo writes where --out says"),
    ],
)
def test_errors_name_what_is_wrong_and_a_cure_that_helps(
    flexlora: Flexlora, config: Path, folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    places = {"{config}": config, "{folder}": folder}
    assert_one_sentence(flexlora(*(places.get(x, x) for x in arguments)), words)


def test_eval_prints_scores_by_category(flexlora: Flexlora, folder: Path, tmp_path: Path) -> None:
    few = ("--tasks", 2, "--examples", 1, "--max-new-tokens", 2, "--max-tokens", 250)
    base = flexlora("eval", "tiny", "--data", "embedded", *few)
    assert (base.code, base.err) == (0, "")
    assert "scores by category" in base.out
    flexlora("export", folder, "--rank", 3, "--out", tmp_path / "a")
    adapted = flexlora("eval", "tiny", "--data", "embedded", "--adapter", tmp_path / "a", *few)
    assert (adapted.code, adapted.err) == (0, "")
    assert adapted.out != base.out


@pytest.mark.parametrize("option", ["--tasks", "--examples"])
def test_eval_takes_zero_for_a_mistake(flexlora: Flexlora, option: str) -> None:
    done = flexlora("eval", "tiny", "--data", "embedded", option, 0)
    assert_one_sentence(done, "is 0, expected a whole number of 1 or more")


def test_resume_of_a_finished_run(flexlora: Flexlora, folder: Path) -> None:
    done = flexlora("resume", folder)
    assert (done.code, done.err) == (0, "")
    assert f"{folder} has ended: 2 rounds played" in done.out


def test_the_demo_tells_what_weak_and_strong_machines_remember(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    table = {"data.facts": 16, "training.epochs": 4, "federation.rounds": 2}
    settings = [part for key, value in table.items() for part in ("--set", f"{key}={value}")]
    out = tmp_path / 'it\'s "mine" \\ ü'
    done = flexlora("demo", "--out", out, *settings)
    assert (done.code, done.err) == (0, "")
    names = ["all-strongest-1", "all-weakest-1", "flexlora-1", "flexlora-increment-1"]
    assert sorted(path.name for path in out.iterdir()) == names
    lines = done.out.splitlines()
    assert "facts remembered, by who owns them" in done.out
    arms = [line for line in lines if "%" in line]
    shown = [[int(x) for x in re.findall(r"(\d+)%", line)] for line in arms]
    assert [len(x) for x in shown] == [3] * 5
    # As results.json has it: 3 digits a fact, half of the facts with each kind of owner.
    for name, found in (("all-weakest-1", shown[1]), ("all-strongest-1", shown[4])):
        results = Run.open(out / name).read_results()
        assert results is not None
        (full,) = (row for row in results["rows"] if row["state"] == "full")
        bits = {kind: means["bits"] for kind, means in full["own"]["types"].items()}
        whole = 16 * 3 * math.log2(10)
        shares = [bits["weak"] / whole * 2, bits["strong"] / whole * 2, sum(bits.values()) / whole]
        assert found == [round(100 * share) for share in shares]
    assert "flexlora report" in lines[-3]
    assert "flexlora export" in lines[-2]


def test_usage_errors_are_wrong_input(flexlora: Flexlora, tmp_path: Path) -> None:
    for arguments, words in {
        ("rnu",): "command 'rnu' is unknown; did you mean 'run'?; see flexlora --help",
        ("nonsense",): "known: compare, continue, demo, eval",
        ("a\x1b[2J\nb",): r"command 'a\x1b[2J\nb' is unknown",
        ("run",): "run lacks CONFIG; give it; see flexlora run --help",
        ("run", "c.toml", "--sett", "x"): "run has no option --sett; did you mean --set?",
        ("run", "c.toml", "--rounds", "3"): "a key of the config is set by --set TABLE.KEY=VALUE",
        ("inspect", "x", "--rounds", "3"): "inspect has no option --rounds; see flexlora inspect",
        ("run", "c.toml", "d.toml"): "run takes fewer arguments; leave out d.toml",
        ("run", "c.toml", "--out"): "'--out' requires an argument",
        ("export", tmp_path): "export lacks --out",
        ("eval", "tiny", "--data", "embedded", "--tasks", "x"): "give a whole number",
        ("export", "r", "--out", "a", "--energy", "x"): "--energy: 'x' is not a valid float",
    }.items():
        assert_one_sentence(flexlora(*arguments), words)


def test_without_a_command_the_help_is_shown(flexlora: Flexlora) -> None:
    done = flexlora()
    assert (done.code, done.err) == (2, "")
    assert "0 done, 1 the run failed" in done.out


def test_a_run_that_fails_is_code_1(
    flexlora: Flexlora, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every client diverges: the run has begun, so its directory stays, with the reasons."""
    settings = ("--set", "training.learning_rate=1e30", "--set", "training.clip_norm=0")
    done = flexlora("run", config, "--out", tmp_path / "r", *settings)
    assert done.code == 1
    assert done.err.startswith("flexlora: round 1: none of 2 clients gave a usable reply")
    assert "lower learning_rate" in done.err
    assert done.err.count("\n") == 1
    assert len(Run.open(tmp_path / "r").events(Failed)) == 2

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by\nzero" + "!" * 1000)

    monkeypatch.setattr("flexlora.federation.place.prepare", broken)
    done = flexlora("run", config, "--out", tmp_path / "s")
    assert done.code == 1
    assert done.err.startswith("flexlora: unexpected ZeroDivisionError: by zero!!!")
    assert "flexlora --debug" in done.err
    assert done.err.count("\n") == 1
    assert len(done.err) < 500


def test_debug_adds_the_traceback_and_keeps_the_code(
    flexlora: Flexlora, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = flexlora("--debug", "run", tmp_path / "none.toml")
    assert done.code == 2
    first, *rest = done.err.splitlines()
    assert first == f"flexlora: config {tmp_path / 'none.toml'} does not exist; check the path"
    assert "Traceback (most recent call last):" in rest
    assert_one_sentence(flexlora("run", tmp_path / "none.toml"), "does not exist")

    def failing(*_: object, **__: object) -> None:
        raise RoundError("round 1: no")

    monkeypatch.setattr("flexlora.federation.place.prepare", failing)
    done = flexlora("--debug", "run", config)
    assert done.code == 1
    assert "RoundError: round 1: no" in done.err


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_real_process_ends_with_code_and_sentence(tmp_path: Path) -> None:
    wrong = write(CONFIG, tmp_path / "c.toml")
    wrong.write_text(wrong.read_text().replace("[training]", "[trainign]"))
    done = subprocess.run(
        [*PROCESS, "run", "c.toml", "--out", "r"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "flexlora: config table [trainign] is unknown; did you mean 'training'?\n"
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    write(small(federation={"rounds": 100_000}), tmp_path / "c.toml")
    with subprocess.Popen(
        [*PROCESS, "run", "c.toml", "--out", "r"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background of a script has it ignored, children included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            end = time.monotonic() + 120
            log = tmp_path / "r" / "metrics.jsonl"
            while not (log.is_file() and log.read_text().count("\n") > 1):
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said == "flexlora: stopped; go on with: flexlora resume r\n"
    assert Run.open(tmp_path / "r").checkpoints() != []


def test_the_version(flexlora: Flexlora) -> None:
    assert flexlora("--version").out == f"flexlora {flexlora_package.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "flexlora", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"flexlora {flexlora_package.__version__}\n"
