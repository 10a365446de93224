"""Floor 0: matrices in factored form, their SVD, and truncation with a certificate."""

from flexlora.lowrank.effective_rank import effective_rank as effective_rank
from flexlora.lowrank.exact import best as best
from flexlora.lowrank.exact import singular_values as singular_values
from flexlora.lowrank.exact import svd as svd
from flexlora.lowrank.lapack import lapack_eigh as lapack_eigh
from flexlora.lowrank.lapack import lapack_svd as lapack_svd
from flexlora.lowrank.lowrank import Dense as Dense
from flexlora.lowrank.lowrank import LowRank as LowRank
from flexlora.lowrank.lowrank import Matrix as Matrix
from flexlora.lowrank.lowrank import accumulation_dtype as accumulation_dtype
from flexlora.lowrank.spectrum import Certificate as Certificate
from flexlora.lowrank.spectrum import Spectrum as Spectrum
from flexlora.lowrank.spectrum import Split as Split
from flexlora.lowrank.spectrum import Truncation as Truncation
from flexlora.lowrank.total import total as total
from flexlora.lowrank.truncate import TOLERANCE as TOLERANCE
from flexlora.lowrank.truncate import choose_path as choose_path
from flexlora.lowrank.truncate import truncate as truncate
