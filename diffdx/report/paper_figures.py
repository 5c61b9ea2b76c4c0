"""The paper's figures in the paper's form, from stored results; every number shown is in them.

Arrays and predictions in, figures out. A figure that compares two sets draws the first dashed and
the second solid, as the paper does with CheXpert and ISIC. Figures 4, 10 and 11 are the sheets of
`report.explanation_figures`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from diffdx._notice import NOTICE
from diffdx.evaluation import StoredPredictions, curve_by_trials
from diffdx.metrics import patient_resamples
from diffdx.report.figures import COLOURS, panels, plain
from diffdx.uncertainty import selective_accuracy, vote_entropy

Predictions = Mapping[tuple[str, str], StoredPredictions]
"""Labelled predictions by names of model and set."""
History = Mapping[str, Sequence[tuple[int, dict[str, float]]]]
"""Validation scores by name of the model: steps, and scores by name."""

METRIC_NAMES = {"accuracy": "accuracy", "f1": "F1"}
RULE_NAMES = {
    "vote": "vote (any space)",
    "mean_eps": "mean, eps space",
    "mean_v": "mean, v space",
    "mean_x": "mean, x space",
}
LINES = ("--", "-")
_TICKS = (1, 3, 10, 30, 100, 300)
_RESAMPLES = 500
_LEAST_IMAGES = 10
"""Accuracy of fewer images swings too far to be drawn."""


def trials_figure(found: Mapping[tuple[str, str], Sequence[StoredPredictions]]) -> Figure:
    """Draw accuracy and F1 against the number of trials, by rule and space (paper Fig. 2).

    The vote is one curve, since it is the same in eps, v and x space. Bands: 95%, by patient.

    Args:
        found: Labelled predictions of the same images, one for each seed, by names of model and
            set.
    """
    figure, columns = _grid(len(METRIC_NAMES), len(found))
    for column, ((model, dataset), runs) in zip(columns, found.items(), strict=True):
        resamples = patient_resamples(runs[0].patients, n_resamples=_RESAMPLES)
        column[0].set_title(plain(f"{model}, {_images(runs[0], dataset)}"), fontsize=9)
        for axes, (metric, name) in zip(column, METRIC_NAMES.items(), strict=True):
            for (rule, label), colour in zip(RULE_NAMES.items(), COLOURS, strict=False):
                curve = curve_by_trials(runs, rule, metric, resamples)
                axes.plot(curve.trials, curve.value, color=colour, label=label, lw=1.6)
                axes.fill_between(
                    curve.trials, curve.low, curve.high, color=colour, alpha=0.1, lw=0
                )
            axes.set_xscale("log")
            shown = [n for n in _TICKS if n <= curve.trials[-1]]
            axes.set_xticks(shown, [str(n) for n in shown])
            axes.xaxis.set_minor_locator(NullLocator())
            if column is columns[0]:
                axes.set_ylabel(name)
        column[-1].set_xlabel("trials N")
    columns[0][-1].legend(frameon=False, fontsize=7, loc="lower right")
    return _signed(figure)


def filtered_figure(found: Predictions) -> Figure:
    """Draw accuracy as the most uncertain images are filtered out, all in one (paper Fig. 3)."""
    figure, (axes,) = panels(1, width=5.2, height=3.6)
    models, lines = _models(found), _lines(found)
    for (model, dataset), stored in found.items():
        colour = COLOURS[models.index(model)]
        _filtered(axes, stored, colour, lines[dataset], f"{model}, {dataset}")
    axes.legend(frameon=False, fontsize=7)
    return _signed(figure)


def filtered_by_model_figure(found: Predictions) -> Figure:
    """Draw accuracy as the most uncertain images are filtered out, by model (paper Fig. 8)."""
    models, lines = _models(found), _lines(found)
    figure, drawn = panels(len(models), width=3.2, height=3.0)
    for axes, model, colour in zip(drawn, models, COLOURS, strict=False):
        axes.set_title(plain(model), fontsize=9)
        for (name, dataset), stored in found.items():
            if name == model:
                _filtered(axes, stored, colour, lines[dataset], _images(stored, dataset))
        axes.legend(frameon=False, fontsize=7)
    return _signed(figure)


def entropy_figure(found: Predictions) -> Figure:
    """Draw the entropy of the votes where the prediction is right and wrong (paper Fig. 9)."""
    models = _models(found)
    figure, drawn = panels(len(models), width=3.2, height=3.0)
    for axes, model in zip(drawn, models, strict=True):
        groups: dict[str, np.ndarray] = {}
        for (other, dataset), stored in found.items():
            if other == model:
                right = stored.own.y_hat == stored.labels
                entropy = vote_entropy(stored.shares)
                # Broken at its hyphen: two names of sets side by side would run into each other.
                name = dataset.replace("-", "-\n")
                groups[f"{name}\nright\n{right.sum()}"] = entropy[right]
                groups[f"{name}\nwrong\n{(~right).sum()}"] = entropy[~right]
        boxes = axes.boxplot(list(groups.values()), widths=0.55, patch_artist=True, sym=".")
        for i, (box, line) in enumerate(zip(boxes["boxes"], boxes["medians"], strict=True)):
            box.set(facecolor=COLOURS[i % 2], alpha=0.35)
            line.set(color="black")
        axes.set_xticks(range(1, len(groups) + 1), list(groups), fontsize=7)
        axes.set(ylabel="entropy of the vote share (bits)", ylim=(-0.03, 1.03))
        axes.set_title(plain(model), fontsize=9)
    return _signed(figure)


def validation_figure(found: History) -> Figure:
    """Draw F1 and accuracy on validation images over training (paper Fig. 5)."""
    figure, drawn = panels(len(METRIC_NAMES), width=3.6, height=3.0)
    for axes, (metric, name) in zip(drawn, METRIC_NAMES.items(), strict=True):
        for (model, history), colour in zip(found.items(), COLOURS, strict=False):
            steps, values = [s for s, _ in history], [scores[metric] for _, scores in history]
            axes.plot(steps, values, color=colour, marker=".", label=plain(model))
        axes.set(xlabel="training step", ylabel=f"validation {name}")
    drawn[0].legend(frameon=False, fontsize=8)
    return _signed(figure)


def samples_figure(rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "H W 3"]]]]) -> Figure:
    """Draw generated images, a row a prompt (paper Fig. 6 and 7).

    Args:
        rows: Prompt and pictures, as many in each row.
    """
    count, side, above, below = len(rows[0][1]), 1.1, 0.28, 0.22
    size = count * side, len(rows) * (side + above) + below
    figure = Figure(figsize=size)
    for i, (prompt, pictures) in enumerate(rows):
        bottom = (below + (len(rows) - 1 - i) * (side + above)) / size[1]
        for j, picture in enumerate(pictures):
            box = (j * side / size[0], bottom, 0.97 * side / size[0], side / size[1])
            axes = figure.add_axes(box)
            axes.imshow(picture)
            axes.set_axis_off()
        figure.text(0.005, bottom + (side + 0.06) / size[1], plain(prompt), fontsize=8)
    figure.text(0.005, 0.01, NOTICE, fontsize=6, color="0.4")
    return figure


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure outside pyplot, and its panels by column; a row shares its y axis."""
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, [list(grid[:, j]) for j in range(columns)]


def _filtered(axes: Axes, stored: StoredPredictions, colour: str, line: str, label: str) -> None:
    """Draw one curve over the share of images that are filtered out."""
    correct = stored.own.y_hat == stored.labels
    curve = selective_accuracy(correct, vote_entropy(stored.shares))
    shown = curve.removed <= 1 - min(1.0, _LEAST_IMAGES / len(correct))
    removed, accuracy = 100 * curve.removed[shown], 100 * curve.accuracy[shown]
    axes.plot(removed, accuracy, line, color=colour, label=plain(label), lw=1.6)
    axes.set(xlabel="most uncertain filtered out (%)", ylabel="accuracy of the rest (%)")


def _models(found: Predictions) -> list[str]:
    return list(dict.fromkeys(model for model, _ in found))


def _lines(found: Predictions) -> dict[str, str]:
    """Return the style of each set."""
    datasets = dict.fromkeys(dataset for _, dataset in found)
    return dict(zip(datasets, LINES, strict=False))


def _images(stored: StoredPredictions, dataset: str) -> str:
    return f"{dataset}, n = {len(stored.table)}"


def _signed(figure: Figure) -> Figure:
    """Return the figure with the notice below it."""
    figure.supxlabel(NOTICE, fontsize=6, color="0.4", x=0.01, ha="left")
    return figure
