"""Floor 2: local training, one client or many at once."""

from flexlora.training.batches import Batch as Batch
from flexlora.training.batches import collate as collate
from flexlora.training.batches import plan as plan
from flexlora.training.cohort import train as train
from flexlora.training.cohort import train_cohort as train_cohort
from flexlora.training.cohort_size import CohortSize as CohortSize
from flexlora.training.cohort_size import choose_cohort_size as choose_cohort_size
from flexlora.training.recipe import Recipe as Recipe
from flexlora.training.sharing import Load as Load
from flexlora.training.sharing import clients_that_share as clients_that_share
from flexlora.training.sparse import TrainedWeights as TrainedWeights
from flexlora.training.sparse import train_weights as train_weights
from flexlora.training.visit import Lesson as Lesson
from flexlora.training.visit import Trained as Trained
from flexlora.training.visit import Visit as Visit
