"""Floor 3: the one loop, its clients, its run directory and its config."""

from flexlora.federation.config import Config as Config
from flexlora.federation.config_file import load_config as load_config
from flexlora.federation.config_file import make_config as make_config
from flexlora.federation.continuing import continue_run as continue_run
from flexlora.federation.readout import load_adapter as load_adapter
from flexlora.federation.results import Result as Result
from flexlora.federation.scoring import score_model as score_model
from flexlora.federation.session import resume as resume
from flexlora.federation.session import run as run
from flexlora.federation.setup import Setup as Setup
from flexlora.federation.setup import prepare as prepare
