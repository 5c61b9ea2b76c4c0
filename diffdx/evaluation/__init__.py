"""What a folder of predictions is worth: every rule, from its stored errors, with intervals."""

from diffdx.evaluation.curves import by_trials as by_trials
from diffdx.evaluation.curves import true_share_by_logsnr as true_share_by_logsnr
from diffdx.evaluation.predictions import StoredPredictions as StoredPredictions
from diffdx.evaluation.predictions import read_predictions as read_predictions
from diffdx.evaluation.rules import RULES as RULES
from diffdx.evaluation.rules import Decisions as Decisions
from diffdx.evaluation.rules import apply_rule as apply_rule
from diffdx.evaluation.summary import evaluate_predictions as evaluate_predictions
