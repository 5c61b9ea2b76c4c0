"""Tables, figures and the HTML page, from result files alone: no network, no torch."""

from diffdx.report.explanation_figures import Counterfactual as Counterfactual
from diffdx.report.gallery import pick_gallery as pick_gallery
from diffdx.report.html import write_report as write_report
