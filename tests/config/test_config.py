"""Configs are strict, say what is wrong in one sentence, and survive the way to a file and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from flexlora.config.config import Config
from flexlora.config.config_file import load_config, override, parse_config
from flexlora.errors import ConfigError

Load = Callable[..., Config]

quick = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str, *overrides: str) -> Config:
        (tmp_path / "c.toml").write_text(text)
        return load_config(tmp_path / "c.toml", overrides)

    return load


def test_an_empty_file_is_the_papers_setting(load: Load) -> None:
    config = load("")
    assert config == Config()
    assert (config.federation.rounds, config.training.decay_rounds) == (50, (15,))
    assert config.clients.build_mix().shares["type3"] == 0.25


def test_every_field_says_what_it_is() -> None:
    for table in Config.model_fields.values():
        kind = table.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, BaseModel)
        for field in kind.model_fields.values():
            assert field.description


def test_values_overrides_and_rule_options(load: Load) -> None:
    config = load(
        '[clients]\nmix = {weak = 0.5, type4 = 0.5}\ntypes = {weak = {attention = 2, "all" = 4}}\n'
        '[rule]\nname = "hetlora"\ngamma = 0.99\n[federation]\nclients_per_round = 4',
        "federation.rounds=7",
        "training.host = fedavg",
        "rule.prune=true",
        "training.decay_rounds=[2, 4]",
        "run.name='a=b'",
        "clients.scale=2",
    )
    assert config.rule.options == {"gamma": 0.99, "prune": True}
    assert (config.federation.rounds, config.training.host) == (7, "fedavg")
    assert (config.training.decay_rounds, config.run.name) == ((2, 4), "a=b")
    assert config.federation.clients_per_round == 4
    assert isinstance(config.federation.clients_per_round, int)
    assert config.clients.build_mix().types["weak"].patterns == (("attention", 4), ("all", 8))


def test_one_is_a_count_and_one_point_zero_is_all(load: Load) -> None:
    for text, kind in (("1", int), ("1.0", float)):
        amount = load(f"[federation]\nclients_per_round = {text}").federation.clients_per_round
        assert type(amount) is kind


def test_overriding_changes_no_input() -> None:
    document = {"federation": {"rounds": 3}}
    assert override(document, ["federation.rounds=4"]) == {"federation": {"rounds": 4}}
    clients = {"clients": {"types": {"low": 2}}}
    asked = ["clients.types.high=8", "clients.ranks.ward 3.b={all = 1}"]
    assert override(clients, asked) == {
        "clients": {"types": {"low": 2, "high": 8}, "ranks": {"ward 3.b": {"all": 1}}}
    }
    assert clients == {"clients": {"types": {"low": 2}}}
    assert document == {"federation": {"rounds": 3}}


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().federation.rounds = 3


rate, alpha = st.floats(1e-300, 1e6), st.floats(1e-6, 1e6)
text = st.text(st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), max_size=30)
name = text.filter(bool)
plain = (
    text
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False).filter(lambda x: abs(x) < 1e308)
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries(
            {"name": name},
            optional={"targets": st.lists(name, min_size=1, max_size=3)},
        ),
        "data": st.fixed_dictionaries(
            {"source": st.just("csv"), "path": name},
            optional={
                "train_tasks": st.integers(1, 9),
                "share": st.just(1),
                "prompt": text | st.lists(text, max_size=3),
            },
        ),
        "clients": st.fixed_dictionaries(
            {"scale": st.floats(0.01, 2)},
            optional={
                "mix": st.sampled_from(["normal", {"type1": 0.1, "odd name": 0.9}]),
                "types": st.just({"odd name": {"*.q": 3, "all": 4}, "x": 2}),
            },
        ).filter(lambda table: "types" in table or not isinstance(table.get("mix"), dict)),
        "rule": st.dictionaries(
            name.filter(lambda key: key != "name"),
            plain | st.lists(plain, max_size=2),
            max_size=3,
        ),
        "training": st.fixed_dictionaries(
            {"learning_rate": rate, "alpha": alpha | st.integers(1, 9)},
            optional={"decay_rounds": st.lists(st.integers(1, 10**9), max_size=3)},
        ),
        "federation": st.fixed_dictionaries(
            {"clients_per_round": st.integers(1, 9) | st.floats(0.01, 1)},
            optional={"seed": st.integers(0, 2**63 - 1)},
        ),
    },
)


@quick
@given(documents)
def test_toml_round_trips_exactly(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    config = parse_config(document)
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    path.write_bytes(config.to_toml().encode())
    back = load_config(path)
    assert back == config
    assert back.to_toml() == config.to_toml()
    assert all(line.count(".") == 0 for line in config.to_toml().splitlines() if line[:1] == "[")


WRONG = [
    ("x =", "is not TOML: Invalid value"),
    ("[modle]", "config table [modle] is unknown; did you mean 'model'?"),
    ("rounds = 3", "config key 'rounds' is unknown"),
    ("model = 3", "config model is 3, expected a table [model]"),
    ("[model]\nnam = 'x'", "config key model.nam is unknown; did you mean 'name'?"),
    ("[model.lora]\nr = 3", "config table [model.lora] is nested too deep"),
    ("[rule.x]\na = 1", "config table [rule.x] is nested too deep"),
    ("[rule]\nx = nan", "config [rule]: option 'x' is no plain, finite value"),
    ("[rule]\nx = 2020-01-01", "option 'x' is no plain, finite value"),
    ("[model]\nname = ''", 'config model.name is "", expected text that is not empty'),
    ("[model]\ntargets = []", "config model.targets is [], expected a list that is not empty"),
    ("[model]\ndtype = 'float23'", "is \"float23\"; did you mean 'float32'?"),
    ("[training]\nhost = 'fedavgg'", "training.host is \"fedavgg\"; did you mean 'fedavg'?"),
    ("[training]\nsparse_rounds = 3", "sparse_rounds is 3, but host is 'fedit', which has none"),
    ("[training]\nhost = 'slora'\nsparse_rounds = 0", "sparse_rounds is 0, expected 1 or more"),
    ("[training]\nscaling = 3", "config training.scaling is 3; known: anchored, lora, rslora"),
    ("[training]\nlearning_rate = 0", "config training.learning_rate is 0, expected above 0"),
    ("[training]\nlearning_rate = nan", "is nan, expected a finite number"),
    ("[training]\nlearning_rate = '1'", 'is "1", expected a number'),
    ("[training]\ndropout = 1.0", "config training.dropout is 1.0, expected below 1"),
    ("[training]\ndecay_rounds = 3", "config training.decay_rounds is 3, expected a list"),
    ("[training]\ndecay_rounds = [0]", "config training.decay_rounds is 0, expected 1 or more"),
    ("[federation]\nrounds = 0", "config federation.rounds is 0, expected 1 or more"),
    ("[federation]\nrounds = 2.0", "config federation.rounds is 2.0, expected a whole number"),
    ("[federation]\nrounds = true", "config federation.rounds is true, expected a whole number"),
    ("[federation]\nclients_per_round = 0", "is 0, expected 1 or more (clients a round"),
    ("[federation]\nclients_per_round = 1.5", "is 1.5, expected 1 or less (clients a round"),
    ("[federation]\nclients_per_round = 'x'", "expected a whole number or a number"),
    ("[federation]\nseed = -1", "config federation.seed is -1, expected 0 or more"),
    ("[evaluation]\ntypes_at_end = 1", "types_at_end is 1, expected true or false"),
    ("[data]\nsource = 'csv'\npath = 'x'\nshare = 2", "data.share is 2, expected a number above 0"),
    ("[clients]\nmix = 'unifrom'", "mix 'unifrom' is unknown; did you mean 'uniform'?"),
    ("[clients]\nscale = 0", "config clients.scale is 0, expected above 0 (factor on every rank"),
    ("[clients]\nmix = {type1 = 0.5}", "shares of the mix sum to 0.5"),
    ("[clients]\nmix = {typ1 = 1}", "client type 'typ1' of the mix is unknown"),
    ("[clients]\nmix = {a = 1}\ntypes = {a = 0}", "rank 0 for 'all' of client type 'a'"),
    ("[run]\nname = 'a/b'", 'config run.name is "a/b", expected a name without slashes'),
]


def test_an_override_reaches_into_the_table_of_a_type_and_leaves_dotted_names_whole() -> None:
    clients = {"clients": {"types": {"a": {"attention": 2, "all": 3}, "b": 6, "b.c": 7}}}
    found = override(
        clients,
        ["clients.types.a.attention=5", "clients.types.b.c=8", "clients.types.d.e=9"],
    )
    types = {"a": {"attention": 5, "all": 3}, "b": 6, "b.c": 8, "d.e": 9}
    assert found == {"clients": {"types": types}}
    assert clients["clients"]["types"]["a"] == {"attention": 2, "all": 3}


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(load: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


WRONG_OVERRIDES = [
    ("rounds=3", "is not of the form table.key=value"),
    ("federation.rounds", "is not of the form table.key=value"),
    ("a..c=3", "is not of the form table.key=value"),
    ("a.b.=3", "is not of the form table.key=value"),
    ("a.b.c=3", "config table [a] is unknown"),
    ("federation.rounds.low=3", "federation.rounds is {low = 3}, expected a whole number"),
    ("clients.mix.low=3", "client type 'low' of the mix is unknown"),
    ("model.name=[1", "[1 is not a TOML value"),
    ("model.name=", "nothing is not a TOML value"),
    ("model.name=1\nb=3", "sets more than one key"),
    ("federation.round=3", "config key federation.round is unknown; did you mean 'rounds'?"),
    ("fed.rounds=3", "config table [fed] is unknown"),
]


@pytest.mark.parametrize(("item", "message"), WRONG_OVERRIDES)
def test_wrong_overrides_are_said(load: Load, item: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("", item)
    assert message in str(caught.value)


def test_wrong_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; check the path"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is no plain file"):
        load_config(tmp_path)
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(tmp_path / "x")
    (tmp_path / "x").write_text("a = 1\nb = = 2")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(tmp_path / "x")


def test_screens_keep_their_order_and_options(load: Load) -> None:
    config = load("[screens]\nnorm_clip = {factor = 2.0}\nanother = {}", "screens.third={n = 1}")
    assert list(config.screens.chosen) == ["norm_clip", "another", "third"]
    assert config.screens.chosen["norm_clip"] == {"factor": 2.0}
    assert config.document()["screens"] == config.screens.chosen
    again = load(config.to_toml())
    assert again == config
    assert list(again.screens.chosen) == list(config.screens.chosen)
    assert "screens" not in load("").document()
    assert load(load("").to_toml()) == Config()


def test_a_screen_without_a_table_of_options_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError) as error:
        load("[screens]\nnorm_clip = 3.0")
    assert str(error.value) == (
        "config screens.norm_clip is 3.0, expected an inline table of options; write norm_clip = {}"
    )
