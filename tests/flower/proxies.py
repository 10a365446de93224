"""A proxy before a SuperLink that passes on what nodes ask and nothing else, as in DEPLOY.md."""

from __future__ import annotations

import http.client
import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flexlora.flower.keys import Certificates

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


def _passed(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OWN}
