"""Curves of one or several runs with 95% bands: ROC, precision and recall, selective accuracy.

Each function takes labelled predictions by the name of their run and returns a figure. One run with
several classes and no positive one has a curve for each class against the rest.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffdx.evaluation import StoredPredictions
from diffdx.evaluation.bands import Band, precision_recall_band, roc_band, selective_band
from diffdx.metrics import patient_resamples, precision_recall_curve, roc_curve
from diffdx.report.figures import COLOURS, panels, plain
from diffdx.uncertainty import selective_accuracy, vote_entropy

Runs = Mapping[str, StoredPredictions]

RESAMPLES = 200
"""Of the patients, for a band."""
_MOST_BANDS = 3
"""More would hide each other."""


class _Ranking(NamedTuple):
    """One curve: which images are of a class, and how they were ranked and decided."""

    run: StoredPredictions
    name: str
    colour: str
    is_class: Bool[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]
    chosen: Bool[np.ndarray, "n"]
    banded: bool


def roc_figure(runs: Runs) -> Figure:
    """Draw the receiver operating characteristic, with the rule's own decisions as a dot."""
    figure, (axes,) = panels(1, width=3.9, height=3.7)
    axes.plot([0, 1], [0, 1], color="0.7", lw=1, ls=":")
    for one in _rankings(runs):
        is_class, colour = one.is_class, one.colour
        axes.plot(*roc_curve(is_class, one.score), color=colour, label=plain(one.name))
        dot = one.chosen[~is_class].mean(), one.chosen[is_class].mean()
        axes.plot(*dot, "o", color=colour, ms=5)
        if one.banded:
            _shade(axes, roc_band(is_class, one.score, _resamples(one.run)), colour)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    _legend(axes, "lower right")
    return figure


def precision_recall_figure(runs: Runs) -> Figure:
    """Draw precision against recall; dotted: the share of the class, which chance reaches."""
    figure, (axes,) = panels(1, width=3.9, height=3.7)
    for one in _rankings(runs):
        is_class, colour = one.is_class, one.colour
        curve = precision_recall_curve(is_class, one.score)
        axes.plot(*curve, color=colour, label=plain(one.name), drawstyle="steps-post")
        if one.chosen.any():
            dot = one.chosen[is_class].mean(), is_class[one.chosen].mean()
            axes.plot(*dot, "o", color=colour, ms=5)
        axes.axhline(is_class.mean(), color=colour, lw=1, ls=":")
        if one.banded:
            _shade(axes, precision_recall_band(is_class, one.score, _resamples(one.run)), colour)
    axes.set(
        xlabel="recall: share of the class that is found",
        ylabel="precision: share of those found",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    _legend(axes, "lower left")
    return figure


def selective_figure(runs: Runs) -> Figure:
    """Draw accuracy against the share of images answered, the surest first (paper Fig. 3, 8).

    By the entropy of the votes or softmax; of a single calibrated run also by its probability.
    """
    figure, (axes,) = panels(1)
    curves: list[tuple[str, StoredPredictions, Bool[np.ndarray, n], Float[np.ndarray, n]]] = []
    for name, run in runs.items():
        label = name if len(runs) > 1 else "by entropy"
        curves.append((label, run, run.own.y_hat == run.labels, vote_entropy(run.shares)))
        if len(runs) == 1 and run.calibration is not None:
            prob = run.probabilities
            right = prob.argmax(axis=1) == run.labels
            curves.append(("by calibrated probability", run, right, 1 - prob.max(axis=1)))
    for (name, run, right, uncertainty), colour in zip(curves, COLOURS, strict=False):
        curve = selective_accuracy(right, uncertainty)
        # The last few images are too few for an accuracy; their swings would set the scale.
        shown = curve.removed <= 1 - min(1.0, 10 / len(right))
        axes.plot(1 - curve.removed[shown], curve.accuracy[shown], color=colour, label=plain(name))
        if len(curves) <= _MOST_BANDS:
            _shade(axes, selective_band(right, uncertainty, _resamples(run)), colour)
    axes.set(xlabel="share of images answered, surest first", ylabel="accuracy among them")
    axes.set_xlim(0, 1.02)
    _legend(axes, "lower left", least=1)
    return figure


def _rankings(runs: Runs) -> Iterator[_Ranking]:
    """Yield the curves to draw.

    With several runs and no positive class, none: a curve for each class of each would be many.
    """
    curves: list[tuple[str, StoredPredictions, int]] = []
    for name, run in runs.items():
        if run.positive is not None:
            curves.append((name, run, run.positive))
        elif len(runs) == 1:
            curves += [(label, run, k) for k, label in enumerate(run.classes)]
    banded = len(curves) <= _MOST_BANDS
    for i, (name, run, k) in enumerate(curves):
        is_class, made = run.labels == k, run.own
        if is_class.any() and not is_class.all():
            colour, score = COLOURS[i % len(COLOURS)], made.scores[:, k]
            yield _Ranking(run, name, colour, is_class, score, made.y_hat == k, banded)


def _resamples(run: StoredPredictions) -> Float[np.ndarray, "resamples n"]:
    return patient_resamples(run.patients, n_resamples=RESAMPLES)


def _shade(axes: Axes, band: Band, colour: str) -> None:
    axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.18, lw=0)


def _legend(axes: Axes, place: Literal["lower left", "lower right"], *, least: int = 2) -> None:
    """Name the curves where there are several."""
    if len(axes.get_legend_handles_labels()[1]) >= least:
        axes.legend(frameon=False, loc=place)
