"""Flower's node as a client runs it: `python -m flexlora.flower.node`, with the words of
`flower-supernode`.

Flower 1.41 has a node sleep 3 seconds whenever nothing waits for it, and begin a program that loads
all of Flower for each message. Here it looks sooner where something is about to come, and the
processes of its messages are begun by `flexlora.flower.messages`, to which alone it gives them:
both know a secret of this start, which is in no file and no environment.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys

_HOST = "127.0.0.1"  # On which a node listens for its messages' processes.


def main() -> None:
    """Until it is stopped, or nothing begins its messages' processes any more."""
    from flwr.supernode import start_client_internal as loop
    from flwr.supernode.cli import flower_supernode

    from flexlora.flower.sooner import Waits, pull_sooner

    port = sys.argv[sys.argv.index("--port") + 1]
    words = ["-m", "flexlora.flower.messages", f"{_HOST}:{port}", str(os.getpid())]
    secret = secrets.token_bytes(32)
    given = _read_once(secret)
    messages = subprocess.Popen([sys.executable, *words], stdin=given)
    os.close(given)

    def alive() -> None:
        if messages.poll() is not None:
            signal.raise_signal(signal.SIGTERM)

    vars(loop)["time"] = Waits(alive)
    pull_sooner(loop)
    file = f"/dev/fd/{_read_once(secret)}"
    sys.argv += ["--isolation", "process", "--superexec-auth-secret-file", file]
    flower_supernode()


def _read_once(secret: bytes) -> int:
    """A descriptor out of which it comes, and then nothing more."""
    given, giving = os.pipe()
    os.write(giving, secret)
    os.close(giving)
    return given


if __name__ == "__main__":
    main()
