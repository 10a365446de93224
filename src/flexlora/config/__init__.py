"""Floor 3: what a federation is asked to be, and the plain values that maths takes."""

from flexlora.config.config import Config as Config
from flexlora.config.config_file import load_config as load_config
from flexlora.config.config_file import make_config as make_config
