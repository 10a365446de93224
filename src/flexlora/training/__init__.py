"""Floor 2: local training of one client."""

from flexlora.training.batches import Batch as Batch
from flexlora.training.batches import collate as collate
from flexlora.training.batches import plan as plan
from flexlora.training.local import Trained as Trained
from flexlora.training.local import train as train
from flexlora.training.recipe import Recipe as Recipe
