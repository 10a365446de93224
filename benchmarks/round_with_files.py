"""A whole round at the server, files included, against the original procedure on the same replies.

Replies as bytes go through the real collector (guard, then spool to disk); layers are combined one
by one by the rule `flexlora` from the last round's state, which lies on disk as it does in a run,
and written as the loop writes them; factors are read out once per distinct rank. The original
procedure reads the same spool, holds all ΔW, and decomposes them one by one. Each in a process of
its own.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from flexlora.adapters import Adapter, Delta, Factors, LayerSpec, factors_payload
from flexlora.engines.jobs import Failure, Reply, Train
from flexlora.federation.admission import Collected
from flexlora.federation.collector import Plain
from flexlora.formats.payloads import load_tensors, open_payload, save_tensors, to_bytes
from flexlora.lowrank import Spectrum
from flexlora.rules import ClientView
from flexlora.training import Recipe
from measuring import in_child, own_memory, seconds
from one_layer import RULE, Replies
from procedures import readout
from whole_round import Model, Plan, Row, about, in_dtype, planned


def round_with_files(model: Model, options: argparse.Namespace, folder: Path) -> Row:
    """Both sides on the same replies; what they left on disk is removed."""
    plan = planned(model, options, folder)
    plan.train()
    process = {"threads": options.threads, "frugal": options.frugal}
    ours = in_child(play, plan, **process)
    theirs = in_child(play_original, plan, **process)
    for name in ("spool", "before", "next"):
        shutil.rmtree(folder / name)
    server = ours["combine_seconds"] + ours["readout_seconds"]
    dense = theirs["combine_seconds"] + theirs["readout_seconds"]
    measured = about(plan, "cpu")
    if options.frugal:
        measured["name"] += ":frugal"
    return measured | {
        "ours": ours,
        "original": theirs,
        "faster": dense / server,
        "faster_with_collecting": dense / (server + ours["collect_seconds"]),
        "memory_share": _share(ours["combine_extra_bytes"], theirs["combine_extra_bytes"]),
        # Ours may be an estimate, for layers whose certificate is probabilistic.
        "error_share": ours["error"] / theirs["error"] if theirs["error"] else None,
    }


def play(plan: Plan) -> Row:
    """Collect, combine and read out, as the loop does."""
    jobs, sent, states = _jobs(plan), _sent(plan), plan.folder / "before"
    for index in range(len(plan.layers)):
        state = plan.turned(index).state(Replies(plan.sample(index)).state())
        save_tensors(states / f"{index:06d}.safetensors", state)
    plain = Plain(plan.folder / "spool", RULE)
    making, began = [0.0], time.perf_counter()
    collected = Collected()
    with own_memory() as collecting:  # With what making a reply takes here.
        for outcome, so_far in plain.collect(jobs, _replies(plan, jobs, making), sent):
            collected = so_far
            if isinstance(outcome, Failure):
                raise RuntimeError(f"{outcome.client}: {outcome.reason}")
    collect_seconds = time.perf_counter() - began - making[0]
    weights = RULE.weigh([collected.summaries[name] for name in sorted(collected.summaries)])
    generator, errors, kinds = torch.Generator().manual_seed(plan.seed), [], Counter[str]()
    began = time.perf_counter()
    with own_memory() as combining:
        for index, layer in enumerate(plan.spec.at(1, generator)):
            before, _ = load_tensors(states / f"{index:06d}.safetensors")
            contributions = plain.contributions(layer.name, weights, sent)
            combined = RULE.combine(layer, before, contributions)
            save_tensors(
                plan.folder / "next" / f"{index:06d}.safetensors", combined.state, synced=False
            )
            if combined.certificate is not None:
                errors.append(combined.certificate.error)
                kinds[combined.certificate.kind] += 1
    combined_at = time.perf_counter()
    with own_memory() as reading:
        for index, layer in enumerate(plan.spec.at(1, generator)):
            after, _ = load_tensors(plan.folder / "next" / f"{index:06d}.safetensors")
            held = {name: after[name] for name in after}
            for rank in plan.distinct(plan.layers[index]):
                RULE.send_layer(layer, held, ClientView("", {layer.name: rank}))
    return {
        "collect_seconds": collect_seconds,
        "combine_seconds": combined_at - began,
        "readout_seconds": time.perf_counter() - combined_at,
        "collect_extra_bytes": collecting[0],
        "combine_extra_bytes": combining[0],
        "readout_extra_bytes": reading[0],
        "reply_bytes": collected.bytes_up,
        "spool_bytes": _size(plan.folder / "spool"),
        "state_bytes": _size(plan.folder / "next"),
        "certificates": dict(kinds),
        "error": math.hypot(*errors),
    }


def play_original(plan: Plan) -> Row:
    """Every ΔW in full, then their SVDs one by one, each read out once per distinct rank."""
    examples, everyone = plan.examples(), sum(plan.examples().values())
    began, squared, reading = time.perf_counter(), 0.0, 0.0
    with own_memory() as combining:
        whole = {layer.name: torch.zeros(layer.m, layer.n) for layer in plan.layers}
        for client, (name, ranks) in enumerate(zip(plan.names, plan.ranks, strict=True)):
            with open_payload(plan.folder / "spool" / f"{client:06d}.safetensors") as file:
                for layer in plan.layers:
                    b, a = (file.tensor(f"{layer.name}.{side}").float() for side in "ba")
                    share = examples[name] / everyone * plan.spec.scale(ranks[layer.name])
                    whole[layer.name].addmm_(b, a, alpha=share)
        summed = time.perf_counter()
        for layer in plan.layers:
            spectrum = Spectrum(*torch.linalg.svd(whole[layer.name], full_matrices=False))
            squared += float(spectrum.s[plan.spec.highest[layer.name] :].double().square().sum())
            took, _ = seconds(lambda: _cuts(plan, layer, spectrum), "cpu")  # noqa: B023
            reading += took
    ended = time.perf_counter()
    return {
        "sum_seconds": summed - began,
        "combine_seconds": ended - began - reading,
        "readout_seconds": reading,
        "combine_extra_bytes": combining[0],
        "error": math.sqrt(squared),
    }


def _cuts(plan: Plan, layer: LayerSpec, spectrum: Spectrum) -> list[Factors]:
    return [readout(spectrum, rank, plan.spec.scale(rank)) for rank in plan.distinct(layer)]


def _jobs(plan: Plan) -> list[Train]:
    return [
        Train(
            id=f"1-{index}",
            round=1,
            client=name,
            payload=b"",
            delta=Delta(),
            held=None,
            origin=False,
            sides="both",
            recipe=Recipe("adamw", 2e-4, 4),
            seed=0,
            metrics=(),
            bytes_down=0,
        )
        for index, name in enumerate(plan.names)
    ]


def _sent(plan: Plan) -> dict[str, Adapter]:
    """What the guard compares replies with: shapes, ranks, scales and dtype, without the values."""
    zero = torch.zeros((), dtype=getattr(torch, plan.dtype))
    made: dict[tuple[int, ...], Adapter] = {}
    sent = {}
    for name, ranks in zip(plan.names, plan.ranks, strict=True):
        pattern = tuple(ranks.values())
        if pattern not in made:
            made[pattern] = Adapter(
                {
                    x.name: Factors(
                        zero.expand(x.m, ranks[x.name]),
                        zero.expand(ranks[x.name], x.n),
                        plan.spec.scale(ranks[x.name]),
                    )
                    for x in plan.layers
                }
            )
        sent[name] = made[pattern]
    return sent


def _replies(plan: Plan, jobs: list[Train], making: list[float]) -> Iterator[Reply]:
    """Replies client by client, as they would arrive; `making` adds up the seconds that took."""
    turned = [plan.turned(index) for index in range(len(plan.layers))]
    samples = [Replies(plan.sample(index)) for index in range(len(plan.layers))]
    for client, (job, examples) in enumerate(zip(jobs, plan.examples().values(), strict=True)):
        began = time.perf_counter()
        layers: dict[str, Factors] = {}
        for layer, source, sample in zip(plan.layers, turned, samples, strict=True):
            layers[layer.name] = in_dtype(source.factors(sample.factors(client)), plan.dtype)
        payload = to_bytes(factors_payload(Adapter(layers)))
        layers.clear()
        making[0] += time.perf_counter() - began
        yield Reply(job.id, job.client, payload, examples, 1.0, 10, 2560, 1.0)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _share(part: int, whole: int) -> float | None:
    """None where the whole was too short-lived to be seen by a sample."""
    return part / whole if whole else None
