"""Floor 0: matrices in factored form, their exact SVD and truncation."""

from flexlora.lowrank.lowrank import LowRank as LowRank
from flexlora.lowrank.lowrank import accumulation_dtype as accumulation_dtype
from flexlora.lowrank.svd import Spectrum as Spectrum
from flexlora.lowrank.svd import Truncation as Truncation
from flexlora.lowrank.svd import effective_rank as effective_rank
from flexlora.lowrank.svd import svd as svd
