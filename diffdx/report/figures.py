"""Figures of one predictions folder. Each function draws one, from stored errors, and returns it.

Figures carry no statistics in words: those stand in the tables, which quote `summary.json`.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffdx.evaluation import StoredPredictions, by_trials, true_share_by_logsnr
from diffdx.evaluation.predictions import BASELINE
from diffdx.metrics import roc_curve
from diffdx.uncertainty import selective_accuracy, vote_entropy

# Okabe and Ito's palette: told apart under the common colour-vision deficiencies and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_RULE_NAMES = {
    "vote": "vote",
    "mean_v": "mean, v error",
    "mean_eps": "mean, eps error",
    "mean_x": "mean, x error",
    "weighted": "weighted by log-SNR",
    "softmax": "softmax",
}


def roc_figure(stored: StoredPredictions) -> Figure:
    """Draw the receiver operating characteristic of each rule, with its own decision as a dot.

    With more than two classes and no positive one: one curve per class against the rest, by the
    run's own rule.
    """
    figure, (axes,) = panels(1, width=4.6, height=4.4)
    y = stored.labels
    if stored.positive is None:
        curves = [(stored.rule, k, name) for k, name in enumerate(stored.classes)]
    else:
        curves = [
            (rule, stored.positive, _RULE_NAMES[rule]) for rule in stored.rules or [stored.rule]
        ]
    for (rule, k, name), colour in zip(curves, _cycle(len(curves)), strict=True):
        made = stored.decide(rule)
        fpr, tpr = roc_curve(y == k, made.scores[:, k])
        axes.plot(fpr, tpr, color=colour, label=plain(name), lw=1.8)
        axes.plot(
            np.mean(made.y_hat[y != k] == k),
            np.mean(made.y_hat[y == k] == k),
            "o",
            color=colour,
            ms=6,
        )
    axes.plot([0, 1], [0, 1], color="0.7", lw=1, ls=":")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.legend(frameon=False, loc="lower right")
    return figure


def share_figure(stored: StoredPredictions) -> Figure:
    """Draw each class's images over the share (of the positive class, else their own).

    The share of the votes, or of a baseline's softmax.
    """
    figure, (axes,) = panels(1)
    share = stored.shares
    for k, colour in enumerate(_cycle(len(stored.classes))):
        shown = share[stored.labels == k, k if stored.positive is None else stored.positive]
        axes.hist(
            shown,
            bins=25,
            range=(0, 1),
            color=colour,
            alpha=0.55,
            label=plain(f"labelled {stored.classes[k]}"),
        )
    of = "the labelled class" if stored.positive is None else stored.classes[stored.positive]
    axes.set(xlabel=plain(f"{_share_name(stored)} of {of}"), ylabel="images")
    axes.legend(frameon=False)
    return figure


def trials_figure(stored: StoredPredictions) -> Figure:
    """Draw accuracy and AUROC against trials, by vote and by mean v error (paper Fig. 2)."""
    figure, (left, right) = panels(2)
    for rule, colour in zip(("vote", "mean_v"), COLOURS, strict=False):
        counts, accuracies, areas = by_trials(stored, rule)
        left.semilogx(counts, accuracies, color=colour, marker=".", label=_RULE_NAMES[rule])
        right.semilogx(counts, areas, color=colour, marker=".", label=_RULE_NAMES[rule])
    left.set(xlabel="trials per image", ylabel="accuracy")
    right.set(xlabel="trials per image", ylabel="AUROC")
    left.legend(frameon=False)
    return figure


def uncertainty_figure(stored: StoredPredictions) -> Figure:
    """Draw accuracy as uncertain images are taken out (paper Fig. 3, 8), and entropies (Fig. 9).

    By the entropy of the vote or softmax; and, where images have probabilities, by the largest of
    them.
    """
    figure, (left, right) = panels(2)
    correct = stored.own.y_hat == stored.labels
    entropy = vote_entropy(stored.shares)
    of = f"entropy of the {_share_name(stored)}"
    orders = {f"{_RULE_NAMES[stored.rule]}, by the {of}": (correct, entropy)}
    if stored.calibration is not None:
        prob = stored.probabilities
        orders["calibrated probability"] = (
            prob.argmax(axis=1) == stored.labels,
            1 - prob.max(axis=1),
        )
    for (name, order), colour in zip(orders.items(), COLOURS, strict=False):
        curve = selective_accuracy(*order)
        # The last few images are too few for an accuracy; their swings would set the scale.
        shown = curve.removed <= 1 - min(1.0, 10 / len(correct))
        left.plot(curve.removed[shown], curve.accuracy[shown], color=colour, label=name)
    left.set(xlabel="fraction filtered out, most uncertain first", ylabel="accuracy of the rest")
    left.legend(frameon=False)
    right.boxplot([entropy[correct], entropy[~correct]], tick_labels=["right", "wrong"], widths=0.5)
    right.set(ylabel=f"{of} (bits)")
    return figure


def logsnr_figure(stored: StoredPredictions) -> Figure:
    """Draw the share of right votes against log-SNR: which noise level tells the classes apart."""
    figure, (axes,) = panels(1)
    centres, shares = true_share_by_logsnr(stored)
    for k, colour in enumerate(_cycle(len(stored.classes))):
        axes.plot(
            centres,
            shares[k],
            color=colour,
            marker=".",
            label=plain(f"labelled {stored.classes[k]}"),
        )
    axes.axhline(1 / len(stored.classes), color="0.7", lw=1, ls=":")
    axes.set(
        xlabel="log-SNR of the trial (nats): noisy to clean",
        ylabel="share of right votes",
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False)
    return figure


def _share_name(stored: StoredPredictions) -> str:
    return "softmax" if stored.kind == BASELINE else "vote share"


def panels(count: int, *, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Return a figure outside pyplot, so that drawing leaves no global state, and its panels.

    Args:
        count: Panels side by side.
        width: Of a panel, in inches.
        height: In inches.
    """
    figure = Figure(figsize=(width * count, height), layout="constrained")
    columns = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axes in columns:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, columns


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def plain(text: str) -> str:
    """Return a text whose $ is no mathematics: an unbalanced one would end the drawing."""
    return text.replace("$", r"\$")
