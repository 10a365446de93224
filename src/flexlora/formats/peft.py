"""PEFT LoRA folders: written so that PEFT computes the same update, and read from any writer.

PEFT itself is not imported: the format is two files, `adapter_config.json` and
`adapter_model.safetensors`. What that format cannot hold (a layer of rank 0, a scale that no α/r
rounds to, the base model's fingerprint) lies in `flexlora.json` beside them, which other readers
ignore.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from flexlora.adapters import Adapter, Factors, Scaling, lora_scale
from flexlora.errors import AdapterError
from flexlora.formats.atomic import atomic_folder
from flexlora.formats.payloads import plain_tensors

CONFIG, WEIGHTS, EXTRA = "adapter_config.json", "adapter_model.safetensors", "flexlora.json"
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")

# Options of a PEFT LoRA config that make it compute something else than base + scale · B A.
_FOREIGN = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA biases",
    "modules_to_save": "whole modules saved beside LoRA",
    "use_qalora": "QALoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trained tokens",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


def save_peft(
    adapter: Adapter,
    folder: Path | str,
    *,
    base_model: str | None = None,
    fan_in_fan_out: bool | None = None,
) -> None:
    """Write the adapter as a new PEFT folder, whole or not at all.

    base_model: what the folder names as its base; fan_in_fan_out: True for models built of Conv1D
    (GPT-2): the tensors are the same, PEFT only warns without it. Default: the adapter's own.
    The fingerprint of the base, where the adapter knows it, is kept and comes back from `load_peft`
    (but not for a `base_model` other than the adapter's).

    r and α are the most common ones; every other layer has a pattern anchored to its full name,
    and α is chosen such that PEFT's α/r is the layer's scale to the last bit wherever a float64
    allows it. A layer of rank 0 is written as rank 1 with zeros: any reader loads it, and it adds
    nothing. Equal adapters give equal bytes. Raises RunError when the folder exists, AdapterError
    for an adapter without layers or with NaN or infinity.
    """
    if not adapter:
        raise AdapterError("the adapter has no layers; there is nothing to save")
    adapter.require_finite()
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    base = adapter.base if base_model is None else base_model
    extra: dict[str, Any] = {"empty": [], "scales": {}}
    if adapter.base_fingerprint and base == adapter.base:
        extra["base_fingerprint"] = adapter.base_fingerprint
    transposed = adapter.fan_in_fan_out if fan_in_fan_out is None else fan_in_fan_out
    for name, factors in adapter.items():
        b, a = factors.b, factors.a
        if factors.rank == 0:
            extra["empty"].append(name)
            b, a = b.new_zeros(b.shape[0], 1), a.new_zeros(1, a.shape[1])
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b
        ranks[name] = a.shape[0]
        alphas[name] = _alpha(factors.scale, ranks[name])
        if alphas[name] / ranks[name] != factors.scale:
            extra["scales"][name] = factors.scale
    config = _config(adapter, ranks, alphas, transposed)
    config["base_model_name_or_path"] = base or None
    with atomic_folder(folder) as aside:
        (aside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (aside / WEIGHTS).write_bytes(save_bytes(plain_tensors(tensors), {"format": "pt"}))
        if any(extra.values()):
            (aside / EXTRA).write_text(json.dumps(extra, indent=2, sort_keys=True) + "\n")


def load_peft(folder: Path | str) -> Adapter:
    """Read any plain PEFT LoRA folder; dtypes stay, ranks and scales may differ by layer.

    What `save_peft` wrote comes back bit for bit. Layer names are those of the base model
    ("base_model.model." is stripped), and `base` is the base model that the folder names.
    Raises AdapterError for a folder that is missing, damaged or not finite, and for every PEFT
    variant whose update is not scale · B A: nothing is dropped silently.
    """
    path = Path(folder)
    config = _read_config(path)
    pairs = _read_pairs(path)
    extra = _read_extra(path)
    layers = {
        name: _factors(path, name, pair, config, extra) for name, pair in sorted(pairs.items())
    }
    adapter = Adapter(
        layers,
        base=str(config.get("base_model_name_or_path") or ""),
        base_fingerprint=extra["base_fingerprint"],
        fan_in_fan_out=config.get("fan_in_fan_out") is True,
    )
    try:
        adapter.require_finite()
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error
    return adapter


def peft_scaling(folder: Path | str) -> Scaling:
    """How the folder derives a layer's scale: α/r ("lora") or α/√r ("rslora"). Raises as above."""
    return _scaling(_read_config(Path(folder)))


def is_peft(folder: Path | str) -> bool:
    """True for a folder that holds a PEFT adapter, sound or not."""
    return any((Path(folder) / name).is_file() for name in (CONFIG, WEIGHTS))


def _scaling(config: Mapping[str, Any]) -> Scaling:
    return "rslora" if config.get("use_rslora") else "lora"


def _alpha(scale: float, rank: int) -> float:
    """The α for which α / rank is `scale` to the last bit, or as near as a float64 comes."""
    alpha = scale * rank
    for candidate in (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, -math.inf)):
        if candidate / rank == scale:
            return candidate
    return alpha


def _config(
    adapter: Adapter, ranks: dict[str, int], alphas: dict[str, float], fan_in_fan_out: bool
) -> dict[str, Any]:
    # PEFT matches a pattern as a regular expression at the end of a name: ^ pins it to one layer.
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "target_modules": list(adapter),
        "rank_pattern": {"^" + re.escape(n): r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {"^" + re.escape(n): _whole(x) for n, x in alphas.items() if x != alpha},
    }


def _whole(number: float) -> float | int:
    """Whole numbers as integers, as PEFT writes them."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise AdapterError(f"{path} is not a folder; give a PEFT adapter folder")
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path} has no {CONFIG}; give a folder that save_pretrained wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(
            f"{path / CONFIG} is not readable JSON; save the adapter again"
        ) from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path / CONFIG} is not a JSON table; save the adapter again")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{path} is a PEFT adapter of type {kind}; only LORA can be read")
    for key, words in _FOREIGN.items():
        if config.get(key):
            raise _unsupported(path, f"{words} ({key})")
    if config.get("bias", "none") != "none":
        raise _unsupported(path, f"trained biases (bias = {config['bias']!r})")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(_BASE_CHANGING):
        raise AdapterError(
            f"{path} was initialised by {init}, which changes the base model; convert it to plain "
            "LoRA with save_pretrained(path_initial_model_for_weight_conversion=…)"
        )
    return config


def _read_pairs(path: Path) -> dict[str, dict[str, Tensor]]:
    """Layer name → {"A": a, "B": b}, every tensor of the file accounted for."""
    if not (path / WEIGHTS).is_file():
        if (path / "adapter_model.bin").exists():
            raise AdapterError(
                f"{path} holds only pickled weights (adapter_model.bin), which can run code; "
                "save the adapter again as safetensors"
            )
        raise AdapterError(f"{path} has no {WEIGHTS}; save the adapter again")
    try:
        tensors = load_bytes((path / WEIGHTS).read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise AdapterError(
            f"{path / WEIGHTS} is truncated or no safetensors file; save the adapter again"
        ) from error
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unsupported(path, _variant(key))
        if match["side"] in pairs[match["layer"]]:
            raise AdapterError(f"{path} holds layer {match['layer']} twice; save one adapter only")
        pairs[match["layer"]][match["side"]] = tensor
    if not pairs:
        raise AdapterError(f"{path / WEIGHTS} holds no tensors; save the adapter again")
    return pairs


def _variant(key: str) -> str:
    """What a tensor that is no half of a LoRA pair comes from, for the refusal."""
    if "lora_magnitude_vector" in key:
        return f"DoRA (tensor {key})"
    if "lora_embedding_" in key:
        return f"LoRA on an embedding (tensor {key})"
    if key.endswith("bias"):
        return f"trained biases (tensor {key})"
    return f"tensor {key}"


def _unsupported(path: Path, what: str) -> AdapterError:
    return AdapterError(
        f"{path} holds {what}, which is no plain LoRA pair; train or save it as plain LoRA"
    )


def _factors(
    path: Path, name: str, pair: Mapping[str, Tensor], config: dict[str, Any], extra: dict[str, Any]
) -> Factors:
    if len(pair) < 2:
        missing = "lora_B" if "A" in pair else "lora_A"
        raise AdapterError(f"layer {name} in {path} has no {missing}; save the adapter again")
    a, b = pair["A"], pair["B"]
    shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"layer {name} in {path} has lora_A and lora_B of shapes {shapes}, expected (r, n) and "
            "(m, r); only linear layers can be read"
        )
    if not (a.is_floating_point() and b.is_floating_point()):
        raise AdapterError(
            f"layer {name} in {path} is stored as {a.dtype} and {b.dtype}; save it as floats"
        )
    rank, alpha = _matched(path, "r", name, config), _matched(path, "lora_alpha", name, config)
    if rank != a.shape[0]:
        raise AdapterError(
            f"layer {name} in {path} has rank {a.shape[0]}, but {CONFIG} says {rank}; "
            "correct r or rank_pattern there"
        )
    scale = lora_scale(alpha, a.shape[0], _scaling(config))
    exact = extra["scales"].get(name)
    if isinstance(exact, float) and math.isclose(exact, scale, rel_tol=1e-15):
        scale = exact
    if name in extra["empty"] and not a.any() and not b.any():
        return Factors(b[:, :0], a[:0], scale)
    return Factors(b, a, scale)


def _matched(path: Path, key: str, name: str, config: dict[str, Any]) -> float:
    """r or lora_alpha of one layer: the first pattern that matches, as PEFT matches, decides."""
    patterns = config.get("rank_pattern" if key == "r" else "alpha_pattern") or {}
    value = config.get(key, 8)
    try:
        for pattern, number in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                value = number
                break
    except (re.error, AttributeError) as error:
        raise AdapterError(
            f"{path / CONFIG} has a pattern for {key} that cannot be read; correct it"
        ) from error
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or (key == "r" and value < 1):
        raise AdapterError(
            f"{path / CONFIG} has {key} {value!r} for layer {name}; give a number above 0"
        )
    return float(value)


def _read_extra(path: Path) -> dict[str, Any]:
    """What `save_peft` noted beside PEFT's own files; nothing for other folders."""
    try:
        extra = json.loads((path / EXTRA).read_bytes())
        return {
            "empty": list(extra["empty"]),
            "scales": dict(extra["scales"]),
            "base_fingerprint": str(extra.get("base_fingerprint", "")),
        }
    except FileNotFoundError:
        return {"empty": [], "scales": {}, "base_fingerprint": ""}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(
            f"{path / EXTRA} is damaged; remove it, or save the adapter again"
        ) from error
