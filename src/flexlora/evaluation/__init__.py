"""Floor 2: generation, scores of texts, response loss, and scores by client and category."""

from flexlora.evaluation.evaluate import ClientScore as ClientScore
from flexlora.evaluation.evaluate import EvalClient as EvalClient
from flexlora.evaluation.evaluate import EvalSettings as EvalSettings
from flexlora.evaluation.evaluate import MeanScore as MeanScore
from flexlora.evaluation.evaluate import Prediction as Prediction
from flexlora.evaluation.evaluate import Scores as Scores
from flexlora.evaluation.evaluate import evaluate as evaluate
from flexlora.evaluation.generate import generate as generate
from flexlora.evaluation.loss import response_losses as response_losses
from flexlora.evaluation.scores import exact_match as exact_match
from flexlora.evaluation.scores import rouge_l as rouge_l
