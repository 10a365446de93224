"""Floor 4: the one loop, and the session that plays it."""

from flexlora.federation.doors import continue_run as continue_run
from flexlora.federation.doors import resume as resume
from flexlora.federation.doors import run as run
from flexlora.federation.score_model import score_model as score_model
from flexlora.federation.session import Session as Session
from flexlora.federation.setup import Setup as Setup
from flexlora.federation.setup import prepare as prepare
