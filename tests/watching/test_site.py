"""The server as anybody may ask it: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import re
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexlora.runs.run_directory import Run
from flexlora.watching import serve
from flexlora.watching.site import FILES
from watching.played import Played
from watching.serving import Serving, serving

TOKEN = "a-token-that-nobody-guesses"
SECRET = "not for everybody"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("site")
    (folder / "secret.txt").write_text(SECRET)
    played = Played(folder / "runs" / "first")
    played.start()
    played.whole_round(1)
    (played.run.folder / "own.txt").write_text(SECRET)
    Played(folder / "runs" / "second")
    return played


@pytest.fixture(scope="module")
def server(played: Played) -> Iterator[Serving]:
    with serving(played.run.folder.parent) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(played: Played) -> Iterator[Serving]:
    with serving(played.run.folder, token=TOKEN) as made:
        yield made


def test_the_page_and_all_its_files(server: Serving) -> None:
    page = server.ask("/")
    assert page.status == 200
    loaded = re.findall(r'(?:href|src)="(/[^"]+)"', page.text)
    imported = [
        name
        for file in FILES
        for name in re.findall(r'from "(/[^"]+)"', server.ask(f"/files/{file}").text)
    ]
    assert {path.removeprefix("/files/") for path in [*loaded, *imported]} == set(FILES)
    for name, (_, kind) in FILES.items():
        answer = server.ask(f"/files/{name}")
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    assert "http:" not in page.text + "".join(
        server.ask(f"/files/{x}").text for x in FILES
    ).replace("http://www.w3.org/2000/svg", "")
    assert server.ask("/run/second").text == page.text


def test_one_run_alone_is_the_first_page(played: Played) -> None:
    with serving(played.run.folder) as made:
        answer = made.ask("/")
        assert (answer.status, answer.headers["location"]) == (303, "/run/first")


@pytest.mark.parametrize(
    "path",
    [
        "/run/none",
        "/run/none/stream",
        "/run/none/report",
        "/comparison/none/report",
        "/secret.txt",
        "/files/../site.py",
        "/files/..%2fsite.py",
        "/files/site.py",
        "/files/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "/run/..",
        "/run/../secret.txt",
        "/run/first/../../secret.txt",
        "/run/first%2f..%2f..%2fsecret.txt",
        "/run/first/own.txt",
        "/run/first/..%5c..%5csecret.txt/report",
        "/run/{folder}/report",
        "/run/{quoted}/report",
        "//etc/passwd",
        "/run/first%00/report",
        "/run/.",
        "/run/first/",
        "/run/%ff",
    ],
)
def test_no_path_leaves_what_was_given(server: Serving, played: Played, path: str) -> None:
    folder = str(played.run.folder)
    asked = path.format(folder=folder, quoted=urllib.parse.quote(folder, safe=""))
    answer = server.ask(asked)
    assert answer.status == 404, asked
    assert SECRET not in answer.text
    assert len(answer.text) < 100


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
def test_nothing_but_get_is_answered(server: Serving, method: str) -> None:
    for path in ("/", "/stream", "/run/first/report", "/none"):
        answer = server.ask(path, method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:8710", 200),
        ("192.168.1.7:8710", 200),  # No name leads there: who wrote it knows the address.
        ("evil.example", 421),
        ("evil.example:8710", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("localhost:8710:1", 421),
        ("localhost:x", 421),
        ("", 421),
        ("0x7f000001", 421),
    ],
)
def test_a_foreign_name_for_this_server_is_refused(server: Serving, host: str, status: int) -> None:
    assert server.ask("/", Host=host).status == status
    assert server.ask("/stream", Host=host).status == status if status != 200 else True


def test_every_answer_has_the_headers(server: Serving) -> None:
    asked = (("/", "GET"), ("/none", "GET"), ("/", "POST"), ("/files/main.js", "GET"))
    for path, method in asked:
        headers = server.ask(path, method).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe-inline" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in headers)
        assert "server" not in headers


@pytest.mark.parametrize("path", ["/", "/run/first", "/run/first/stream", "/files/main.js", "/x"])
def test_without_the_token_nothing_is_told(guarded: Serving, path: str) -> None:
    wrong = f"flexlora_watch_{guarded.port}={TOKEN[:-1]}"
    for headers in ({}, {"Cookie": wrong}, {"Cookie": "flexlora_watch_1=" + TOKEN}):
        answer = guarded.ask(path, **headers)
        assert answer.status == 401
        assert "open the address that flexlora watch printed" in answer.text
    assert guarded.ask(f"{path}?token={TOKEN}x").status == 401
    assert guarded.ask(f"{path}?token=%c3%a9").status == 401
    assert guarded.ask(f"{path}?token=").status == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(guarded: Serving) -> None:
    answer = guarded.ask(f"/run/first?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/run/first")
    cookie = answer.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=lax" in cookie.lower()
    kept = cookie.partition(";")[0]
    assert guarded.ask("/run/first", Cookie=kept).status == 200
    assert guarded.ask("/run/first", "POST", Cookie=kept).status == 405
    assert guarded.ask("/run/first", Cookie=kept, Host="evil.example").status == 421


@pytest.mark.parametrize(
    "path", ["//evil.example/x", "/\\evil.example", "/%5cevil.example", "/%0d"]
)
def test_the_token_leads_to_no_other_server(guarded: Serving, path: str) -> None:
    answer = guarded.ask(f"{path}?token={TOKEN}")
    assert answer.status == 303
    assert re.fullmatch(r"/[^/\\\r\n].*|/", answer.headers["location"]), answer.headers["location"]


def test_the_stream_tells_what_comes_and_goes_on_where_it_was(played: Played) -> None:
    with serving(played.run.folder.parent) as made:
        with made.listening("/run/first/stream") as events:
            _, messages = next(events)
            assert [m.get("slug", "layout") for m in messages] == ["layout", "first"]
            played.begin(2)
            last, messages = next(events)
            assert messages[0]["begun"]["round"] == 2
        played.reply(2, played.clients[:1])
        with made.listening("/run/first/stream", **{"Last-Event-ID": last}) as events:
            _, messages = next(events)
            assert "whole" not in messages[0]
            assert len(messages[0]["answers"]) == 1
        with made.listening(f"/run/first/stream?after={last}") as events:
            assert "whole" not in next(events)[1][0]
    with (
        serving(played.run.folder.parent) as other,
        other.listening("/run/first/stream", **{"Last-Event-ID": last}) as events,
    ):
        assert next(events)[1][1]["whole"]  # Another server: all of it again.


def test_nobody_looks_and_nothing_is_read(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def looked(_: object) -> bool:
        looks.append(1)
        return False

    with serving(played.run.folder.parent) as made:
        monkeypatch.setattr("flexlora.watching.board.Board.look", looked)
        assert made.ask("/").status == 200
        assert looks == []
        with made.listening("/stream") as events:
            next(events)
        assert looks


def test_the_server_ends_while_a_page_listens(played: Played) -> None:
    made = Serving([played.run.folder])
    with made.listening("/stream") as events:
        next(events)
        made.close()
        with pytest.raises((StopIteration, http.client.HTTPException)):
            next(events)


def test_the_report_of_a_run_is_made_and_kept_nowhere(server: Serving, played: Played) -> None:
    before = sorted(played.run.folder.rglob("*"))
    answer = server.ask("/run/first/report")
    assert answer.status == 200
    assert "Validation loss by round" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    assert sorted(played.run.folder.rglob("*")) == before


def test_a_report_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    damaged = Played(tmp_path / "r").run.folder
    with serving(damaged) as made:
        (damaged / "metrics.jsonl").write_text("{}\n")
        answer = made.ask("/run/r/report")
        assert answer.status == 409
        assert answer.text.startswith("No report: ")
        assert "metrics.jsonl, line 1 is damaged" in answer.text
        assert answer.headers["content-type"].startswith("text/plain")
    assert Run.open(damaged)


def test_a_long_question_is_refused_at_the_door(guarded: Serving) -> None:
    answer = guarded.ask("/?" + "&".join(f"a{i}=0" for i in range(30)))
    assert answer.status == 400
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(("mode", "status"), [("no-cors", 403), ("cors", 403), ("navigate", 200)])
def test_a_page_of_somebody_else_leads_here_and_fetches_nothing(
    server: Serving, mode: str, status: int
) -> None:
    asks = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}
    assert server.ask("/run/first/report", **asks).status == status


def test_who_asks_nothing_keeps_nobody_out(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_ASKING", 0.3)
    with serving(played.run.folder) as server:
        here = ("127.0.0.1", server.port)
        idle = [socket.create_connection(here, 20) for _ in range(serve._AT_ONCE + 5)]
        idle[0].sendall(b"GET / HTTP/1.1\r\nHost:")  # Never the rest.
        for connection in idle:
            connection.settimeout(20)
            assert connection.recv(100) == b""
            connection.close()
        assert server.ask("/run/first").status == 200
