"""Floor 2: adapters of different ranks become one, without a federation."""

from flexlora.merging.merge import merge as merge
from flexlora.merging.merged import Merged as Merged
from flexlora.merging.merged import MergedLayer as MergedLayer
