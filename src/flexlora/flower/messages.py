"""Begins the process of each message of a node, as Flower's SuperExec does, by forking.

`python -m flexlora.flower.messages ADDRESS PID`: of the node's own API, and of the node. What such
a process needs is loaded once, here, so that it begins in hundredths of a second; as a program of
its own it takes two seconds of CPU. This process has no threads, which is what makes that safe. It
reads from its input the secret by which the node knows it: nobody else on the machine gets any.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

# What a node gives to those alone that know its secret.
_SIGNED = {"/flwr.proto.Runtime/AcquireTask"}
_MOST = 1.0  # Seconds between two looks, as Flower's own has them.


def main() -> None:
    """As long as the node is there."""
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import (
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supernode.runtime import run_clientapp

    import flexlora.flower.client_app  # noqa: F401 - for the children
    from flexlora.flower.begun import end_with_parent
    from flexlora.flower.sooner import pause, pull_sooner

    address, node = sys.argv[1], int(sys.argv[2])
    end_with_parent()
    pull_sooner(run_clientapp)
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=sys.stdin.buffer.read(), protected_methods=_SIGNED
            ),
        ],
    )
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    since = time.monotonic()
    while os.getppid() == node:
        with suppress(ChildProcessError):  # There is none.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        token = ""
        with suppress(httpx.TransportError):  # The node does not listen yet.
            token = client.AcquireTask(wanted).token
        if token:
            since = time.monotonic()
            if os.fork() == 0:
                run_clientapp.run_clientapp(address, token, insecure=True, parent_pid=os.getppid())
                return
        time.sleep(pause(time.monotonic() - since, _MOST))


if __name__ == "__main__":
    main()
