"""Where models run: which device is meant, and that nothing but the device differs there."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from flexlora.errors import ModelError
from flexlora.evaluation import EvalClient, EvalSettings, evaluate
from flexlora.federation import run
from flexlora.models import devices, find_device, load_model, model_fingerprint, save_merged
from flexlora.runs import load_adapter
from flexlora.runs.environment import environment
from flexlora.runs.events import Failed
from flexlora.runs.run_directory import Run
from flexlora.shortage import out_of_memory
from flexlora.training import Trained, train_cohort
from models.layers import KERNELS
from models.oracle import apart
from models.sentences import clients, embedded, examples
from small import small

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
MPS = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no mps here")
ELSE = [pytest.param("cuda", marks=GPU), pytest.param("mps", marks=MPS)]
EVERYWHERE = pytest.mark.parametrize("device", ["cpu", *ELSE])
ELSEWHERE = pytest.mark.parametrize("device", ELSE)  # On the CPU much else plays whole runs.


@pytest.mark.parametrize(
    ("here", "best"),
    [
        (("cpu",), "cpu"),
        (("cpu", "cuda:0", "cuda:1"), "cuda:0"),
        (("cpu", "mps"), "mps"),
        (("cpu", "cuda:0", "mps"), "cuda:0"),
    ],
)
def test_auto_is_the_best_there_is(
    monkeypatch: pytest.MonkeyPatch, here: tuple[str, ...], best: str
) -> None:
    monkeypatch.setattr("flexlora.models.device.devices", lambda: here)
    assert find_device("auto") == torch.device(best)
    assert [find_device(name) for name in here] == [torch.device(name) for name in here]
    if "cuda:0" in here:
        assert find_device("cuda") == torch.device("cuda:0")


@pytest.mark.parametrize("asked", ["cuda:1", "mps", "gpu", "", "CPU"])
def test_a_device_that_is_not_there_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr("flexlora.models.device.devices", lambda: ("cpu", "cuda:0"))
    message = f"device '{asked}' is not one of this machine, which has cpu, cuda:0; give one of"
    with pytest.raises(ModelError, match=message):
        load_model("tiny", device=asked)


def test_the_cpu_is_always_there() -> None:
    assert devices()[0] == "cpu"
    model: Any = load_model("tiny").model
    assert model.device.type == "cpu"


def test_devices_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices() == ("cpu", "cuda:0", "cuda:1", "mps")


def test_a_gpu_whose_driver_is_too_old_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML counts it, and whatever asks torch for more of it raises."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not [name for name in devices() if name.startswith("cuda")]
    assert environment()["gpus"] == []


def test_a_device_that_takes_no_model_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors …")

    monkeypatch.setattr(transformers.PreTrainedModel, "to", broken)
    with pytest.raises(ModelError, match="tiny cannot be put on cpu: CUDA error: device-side asse"):
        load_model("tiny")


def test_torchs_own_error_is_known_and_others_are_not() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert not isinstance(raised.value, torch.OutOfMemoryError)
    assert out_of_memory(raised.value)
    with pytest.raises(MemoryError) as python:
        bytearray(2**60)
    assert out_of_memory(python.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not out_of_memory(other.value)


# As torch, its libraries and the system word it.
SAID = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: 3 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
)


@pytest.mark.parametrize("error", SAID, ids=str)
def test_what_says_that_there_is_no_room(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`"),
        OSError(errno.ENOENT, "No such file or directory"),
        ValueError("example 'out of memory' is no number"),
    ],
    ids=str,
)
def test_what_says_something_else(error: Exception) -> None:
    assert not out_of_memory(error)


@pytest.mark.parametrize("error", SAID, ids=str)
def test_a_model_that_does_not_fit_is_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(transformers.PreTrainedModel, "to", full)
    with pytest.raises(
        ModelError, match=r"tiny does not fit into the memory of cpu; set model.dty"
    ):
        load_model("tiny")


@EVERYWHERE
@KERNELS
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_trained_comes_back_and_is_what_the_cpu_makes(
    device: str, stacked: bool, dropout: float
) -> None:
    there, here = embedded(device=device), embedded()
    assert there.device.type == device
    if dropout:  # Drawn once for what examples share where they share it, which only a CPU has.
        here.branches = there.branches
    delta = {name: f.product() for name, f in clients(here, 4, dropout=dropout)[3].adapter.items()}
    for model in (there, here):
        model.set_delta(delta)
    found = train_cohort(there, clients(there, dropout=dropout), origin=True, stacked=stacked)
    wanted = train_cohort(here, clients(here, dropout=dropout), origin=True)
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        for factors in one.adapter.values():
            assert factors.a.device.type == factors.b.device.type == "cpu"
            assert not factors.a.requires_grad
        assert apart(one.adapter, other.adapter) < 1e-3
        assert one.loss == pytest.approx(other.loss, abs=1e-4)


ROUNDS = {"rounds": 1, "clients_per_round": 2}
WHOLE: dict[str, dict[str, dict[str, Any]]] = {
    "as it is": {},
    "increment": {"rule": {"name": "flexlora-increment"}, "federation": {**ROUNDS, "rounds": 2}},
    "checkpointing": {"model": {"checkpointing": True}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "two processes": {"run": {"workers": 2}},
    "measured": {"run": {"clients_at_once": "measured"}},
    "little memory": {"run": {"clients_at_once": "auto", "memory_gb": 0.05}},
    "sparse": {
        "training": {"host": "slora", "sparse_rounds": 1, "learning_rate": 3e-3},
        "federation": {**ROUNDS, "rounds": 2},
    },
}


@ELSEWHERE
@pytest.mark.parametrize("changes", WHOLE.values(), ids=WHOLE)
def test_a_whole_run_and_its_model_there(
    device: str, changes: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    tables = {"federation": ROUNDS, **changes}
    model = {**tables.get("model", {}), "device": device}
    config = small(**{**tables, "model": model})
    result = run(config, tmp_path / "r")
    assert not Run.open(tmp_path / "r").events(Failed)
    scores = [row.own for row in result.rows if row.own is not None]
    assert scores
    assert all(math.isfinite(x) for one in scores for x in one.mean().values.values())
    base = load_model("tiny", str(model.get("dtype", "float32")), device)
    save_merged(load_adapter(tmp_path / "r", rank=2), tmp_path / "merged", base=base)
    load_model(str(tmp_path / "merged"), device=device)


@EVERYWHERE
def test_scores_and_fingerprints_are_those_of_the_cpu(device: str) -> None:
    there, here = embedded(device=device), embedded()
    assert model_fingerprint(there.model) == model_fingerprint(here.model)
    asked = [replace(x, references=("one two",)) for x in examples(here, 4, seed=1)]
    settings = EvalSettings(max_new_tokens=6, metrics=("loss", "rouge_l"))
    found, wanted = (
        evaluate(model, [EvalClient("a", tuple(asked))], settings).mean().to_json()
        for model in (there, here)
    )
    assert found == pytest.approx(wanted, abs=1e-4)


@EVERYWHERE
def test_delta_goes_back_to_the_pristine_base(device: str) -> None:
    model = embedded(device=device)
    before = [p.clone() for p in model.model.parameters()]
    adapter = clients(model, 1)[0].adapter
    model.set_delta({name: factors.product() for name, factors in adapter.items()})
    after = list(model.model.parameters())
    assert any(not torch.equal(one, two) for one, two in zip(before, after, strict=True))
    model.set_delta({})
    after = list(model.model.parameters())
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
