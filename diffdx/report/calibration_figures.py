"""Figures of calibrated predictions: what probabilities, triage and the gate are worth.

Each function draws one from labelled predictions that have the columns of `diffdx calibrate`.
"""

import numpy as np
from matplotlib.figure import Figure

from diffdx.evaluation import StoredPredictions
from diffdx.report.figures import COLOURS, panels, plain
from diffdx.uncertainty.reliability import claim, decision_curve, reliability

_P_VALUE_BINS = 20


def reliability_figure(stored: StoredPredictions) -> Figure:
    """Draw how often the claimed class is true against its probability, over the probabilities.

    The claim is the positive class, or the likeliest one if there is no positive class.
    """
    figure, (axes,) = panels(1, height=3.6)
    target = claim(stored.probabilities, stored.labels, stored.positive)
    behind = axes.twinx()
    behind.hist(target[0], bins=20, range=(0, 1), color="0.7", alpha=0.35)
    behind.set_axis_off()
    # Twins are drawn in this order, and the upper one hides nothing.
    axes.set_zorder(behind.get_zorder() + 1)
    axes.set_frame_on(True)
    axes.patch.set_visible(False)
    points = reliability(target)
    axes.plot([0, 1], [0, 1], color="0.5", lw=1, ls=":")
    axes.plot(points.claimed, points.observed, color=COLOURS[0], marker="o", ms=4)
    name = "the likeliest class" if stored.positive is None else stored.classes[stored.positive]
    axes.set(xlabel=plain(f"probability of {name}"), ylabel="share that is")
    return figure


def decision_figure(stored: StoredPredictions) -> Figure:
    """Draw the net benefit of acting on the probability of the positive class, at each threshold.

    Between acting on every image and on none.
    """
    figure, (axes,) = panels(1)
    curve = decision_curve(claim(stored.probabilities, stored.labels, stored.positive))
    axes.plot(curve.threshold, curve.net_benefit, color=COLOURS[0], label="by probability")
    axes.plot(curve.threshold, curve.treat_all, color=COLOURS[1], label="every image")
    axes.axhline(0, color="0.5", lw=1, label="none")
    top = float(curve.net_benefit.max())
    axes.set(
        xlabel="probability from which one would act",
        ylabel="net benefit per image",
        ylim=(-0.2 * top - 0.01, 1.1 * top + 0.01),
    )
    axes.legend(frameon=False, loc="center left")
    return figure


def gate_figure(stored: StoredPredictions) -> Figure:
    """Draw the p values of the out-of-distribution gate, which are uniform for usual images."""
    figure, (axes,) = panels(1)
    p = stored.table["ood_p_value"].to_numpy(dtype=np.float64)
    axes.hist(p, bins=_P_VALUE_BINS, range=(0, 1), color=COLOURS[0], alpha=0.7)
    axes.axhline(len(p) / _P_VALUE_BINS, color="0.5", lw=1, ls=":", label="if all are usual")
    if stored.calibration is not None and stored.calibration.gate is not None:
        limit = stored.calibration.gate.false_alarm
        axes.axvline(limit, color=COLOURS[1], lw=1.2, label="flagged to the left")
    axes.set(xlabel="share of calibration images at least as unusual", ylabel="images")
    axes.margins(y=0.3)  # room for the names
    axes.legend(frameon=False, loc="upper right")
    return figure
