"""Which configs can be played over a network."""

from __future__ import annotations

from flexlora.config.config import Config
from flexlora.errors import ConfigError
from flexlora.federation.starts import kind_of
from flexlora.runs.run_directory import Run


def require_no_code_begun_from(config: Config) -> None:
    """Raise ConfigError where `model.init_from` is a run whose rule is code in a file.

    For where that run lies: at the server, which would run the code to have its adapter.
    """
    begin = config.model.init_from
    if begin is None or kind_of(begin) != "run":
        return
    rule = Run.open(begin).config.rule
    if rule.in_file:
        raise ConfigError(
            f"model.init_from is {begin}, a run of {rule.name}, which is code in a file, and a "
            "server runs none of another's; begin from its adapter: "
            f"flexlora export {begin} --rank full --out FOLDER"
        )


def require_networked(config: Config) -> None:
    """Raise ConfigError, naming the key, for what needs the clients' examples in one place, or code
    that clients do not have."""
    evaluation = config.evaluation
    if config.federation.mode == "centralised":
        raise ConfigError(
            "federation.mode is 'centralised', but over a network nobody has all examples; use "
            "flexlora run"
        )
    if evaluation.every and evaluation.validation_examples:
        raise ConfigError(
            f"evaluation.validation_examples is {evaluation.validation_examples}, but over a "
            "network the clients' examples stay with them; set it to 0, evaluation.on_clients to "
            "'global' and evaluation.decide_by to 'clients', or evaluation.every to 0"
        )
    if evaluation.validation_clients:
        raise ConfigError(
            f"evaluation.validation_clients is {evaluation.validation_clients}, but over a network "
            "the server reads no client's examples; set it to 0"
        )
    if evaluation.unseen and config.data.duplicates == "refuse":
        raise ConfigError(
            "data.duplicates is 'refuse', but over a network the server cannot see whether unseen "
            "examples are trained on; set it to 'keep', or evaluation.unseen to false"
        )
    if config.hostile.attack == "label_flip":
        raise ConfigError(
            "hostile.attack is 'label_flip', but over a network the clients' examples stay with "
            "them; take another attack"
        )
    named = [("rule.name", config.rule.name), ("evaluation.metric", evaluation.metric)]
    for key, name in [*named, *(("evaluation.metrics", name) for name in evaluation.metrics)]:
        if ":" in name or (key == "rule.name" and config.rule.in_file):
            raise ConfigError(
                f"{key} has {name}, which is code in a file, and no client runs code because a "
                "server says so; use what FlexLoRA itself has"
            )
