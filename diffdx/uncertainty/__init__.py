"""How sure a prediction is, from stored votes and errors alone: no network is ever called."""

from diffdx.uncertainty.entropy import SelectiveAccuracy as SelectiveAccuracy
from diffdx.uncertainty.entropy import selective_accuracy as selective_accuracy
from diffdx.uncertainty.entropy import share_interval as share_interval
from diffdx.uncertainty.entropy import vote_entropy as vote_entropy
from diffdx.uncertainty.entropy import vote_margin as vote_margin
