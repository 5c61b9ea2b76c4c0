"""Scores of a classifier against known labels, with intervals by patient: numpy only."""

from diffdx.metrics.bootstrap import Interval as Interval
from diffdx.metrics.bootstrap import bootstrap_by_patient as bootstrap_by_patient
from diffdx.metrics.bootstrap import patient_resamples as patient_resamples
from diffdx.metrics.decisions import accuracy as accuracy
from diffdx.metrics.decisions import balanced_accuracy as balanced_accuracy
from diffdx.metrics.decisions import class_recalls as class_recalls
from diffdx.metrics.decisions import confusion_matrix as confusion_matrix
from diffdx.metrics.decisions import f1 as f1
from diffdx.metrics.paired import delong as delong
from diffdx.metrics.paired import mcnemar as mcnemar
from diffdx.metrics.ranking import auroc as auroc
from diffdx.metrics.ranking import precision_recall_curve as precision_recall_curve
from diffdx.metrics.ranking import roc_curve as roc_curve
