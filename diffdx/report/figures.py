"""Figures of one predictions folder. Each function draws one, from stored errors, and returns it.

Figures carry no statistics in words: those stand in the tables, which quote `summary.json`.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffdx.evaluation import StoredPredictions, by_trials, true_share_by_logsnr
from diffdx.evaluation.predictions import BASELINE
from diffdx.uncertainty import vote_entropy

# Okabe and Ito's palette: told apart under the common colour-vision deficiencies and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_RULE_NAMES = {"vote": "vote", "mean_v": "mean v error"}


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
    axes.legend(frameon=False, loc="upper center")
    return figure


def trials_figure(stored: StoredPredictions) -> Figure:
    """Draw accuracy and AUROC against trials, by vote and by mean v error (paper Fig. 2)."""
    figure, (axes,) = panels(1)
    for (rule, name), colour in zip(_RULE_NAMES.items(), COLOURS, strict=False):
        counts, accuracies, areas = by_trials(stored, rule)
        axes.semilogx(counts, accuracies, color=colour, marker=".", label=f"accuracy, {name}")
        axes.semilogx(counts, areas, color=colour, ls="--", label=f"AUROC, {name}")
    axes.set(xlabel="trials per image", ylabel="accuracy, AUROC")
    axes.legend(frameon=False, loc="lower right")
    return figure


def entropy_figure(stored: StoredPredictions) -> Figure:
    """Draw the entropies of right and of wrong predictions (paper Fig. 9)."""
    figure, (axes,) = panels(1)
    correct = stored.own.y_hat == stored.labels
    entropy = vote_entropy(stored.shares)
    of = "entropy of the softmax" if stored.kind == BASELINE else "entropy of the votes"
    axes.boxplot(
        [entropy[correct], entropy[~correct]],
        tick_labels=["right", "wrong"],
        widths=0.5,
        medianprops={"color": COLOURS[0], "lw": 2},
        flierprops={"marker": ".", "ms": 3, "markeredgecolor": "0.5"},
    )
    axes.set(ylabel=f"{of} (bits)")
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
    axes.legend(frameon=False, loc="lower center")
    return figure


def _share_name(stored: StoredPredictions) -> str:
    return "softmax" if stored.kind == BASELINE else "vote share"


def panels(count: int, *, width: float = 3.9, height: float = 3.0) -> tuple[Figure, list[Axes]]:
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
        axes.spines[["left", "bottom"]].set_color("0.7")
        axes.tick_params(color="0.7")
    return figure, columns


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def plain(text: str) -> str:
    """Return a text whose $ is no mathematics: an unbalanced one would end the drawing."""
    return text.replace("$", r"\$")
