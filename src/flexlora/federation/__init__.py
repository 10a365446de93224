"""Floor 4: the one loop, and the session that plays it."""

from flexlora.federation.score_model import score_model as score_model
from flexlora.federation.session import Session as Session
from flexlora.federation.session import continue_run as continue_run
from flexlora.federation.session import resume as resume
from flexlora.federation.session import run as run
from flexlora.federation.setup import Setup as Setup
from flexlora.federation.setup import prepare as prepare
