"""Floor 3: a run on disk: what it was, did and left; readable without playing it."""

from flexlora.runs.readout import load_adapter as load_adapter
from flexlora.runs.results import Result as Result
from flexlora.runs.run_directory import Run as Run
from flexlora.runs.standing import Standing as Standing
