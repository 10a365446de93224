"""The trainer as a process of its own: python -m flexlora.flower.trainer_process CLIENT.toml"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from flexlora.errors import FlexLoRAError
from flexlora.flower.local import listening, private_folder, serve

READY = "trainer is ready at"


def run(path: Path | str) -> None:
    """Serve the client of this file until a signal ends it. Raises ConfigError as `load_client`
    and `private_folder` do, and RunError where another trainer has the folder."""
    from flexlora.flower.client_file import load_client
    from flexlora.flower.trainer import Trainer
    from flexlora.runs.lock import locked

    client = load_client(path)
    folder = private_folder(client.client.folder)
    with locked(folder):
        trainer = Trainer(client, folder)
        with listening(folder) as listener:
            print(f"{READY} {folder}", flush=True)
            serve(listener, trainer.answer)


def main() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _leave)
    try:
        run(sys.argv[1])
    except FlexLoRAError as error:
        sys.stderr.write(f"flexlora: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
