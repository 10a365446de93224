"""Floor 2: metrics, generation, losses, and scores by client and category."""

from flexlora.evaluation.aggregate import ClientScore as ClientScore
from flexlora.evaluation.aggregate import MeanScore as MeanScore
from flexlora.evaluation.aggregate import Prediction as Prediction
from flexlora.evaluation.aggregate import Scores as Scores
from flexlora.evaluation.each import evaluate_each as evaluate_each
from flexlora.evaluation.evaluate import EvalClient as EvalClient
from flexlora.evaluation.evaluate import EvalSettings as EvalSettings
from flexlora.evaluation.evaluate import evaluate as evaluate
from flexlora.evaluation.evaluate import require_scorable as require_scorable
from flexlora.evaluation.generate import generate as generate
from flexlora.evaluation.loss import continuation_losses as continuation_losses
from flexlora.evaluation.loss import response_losses as response_losses
from flexlora.evaluation.metrics import METRICS as METRICS
from flexlora.evaluation.metrics import Metric as Metric
from flexlora.evaluation.metrics import get_metric as get_metric
from flexlora.evaluation.metrics import register_metric as register_metric
from flexlora.evaluation.metrics import text_metric as text_metric
from flexlora.evaluation.scores import exact_match as exact_match
from flexlora.evaluation.scores import rouge_l as rouge_l
