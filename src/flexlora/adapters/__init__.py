"""Floor 0: what is trained, sent and saved; types, and factors of a spectrum."""

from flexlora.adapters.anatomy import LayerAnatomy as LayerAnatomy
from flexlora.adapters.anatomy import dissect as dissect
from flexlora.adapters.change import change as change
from flexlora.adapters.change import norm_of_update as norm_of_update
from flexlora.adapters.coarse import Wire as Wire
from flexlora.adapters.coarse import wire_of as wire_of
from flexlora.adapters.delta import Delta as Delta
from flexlora.adapters.delta import DeltaUpdate as DeltaUpdate
from flexlora.adapters.delta import Patch as Patch
from flexlora.adapters.factors import Adapter as Adapter
from flexlora.adapters.factors import Factors as Factors
from flexlora.adapters.factors import Sides as Sides
from flexlora.adapters.from_spectrum import best_factors as best_factors
from flexlora.adapters.from_spectrum import checked_split as checked_split
from flexlora.adapters.from_spectrum import factors_of as factors_of
from flexlora.adapters.payload import FORMAT_VERSION as FORMAT_VERSION
from flexlora.adapters.payload import Payload as Payload
from flexlora.adapters.payload import coarse_payload as coarse_payload
from flexlora.adapters.payload import coarse_payload_like as coarse_payload_like
from flexlora.adapters.payload import factors_payload as factors_payload
from flexlora.adapters.payload import payload_adapter as payload_adapter
from flexlora.adapters.ranks import LayerSpec as LayerSpec
from flexlora.adapters.ranks import Ranks as Ranks
from flexlora.adapters.ranks import Scaling as Scaling
from flexlora.adapters.ranks import lora_scale as lora_scale
from flexlora.adapters.ranks import ranks_in_words as ranks_in_words
