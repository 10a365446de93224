"""Tables that are read off the code while building, so that no page can be out of date.

`{live-table} NAME` takes one of the names below; `{command-line}` shows every command's help,
`{config-tables}` every key of a config.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from docutils import nodes
from docutils.parsers.rst import Directive

Rows = Iterator[tuple[str, ...]]


def _rules() -> Rows:
    import sys

    from flexlora.rules import RULES

    yield ("name", "the server", "ranks", "travels down", "travels up", "source")
    for name, rule in RULES.items():
        words = _first_line(sys.modules[rule.__module__]).partition(": ")[2].rstrip(".")
        ranks = "mixed" if rule.traits.mixed_ranks else "one"
        yield (f"`{name}`", words, ranks, *_travels(rule), rule.source)


def _travels(rule: Any) -> tuple[str, str]:
    """What a client is sent in round 1 and has to hold, and what it returns in rounds 1 and 2."""
    import torch

    from flexlora.adapters import LayerSpec
    from flexlora.rules import Spec

    held = {
        "none": "",
        "origin": ", Δ with the same and all else",
        "restart": ", Δ with all that was learned",
        "residual": ", Δ with the rest",
    }
    sides = {"both": "B and A", "b": "B", "a": "A"}
    made, ranks = rule(), {"x": 1}
    begun = made.init(Spec.of([LayerSpec("x", 4, 3)], [ranks]), torch.Generator())
    sent = made.send(begun, ranks, torch.Generator(), "client")["x"].sides
    returned = dict.fromkeys(sides[made.returns(round)] for round in (1, 2))
    return sides[sent] + held[rule.traits.delta], ", then ".join(returned)


def _rule_formulas() -> Rows:
    from flexlora.rules import RULES

    yield ("name", "formula", "deviations from the paper")
    for name, rule in RULES.items():
        first, *rest = (rule.__doc__ or "").strip().split("\n\n")
        said = " ".join(" ".join(rest).split())
        _, _, told = said.replace("Deviations: ", "Deviation: ").partition("Deviation: ")
        if not told and "from its published formula" in said:
            told = "none known; from its published formula"
        yield (f"`{name}`", " ".join(first.split()), told or "none known")


def _rule_options() -> Rows:
    from flexlora.rules import RULES

    return _options("rules", RULES)


def _screens() -> Rows:
    import inspect

    from flexlora.screens import SCREENS

    yield ("name", "what it does", "options", "source")
    for name, screen in SCREENS.items():
        given = inspect.signature(screen).parameters.values()
        options = ", ".join(f"`{p.name} = {_shown(p.default).strip('`')}`" for p in given)
        yield (f"`{name}`", _first_line(screen), options, screen.source)


def _metrics() -> Rows:
    from flexlora.evaluation.metrics import METRICS

    yield ("name", "heading", "better", "is computed from")
    needs = {"loss": "the response's loss", "text": "a generated answer", "choices": "choices"}
    for name, metric in METRICS.items():
        better = "higher" if metric.higher_is_better else "lower"
        yield (f"`{name}`", metric.heading, better, needs[metric.needs])


def _sources() -> Rows:
    from flexlora.tasks.source import SOURCES

    yield ("`data.source`", "what it reads")
    for name, source in SOURCES.items():
        yield (f"`{name}`", _first_line(source))


def _source_options() -> Rows:
    from flexlora.tasks.source import SEED, SOURCES

    return _options("sources", SOURCES, hidden=SEED)


def _partitions() -> Rows:
    from flexlora.partition.registry import SCHEMES

    yield ("`partition.by`", "clients")
    for name, scheme in SCHEMES.items():
        yield (f"`{name}`", _first_line(scheme))


def _partition_options() -> Rows:
    from flexlora.partition.registry import SCHEMES

    return _options("`partition.by`", SCHEMES)


def _options(who: str, registry: Mapping[str, Any], hidden: str = "") -> Rows:
    """One line an option, with all that take it so."""
    from flexlora.options import arguments_of

    takers: dict[tuple[str, str, str], list[str]] = {}
    for name, made in registry.items():
        for key, argument in arguments_of(made).items():
            if key != hidden:
                default = "needed" if argument.required else _shown(argument.default)
                default = "none" if argument.default in ("", ()) else default
                meaning = f"{argument.words}: {argument.option.meaning}"
                takers.setdefault((f"`{key}`", default, meaning), []).append(f"`{name}`")
    order = {key: place for place, (key, *_) in reversed(list(enumerate(takers)))}
    yield ("key", "default", "meaning", who)
    for row, names in sorted(takers.items(), key=lambda item: order[item[0][0]]):
        yield (*row, "all" if len(names) == len(registry) else ", ".join(names))


def _errors() -> Rows:
    import flexlora.errors as errors

    yield ("error", "exit code", "when")
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.FlexLoRAError):
            yield (f"`{name}`", str(kind.exit_code), _first_line(kind))


def _events() -> Rows:
    from dataclasses import fields

    from flexlora.runs.events import EVENTS, RoundEnded
    from flexlora.runs.records import RoundRecord

    yield ("event", "class", "what it tells", "fields")
    for name, kind in EVENTS.items():
        own = RoundRecord if kind is RoundEnded else kind
        names = ", ".join(f"`{f.name}`" for f in fields(own) if f.name != "time")
        yield (f"`{name}`", f"`{kind.__name__}`", _first_line(kind), names)


# What fields of several events are, where a class says nothing of its own.
_COMMON = {
    "run": "the run's directory",
    "rule": "the rule's name",
    "model": "the base model's name",
    "rounds": "how many rounds the run has",
    "round": "which round",
    "client": "the client's id",
    "type": "the client's type",
    "clients": "how many",
    "examples": "that were trained on",
    "reason": "why, in one sentence",
    "text": "one sentence",
    "trackers": "names of those that write",
    "schema": "the version of this page",
    "learning_rate": "of the round",
    "bytes_down": "that clients were sent",
    "bytes_up": "that clients sent",
    "seconds": "that rounds took",
    "scored_round": "the round whose state was scored",
    "rows": "a row of results.json each: its means",
}


def _event_fields() -> Rows:
    """One row a field; its meaning is what the class says behind the field's name."""
    from dataclasses import MISSING, fields

    from flexlora.runs.events import EVENTS, RoundEnded
    from flexlora.runs.records import RoundRecord

    kinds = {
        "str": "text",
        "int": "whole number",
        "bool": "true or false",
        "float": "number",
        "tuple[str, ...]": "list of texts",
        "tuple[int, ...]": "list of whole numbers",
        "tuple[Means, ...]": "list of objects",
        "Mapping[str, int]": "object: name → whole number",
        "Mapping[str, float]": "object: name → number",
    }
    yield ("event", "field", "value", "meaning")
    for name, kind in EVENTS.items():
        own = RoundRecord if kind is RoundEnded else kind
        said = " ".join((own.__doc__ or "").split())
        for field in fields(own):
            if field.name == "time":
                continue
            pattern = rf"(?:^|[;.,]) {field.name}: (.*?)(?:[;,] \w+: |\.(?= |$)|$)"
            found = re.search(pattern, said)
            bare = str(field.type).removesuffix(" | None")
            value = kinds.get(bare, "list" if bare.startswith("tuple") else "object")
            there = field.default is MISSING and field.default_factory is MISSING
            value += "" if there else ", may be missing"
            meaning = found[1] if found else _COMMON.get(field.name, "")
            yield (f"`{name}`", f"`{field.name}`", value, meaning)


def _compare() -> Rows:
    from flexlora.comparing.settings import CompareConfig

    yield ("key", "default", "meaning")
    yield from _keys(CompareConfig)


def _laws() -> Rows:
    from flexlora.laws import LAWS

    yield ("name", "law")
    for name, law in LAWS.items():
        yield (f"`{name}`", law.says)


def _laws_of_rules() -> Rows:
    from flexlora.laws import LAWS, excuses, hold_all, of_rule
    from flexlora.rules import RULES

    marks = {"holds": "✓", "fails": "✗", "by design": "–"}
    yield ("rule", *(f"`{name}`" for name in LAWS), "– by its own design, because")
    for name, made in sorted(RULES.items()):
        rule = made()
        verdicts = hold_all(of_rule(rule), excuses(rule))
        why = "; ".join(dict.fromkeys(x.excuse for x in verdicts if x.excuse))
        yield (f"`{name}`", *(marks[x.standing] for x in verdicts), why)


def _client_file() -> Rows:
    from flexlora.flower.client_file import ClientFile

    yield ("key", "default", "meaning")
    for name in ("client", "model", "run"):
        table = ClientFile.model_fields[name].annotation
        for key, *words in _keys(table):
            yield (f"`{name}.{key.strip('`')}`", *words)


def _server_settings() -> Rows:
    from flexlora.flower.server_settings import ServerSettings

    yield ("key", "default", "meaning")
    yield from _keys(ServerSettings)


TABLES: dict[str, Callable[[], Rows]] = {
    "rules": _rules,
    "rule-formulas": _rule_formulas,
    "rule-options": _rule_options,
    "laws": _laws,
    "laws-of-rules": _laws_of_rules,
    "screens": _screens,
    "compare": _compare,
    "metrics": _metrics,
    "sources": _sources,
    "source-options": _source_options,
    "partitions": _partitions,
    "partition-options": _partition_options,
    "client-file": _client_file,
    "server-settings": _server_settings,
    "errors": _errors,
    "events": _events,
    "event-fields": _event_fields,
}


class LiveTable(Directive):
    """A table of `TABLES`; its first row is the head."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return [_table(TABLES[self.arguments[0]]())]


class CommandLine(Directive):
    """One section a command: what it does, its arguments and options."""

    def run(self) -> list[nodes.Node]:
        import click

        from flexlora.cli.arguments import command_line, leaves
        from flexlora.cli.commands import app

        group: Any = command_line(app)
        sections = []
        for name, command in leaves(group).items():
            context = click.Context(command, info_name=f"flexlora {name}")
            usage = command.get_usage(context).removeprefix("Usage: ")
            section = _section(self, f"flexlora {name}", f"flexlora-{name.replace(' ', '-')}")
            section += nodes.literal_block(usage, " ".join(usage.split()), language="text")
            for paragraph in (command.help or "").split("\n\n"):
                section += nodes.paragraph(text=" ".join(paragraph.split()))
            shown = (x for x in command.params if not getattr(x, "hidden", False))
            options = [_option(parameter) for parameter in shown]
            section += _table([("option", "meaning"), *options])
            sections.append(section)
        return list(sections)


class ConfigTables(Directive):
    """One section a table of the config: what it is, its keys with defaults and meanings."""

    def run(self) -> list[nodes.Node]:
        from flexlora.config import Config

        sections = []
        for name, field in Config.model_fields.items():
            kind: Any = field.annotation
            section = _section(self, f"[{name}]", f"config-{name}")
            said = _first_line(kind).partition(": ")[2]
            section += nodes.paragraph("", "", *_inline(said[:1].upper() + said[1:]))
            section += _table([("key", "default", "meaning"), *_keys(kind)])
            sections.append(section)
        return list(sections)


def _keys(table: Any) -> Rows:
    for key, entry in table.model_fields.items():
        said = entry.description or ""
        if key in ("options", "chosen"):
            yield ("any other" if key == "options" else "any", "", said)
        else:
            default = "needed" if entry.is_required() else _shown(entry.default)
            yield (f"`{key}`", default, f"{_words(entry.annotation)}: {said}")


def _section(directive: Directive, title: str, anchor: str) -> nodes.section:
    section = nodes.section(ids=[anchor], names=[nodes.fully_normalize_name(title)])
    section += nodes.title(text=title)
    directive.state.document.note_explicit_target(section, section)
    return section


def _table(rows: Iterable[tuple[str, ...]]) -> nodes.table:
    head, *body = rows
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += [nodes.thead("", _row(head)), nodes.tbody("", *map(_row, body))]
    return nodes.table("", group, classes=["live"])


def _option(parameter: Any) -> tuple[str, str]:
    """How it is written, and its help."""
    said = parameter.help or ""
    if parameter.param_type_name == "argument":
        return (f"`{parameter.make_metavar(None).strip('[]')}`", said)
    if parameter.default not in (None, False, (), [], "") and not callable(parameter.default):
        said = f"{said} [default: {parameter.default}]"
    metavar = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
    return (f"`{'`, `'.join(parameter.opts)}{metavar}`", said)


def _row(cells: tuple[str, ...]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph("", "", *_inline(cell))
        row += entry
    return row


def _inline(text: str) -> Iterator[nodes.Node]:
    """Text with `code` in backticks."""
    for place, part in enumerate(text.split("`")):
        if part:
            yield nodes.literal(part, part) if place % 2 else nodes.Text(part)


def _first_line(kind: Any) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _shown(value: object) -> str:
    from flexlora.config.toml import describe

    return "none" if value is None else f"`{describe(value)}`"


def _words(annotation: Any) -> str:
    """A type as a user would say it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{part}"`' for part in parts)
    if origin in (Union, types.UnionType):
        kinds = [_words(part) for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is tuple:
        return f"list of {_plural(_words(parts[0]))}"
    if origin is dict:
        return "table"
    if parts and hasattr(annotation, "__metadata__"):
        return _words(parts[0])
    known = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return known.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _plural(words: str) -> str:
    """'whole number' → 'whole numbers'; 'text' stays."""
    return words if words == "text" else f"{words}s"


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("live-table", LiveTable)
    app.add_directive("command-line", CommandLine)
    app.add_directive("config-tables", ConfigTables)
    return {"parallel_read_safe": True}
