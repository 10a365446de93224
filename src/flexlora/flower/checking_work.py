"""Whether a client can do the work: its data, its base model, and the memory of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

from flexlora.allocation.memory import Memory
from flexlora.config.clients import ClientsConfig
from flexlora.config.config import Config
from flexlora.config.settings import played_rule
from flexlora.errors import DataError, FlexLoRAError, seen
from flexlora.federation.examples import Dealt, Examples
from flexlora.federation.foreseen import peaks
from flexlora.federation.roster import Roster
from flexlora.federation.setup import Setup, prepare
from flexlora.flower.brought import served, why_unserved
from flexlora.flower.checking import Finding
from flexlora.flower.client_file import ClientFile
from flexlora.flower.part import dealt_to
from flexlora.flower.plan import Plan
from flexlora.flower.profiles import device_of
from flexlora.formats.words import count, size
from flexlora.models import AdaptedModel
from flexlora.training.memory import free_bytes

_RANK = 64  # Foreseen where neither the client nor the server's config says one.
_UNTOLD = "with the defaults of a config (--config: with the federation's)"


def work_findings(client: ClientFile, server: Config | None) -> Iterator[Finding]:
    """data, model, device (where the client has one) and memory, in this order, as in a run of the
    server's config (None: of one that says nothing). Nothing is trained. Raises ConfigError for a
    config that no client plays by."""
    config = _alone(client, server)
    problems: dict[str, str] = {}
    loaded: list[tuple[AdaptedModel, str]] = []
    dealt: Dealt | None = None
    try:
        dealt = _dealt(client, config)
    except FlexLoRAError as error:
        problems["data"] = str(error)

    def gather(model: AdaptedModel, fingerprint: str, today: date) -> Examples:
        loaded.append((model, fingerprint))
        if dealt is None:
            raise DataError(problems["data"])
        try:
            return _encoded(dealt, config, model, today)
        except FlexLoRAError as error:
            problems["data"] = str(error)
            raise

    setup = None
    try:
        setup = prepare(config, gather=gather)
    except FlexLoRAError as error:
        if not (loaded and "data" in problems):
            problems["model"] = str(error)
    if "data" in problems:
        yield Finding("data", False, problems["data"])
    else:
        assert dealt is not None
        yield Finding("data", True, _data_words(dealt, setup, config))
    if "model" in problems:
        yield Finding("model", False, problems["model"])
    else:
        yield Finding("model", True, _model_words(config, *loaded[0], told=server is not None))
    rank = None
    if client.client.devices is not None or client.client.device is not None:
        found, rank = _device(client, setup, server)
        yield found
    if setup is None:
        yield Finding("memory", False, "not foreseen: put data and model right first")
    else:
        yield _memory(client, setup, server, rank)


def _device(
    client: ClientFile, setup: Setup | None, server: Config | None
) -> tuple[Finding, int | None]:
    """What the server makes of its profile, were it alone in a round; and the rank, if any."""
    name = client.client.name
    try:
        device = device_of(client)
        assert device is not None
        if setup is None:
            return Finding("device", False, "no rank follows: put data and model right first"), None
        policy = server or Config()
        if name in policy.clients.ranks:
            return Finding("device", True, "not asked: the server gives ranks by name"), None
        examples = len(setup.examples.train[name])
        if why := why_unserved(policy, setup.model, name, device, examples):
            return Finding("device", False, why), None
        rank, by = served(policy, setup.model, name, device, examples)
    except FlexLoRAError as error:
        return Finding("device", False, str(error)), None
    words = f"rank {rank} by {by}"
    return Finding("device", True, words if server else f"{words}; {_UNTOLD}"), rank


def _dealt(client: ClientFile, config: Config) -> Dealt:
    found = dealt_to(client, config)
    if not found.clients[0].train:
        raise DataError(
            f"client {seen(client.client.name)} has no example to train on; give it data"
        )
    return found


def _alone(client: ClientFile, server: Config | None) -> Config:
    """The config that it plays by, as of the only client."""
    config = Plan.of(server or Config(), "check", date.today()).config_for(client)
    alone = {"clients_per_round": 1, "deadline": None}  # Which is of devices: see `_device`.
    federation = config.federation.model_copy(update=alone)
    evaluation = config.evaluation.model_copy(update={"every": 0, "on_clients": "off"})
    return config.model_copy(update={"federation": federation, "evaluation": evaluation})


def _encoded(dealt: Dealt, config: Config, model: AdaptedModel, today: date) -> Examples:
    found = dealt.encoded(config, model, today)
    if not any(found.train.values()):
        raise DataError(
            f"no example to train on fits {config.data.max_tokens} tokens; give others, or have "
            "the server raise data.max_tokens"
        )
    return found


def _data_words(dealt: Dealt, setup: Setup | None, config: Config) -> str:
    (one,) = dealt.clients
    words = (
        f"{count(len(one.train), 'example')} to train on, {len(one.validation):,} to validate and "
        f"{len(one.test):,} to test, of source {config.data.source}"
    )
    if setup is None:
        return words
    fitting = sum(len(part) for part in setup.examples.train.values())
    return f"{words}; {fitting:,} fit {config.data.max_tokens} tokens"


def _model_words(config: Config, model: AdaptedModel, fingerprint: str, *, told: bool) -> str:
    tensors = [*model.model.parameters(), *model.model.buffers()]
    held = sum(x.numel() * x.element_size() for x in tensors)
    words = (
        f"{config.model.name} on {tensors[0].device}, {size(held)} in {config.model.dtype}, "
        f"fingerprint {fingerprint[:12]} (the server's has to be the same)"
    )
    return words if told else f"{words}; {_UNTOLD}"


def _memory(client: ClientFile, setup: Setup, server: Config | None, rank: int | None) -> Finding:
    """rank: that follows from its device."""
    device = next(setup.model.model.parameters()).device
    if rank is None:
        words, need = _need(client, setup, server)
    else:
        words, need = f"rank {rank}", _peak(setup, client.client.name, rank)
    free = free_bytes(device)
    if need is None:
        return Finding(
            "memory", True, f"cannot be foreseen for this model; {size(free)} are free beside it"
        )
    room = free + round(need.weights)  # The base is loaded by now.
    told = f"{words} takes {size(round(need.peak))} of the {size(room)} that there are"
    if need.peak <= room:
        return Finding("memory", True, told)
    least = _peak(setup, client.client.name, 1)
    assert least is not None
    lowest = f"rank 1 takes {size(round(least.peak))}"
    lower = "lower client.rank" if rank is None else "lower the memory of its device"
    cure = f"{lowest}: {lower}" if least.peak <= room else f"{lowest}, too"
    return Finding(
        "memory",
        False,
        f"{told}; {cure}, or have the server set model.checkpointing = true or a smaller "
        "training.batch_size",
    )


def _need(client: ClientFile, setup: Setup, server: Config | None) -> tuple[str, Memory | None]:
    """At which rank, and what that takes: the client's own, or the highest that it may be given."""
    name = client.client.name
    if client.client.rank is not None:
        return f"rank {client.client.rank}", _peak(setup, name, client.client.rank)
    if server is None:
        words = f"client.rank is not set, and the server may give it any: rank {_RANK}"
        return words, _peak(setup, name, _RANK)
    asked, ranks = server.clients, server.clients.ranks
    if name in ranks:
        named = asked.model_copy(update={"ranks": {name: ranks[name]}})
        return "what the server gives it", _peak_of(setup, name, named)
    others = asked.model_copy(update={"ranks": {}})
    kinds = [kind for kind, share in asked.build_mix().shares.items() if share]
    found = {kind: _peak_of(setup, name, others, kind) for kind in kinds}
    highest = max(found, key=lambda kind: 0.0 if (x := found[kind]) is None else x.peak)
    return f"type {highest}, which the server may give it,", found[highest]


def _peak(setup: Setup, name: str, rank: int) -> Memory | None:
    return _peak_of(setup, name, setup.config.clients.model_copy(update={"ranks": {name: rank}}))


def _peak_of(
    setup: Setup, name: str, asked: ClientsConfig, kind: str | None = None
) -> Memory | None:
    """kind: of which type it is, where it is not named in `asked`."""
    said = None if kind is None else {name: kind}
    roster = Roster.of(asked, [name], setup.model.layers, setup.streams, said=said)
    found = peaks(replace(setup, roster=roster, afforded=roster.ranks), played_rule(setup.config))
    return next(iter(found.values()), None)
