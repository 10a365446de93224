"""Before a client takes part it is told, thing by thing, what fits, and else what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from commands import Done, Flexlora, assert_one_sentence
from flexlora.flower import checking_work, knock
from flexlora.flower.begun import free_port
from flexlora.flower.checking import Finding, link_findings
from flexlora.flower.checking_work import work_findings
from flexlora.flower.client_file import parse_client
from flexlora.flower.keys import Certificates, certificates, node_key
from flexlora.flower.knock import Answer
from flower.doors import plain_server, tls_server
from flower.trainers import DATA, client_tables, networked
from small import SMALL, write

CONFIG = networked()


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return certificates(tmp_path)


@pytest.fixture
def port(made: Certificates) -> Iterator[int]:
    with tls_server(made.server, made.key) as found:
        yield found


def links(port: int, authority: Path | None, key: Path | None = None) -> dict[str, Finding]:
    found = list(
        link_findings(f"127.0.0.1:{port}", authority, key, insecure=False, port=free_port())
    )
    assert [one.what for one in found] == ["certificate", "key", "server", "port"]
    return {one.what: one for one in found}


def bad(found: dict[str, Finding]) -> list[str]:
    return [what for what, one in found.items() if not one.good]


@pytest.mark.parametrize(
    ("answer", "with_key", "told"),
    [
        (Answer.KNOWN, True, "answers: the key is registered"),
        (Answer.UNKNOWN, True, "flwr supernode register"),
        (Answer.KEYS_ALONE, False, "lets in registered keys alone; give this node's with --key"),
        (Answer.ANYBODY, False, "answers: the server lets anybody in"),
    ],
)
def test_a_servers_answer_to_a_key_is_told(
    answer: Answer,
    with_key: bool,
    told: str,
    made: Certificates,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(knock, "knock", lambda *_: answer)
    key = node_key(tmp_path, "north")[0] if with_key else None
    found = links(port, made.authority, key)
    good = answer in (Answer.KNOWN, Answer.ANYBODY)
    assert bad(found) == ([] if good else ["server"])
    assert told in found["server"].words
    assert "vouches for the server" in found["certificate"].words


def test_another_authority_does_not_vouch_for_the_server(port: int, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = certificates(tmp_path / "other").authority
    for authority in (other, None):
        found = links(port, authority)
        assert bad(found) == ["certificate", "server"]
        assert "does not vouch for the server at" in found["certificate"].words
        assert "put the certificate right first" in found["server"].words


def test_a_server_of_another_name_is_not_taken_for_this_one(made: Certificates, port: int) -> None:
    found = {
        one.what: one
        for one in link_findings(f"localhost:{port}", made.authority, None, insecure=False, port=1)
    }
    assert "is for another name than localhost" in found["certificate"].words


def test_a_file_that_holds_no_certificate_is_told(made: Certificates, port: int) -> None:
    found = links(port, made.key)
    assert bad(found) == ["certificate", "server"]
    assert "cannot be used" in found["certificate"].words
    found = links(port, made.key.parent / "none.pem")
    assert "No such file" in found["certificate"].words


def test_a_server_without_tls_and_none_at_all_are_told(made: Certificates) -> None:
    with plain_server() as port:
        assert "speaks no TLS" in links(port, made.authority)["certificate"].words
    found = links(free_port(), made.authority)
    assert bad(found) == ["server"]
    assert "cannot be reached (Connection refused); is the SuperLink up" in found["server"].words


def test_a_wrong_key_is_told_and_the_server_is_not_asked(made: Certificates, port: int) -> None:
    found = links(port, made.authority, made.key)
    assert bad(found) == ["key", "server"]
    assert "put the key right first" in found["server"].words


def test_a_port_in_use_is_told(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mine = taken.getsockname()[1]
        *_, found = link_findings(f"127.0.0.1:{port}", None, None, insecure=False, port=mine)
    assert (found.what, found.good) == ("port", False)
    assert f"port {mine} of this machine cannot be had" in found.words
    assert "--port" in found.words


def test_what_is_no_superlink_is_told(made: Certificates, port: int) -> None:
    """Which says so by not answering as one."""
    assert "does not answer as a SuperLink does" in links(port, made.authority)["server"].words


@pytest.mark.soak
def test_a_superlink_without_tls_is_asked_without(tmp_path: Path) -> None:
    from flower.processes import command, processes

    port = free_port()
    address = f"127.0.0.1:{port}"
    with processes(tmp_path / "p") as made_here:
        words = ("--insecure", "--host", "127.0.0.1", "--port", str(port))
        made_here.start("superlink", command("flower-superlink"), *words)
        made_here.wait_for("superlink", "Uvicorn running")
        found = list(link_findings(address, None, None, insecure=True, port=free_port()))
        assert [(one.what, one.good) for one in found] == [("server", True), ("port", True)]
        assert found[0].words == f"{address} answers, without TLS and keys"
        first, *_ = link_findings(address, None, None, insecure=False, port=free_port())
        assert "speaks no TLS" in first.words


def work(tables: dict[str, Any], config: Any = CONFIG) -> dict[str, Finding]:
    found = list(work_findings(parse_client(tables), config))
    assert [one.what for one in found] == ["data", "model", "memory"]
    return {one.what: one for one in found}


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return client_tables("anybody", tmp_path, rows="all", rank=4)


def test_data_model_and_memory_are_told(tables: dict[str, dict[str, Any]]) -> None:
    found = work(tables)
    assert bad(found) == []
    assert "examples to train on" in found["data"].words
    assert f"fit {CONFIG.data.max_tokens} tokens" in found["data"].words
    assert "tiny on cpu, 3.7 MB in float32, fingerprint " in found["model"].words
    assert found["memory"].words.startswith("rank 4 takes ")


def test_without_the_servers_config_it_is_that_of_a_config_that_says_nothing(
    tables: dict[str, dict[str, Any]],
) -> None:
    del tables["client"]["rank"]
    found = work(tables, None)
    assert "--config: with the federation's" in found["model"].words
    assert "the server may give it any: rank 64 takes" in found["memory"].words


def test_a_rank_that_the_server_gives_is_its_own_or_the_highest_there_is(
    tables: dict[str, dict[str, Any]],
) -> None:
    del tables["client"]["rank"]
    named = networked(clients={"ranks": {"anybody": 3}})
    assert "what the server gives it takes" in work(tables, named)["memory"].words
    mixed = networked(clients={"mix": {"a": 0.5, "b": 0.5}, "types": {"a": 2, "b": 60}})
    assert "type b, which the server may give it, takes" in work(tables, mixed)["memory"].words


def test_too_little_memory_is_told_with_what_the_lowest_rank_takes(
    tables: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables["client"]["rank"] = 64
    monkeypatch.setattr(checking_work, "free_bytes", lambda _: 10**5)
    found = work(tables)
    assert bad(found) == ["memory"]
    assert "rank 64 takes" in found["memory"].words
    assert "rank 1 takes" in found["memory"].words
    assert "model.checkpointing = true" in found["memory"].words


@pytest.mark.parametrize(
    ("changes", "wrong", "told"),
    [
        ({"client": {"rows": "named"}}, ["data", "memory"], "no row of the data is of client"),
        ({"data": {"train_tasks": 0}}, ["data", "memory"], "has no example to train on; give it"),
        ({"client": {"rows": "named", "owners": ["x"]}}, ["data", "memory"], "of client x;"),
        ({"model": {"name": "/nowhere"}}, ["model", "memory"], "/nowhere"),
    ],
)
def test_what_is_wrong_with_data_or_model_is_told_by_itself(
    changes: dict[str, Any], wrong: list[str], told: str, tables: dict[str, dict[str, Any]]
) -> None:
    tables = {name: {**table, **changes.get(name, {})} for name, table in tables.items()}
    found = work(tables)
    assert bad(found) == wrong
    assert told in found[wrong[0]].words


def test_examples_that_do_not_fit_are_of_no_use(tables: dict[str, dict[str, Any]]) -> None:
    found = work(tables, networked(data={**SMALL["data"], **DATA, "max_tokens": 3}))
    assert bad(found) == ["data", "memory"]
    assert "max_tokens is 3" in found["data"].words


def checked(
    flexlora: Flexlora, tables: dict[str, dict[str, Any]], tmp_path: Path, *words: object
) -> Done:
    (tmp_path / "client.toml").write_text(tomli_w.dumps(tables))
    return flexlora("flower", "client", tmp_path / "client.toml", *words)


def test_the_command_tells_all_and_ends_with_2_where_one_is_wrong(
    flexlora: Flexlora,
    tables: dict[str, dict[str, Any]],
    made: Certificates,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [
        *("--superlink", f"127.0.0.1:{port}", "--root-certificates", made.authority, "--check"),
        *("--port", free_port(), "--config", write(CONFIG, tmp_path / "c.toml")),
    ]
    monkeypatch.setattr(knock, "knock", lambda *_: Answer.ANYBODY)
    done = checked(flexlora, tables, tmp_path, *words)
    assert done.code == 0, done
    lines = done.out.splitlines()
    order = ["data", "model", "memory", "certificate", "key", "server", "port"]
    assert [line.split(":")[0] for line in lines] == [f"✓ {what}" for what in order]
    monkeypatch.setattr(knock, "knock", lambda *_: Answer.KEYS_ALONE)
    done = checked(flexlora, tables, tmp_path, *words)
    assert done.code == 2, done
    assert [line for line in done.out.splitlines() if line.startswith("✗")] == [
        f"✗ server: 127.0.0.1:{port} lets in registered keys alone; give this node's with --key"
    ]


def test_a_check_without_tls_is_to_this_machine_alone(
    flexlora: Flexlora, tables: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    words = ("--superlink", "silo.example:80", "--insecure", "--check")
    assert_one_sentence(
        checked(flexlora, tables, tmp_path, *words), "without TLS nothing leaves this machine"
    )
    words = ("--superlink", f"127.0.0.1:{free_port()}", "--insecure", "--check")
    done = checked(flexlora, tables, tmp_path, *words)
    assert done.code == 2
    assert "✗ server: 127.0.0.1" in done.out


def test_a_config_is_for_the_check_alone(
    flexlora: Flexlora, tables: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    words = ("--superlink", "127.0.0.1:1", "--config", "c.toml")
    assert_one_sentence(checked(flexlora, tables, tmp_path, *words), "--config is for --check")
