"""When an image is decided before its last trial, and at what risk: numpy only."""

from diffdx.classification.stopping.elimination import Elimination as Elimination
from diffdx.classification.stopping.interval import share_interval as share_interval
from diffdx.classification.stopping.interval import share_sequence as share_sequence
from diffdx.classification.stopping.means import clipping_bound as clipping_bound
from diffdx.classification.stopping.means import difference_bound as difference_bound
from diffdx.classification.stopping.means import log_capital as log_capital
from diffdx.classification.stopping.means import space_costs as space_costs
from diffdx.classification.stopping.parse import stopping_rule as stopping_rule
from diffdx.classification.stopping.rule import StoppingRule as StoppingRule
from diffdx.classification.stopping.rule import truncated as truncated
