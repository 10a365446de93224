"""A proxy before a SuperLink that passes on what nodes ask and nothing else, as in DEPLOY.md."""

from __future__ import annotations

import http.client
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flexlora.flower import begun
from flexlora.flower.begun import free_port
from flexlora.flower.keys import Certificates

PAGE = Path(begun.__file__).with_name("DEPLOY.md")

_OWN = ("connection", "host", "content-length", "transfer-encoding", "date", "server")


@contextmanager
def proxy(certificates: Certificates, superlink: int) -> Iterator[int]:
    """Its port."""
    unasked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unasked.check_hostname, unasked.verify_mode = False, ssl.CERT_NONE

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if not self.path.startswith("/v1/fleet/"):
                self._answer(403, {}, b"")
                return
            to = http.client.HTTPSConnection("127.0.0.1", superlink, timeout=300, context=unasked)
            try:
                to.request("POST", self.path, body, _passed(dict(self.headers)))
                found = to.getresponse()
                self._answer(found.status, _passed(dict(found.headers)), found.read())
            finally:
                to.close()

        do_GET = do_POST

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


@contextmanager
def nginx(folder: Path, certificates: Certificates, superlink: int) -> Iterator[int]:
    """The same as nginx does it, by the lines of DEPLOY.md as they stand, but for the ports."""
    port = free_port()
    lines = PAGE.read_text().partition("```nginx\n")[2].partition("```")[0]
    assert "client_max_body_size" in lines
    lines = lines.replace("@PORT@", str(superlink)).replace("listen 8443", f"listen {port}")
    (folder / "certs").mkdir(parents=True)
    shutil.copy(certificates.server, folder / "certs" / "server.pem")
    shutil.copy(certificates.key, folder / "certs" / "server.key")
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{place}_temp_path {folder / place};" for place in places)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;"
        f"user root; events {{}} http {{ access_log off; {paths}\n{lines}\n}}\n"
    )
    words = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else b""
        time.sleep(0.05)
    raise AssertionError("nginx did not come up")


def _passed(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OWN}
