"""Floor 2: base models, the LoRA layer, and the adapted model that carries Δ and adapters."""

from flexlora.models.adapted import AdaptedModel as AdaptedModel
from flexlora.models.base import BaseModel as BaseModel
from flexlora.models.base import load_model as load_model
from flexlora.models.base import model_fingerprint as model_fingerprint
from flexlora.models.device import devices as devices
from flexlora.models.device import find_device as find_device
from flexlora.models.lora import LoRALinear as LoRALinear
from flexlora.models.made_for import base_fingerprint as base_fingerprint
from flexlora.models.made_for import require_made_for as require_made_for
from flexlora.models.merged import save_merged as save_merged
