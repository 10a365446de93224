"""The ServerApp: the same loop as in one process, with Flower's grid as its way to the clients."""

from __future__ import annotations

import logging

from flwr.app import Context
from flwr.common.config import get_project_dir
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import http_grid

from flexlora.flower.link import FlowerLink
from flexlora.flower.sooner import pull_sooner

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    from flexlora.flower.playing import play

    pull_sooner(http_grid)
    run = grid.run
    folder = get_project_dir(run.fab_id, run.fab_version, run.fab_hash)
    play(FlowerLink(grid), context.run_config, folder, logging.getLogger("flwr").info)
