"""What a folder of predictions is worth: every rule, from its stored errors, with intervals."""

from diffdx.evaluation.comparison import compare_predictions as compare_predictions
from diffdx.evaluation.curves import TrialCurve as TrialCurve
from diffdx.evaluation.curves import by_trials as by_trials
from diffdx.evaluation.curves import curve_by_trials as curve_by_trials
from diffdx.evaluation.curves import true_share_by_logsnr as true_share_by_logsnr
from diffdx.evaluation.predictions import StoredPredictions as StoredPredictions
from diffdx.evaluation.predictions import read_predictions as read_predictions
from diffdx.evaluation.summary import evaluate_predictions as evaluate_predictions
