"""Tables, figures and the HTML page, from result files alone: no network, no torch."""

from diffdx.report.cases import make_cases as make_cases
from diffdx.report.explanation_figures import Counterfactual as Counterfactual
from diffdx.report.facts import gather_facts as gather_facts
from diffdx.report.html import write_report as write_report
