"""How sure a prediction is, from stored votes and errors alone: no network is ever called."""

from diffdx.uncertainty.conformal import ConformalSets as ConformalSets
from diffdx.uncertainty.conformal import fit_conformal as fit_conformal
from diffdx.uncertainty.entropy import margin_variance as margin_variance
from diffdx.uncertainty.entropy import share_interval as share_interval
from diffdx.uncertainty.entropy import vote_entropy as vote_entropy
from diffdx.uncertainty.entropy import vote_margin as vote_margin
from diffdx.uncertainty.out_of_distribution import OutOfDistributionGate as OutOfDistributionGate
from diffdx.uncertainty.out_of_distribution import fit_gate as fit_gate
from diffdx.uncertainty.selective import SelectiveAccuracy as SelectiveAccuracy
from diffdx.uncertainty.selective import selective_accuracy as selective_accuracy
from diffdx.uncertainty.selective import selective_summary as selective_summary
from diffdx.uncertainty.triage import Triage as Triage
from diffdx.uncertainty.triage import fit_triage as fit_triage
