"""The paper's figures: what is drawn is what the stored errors say."""

import numpy as np
import pytest

from diffdx.evaluation import curve_by_trials, evaluate_predictions, read_predictions
from diffdx.metrics import patient_resamples
from diffdx.report import paper_figures
from diffdx.uncertainty import vote_entropy

RULES = ("vote", "mean_eps", "mean_v", "mean_x")


@pytest.fixture
def stored(predictions_folder, mixed_labels):
    folder = predictions_folder(mixed_labels)
    return read_predictions(folder).labelled()


def test_the_last_point_of_a_curve_is_the_run_itself(stored):
    """The same resamples and all trials: value and bounds are those of `summary.json`."""
    summary = evaluate_predictions(stored.folder, n_resamples=200)
    resamples = patient_resamples(stored.patients, n_resamples=200)
    for rule in RULES:
        for metric in ("accuracy", "f1"):
            curve = curve_by_trials([stored], rule, metric, resamples, points=4)
            last = {name: getattr(curve, name)[-1] for name in ("value", "low", "high")}
            assert last == pytest.approx(summary["by_rule"][rule][metric])
            assert (curve.low <= curve.value).all()
            assert curve.trials[-1] == stored.errors.shape[2]
            assert (curve.trials % 2 == 1).all()


def test_two_equal_runs_have_the_curve_of_one(stored):
    resamples = patient_resamples(stored.patients, n_resamples=50)
    one, two = (curve_by_trials([stored] * n, "vote", "f1", resamples, points=3) for n in (1, 2))
    for name in ("trials", "value", "low", "high"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-12)


def test_the_figure_of_trials_draws_these_curves(stored, monkeypatch):
    monkeypatch.setattr(paper_figures, "_RESAMPLES", 20)
    figure = paper_figures.trials_figure({("UNet", "a"): [stored], ("UNet", "b"): [stored]})
    assert len(figure.axes) == 4, "two metrics, two sets"
    first = figure.axes[0]
    resamples = patient_resamples(stored.patients, n_resamples=20)
    for rule, line in zip(RULES, first.lines, strict=False):
        curve = curve_by_trials([stored], rule, "accuracy", resamples)
        np.testing.assert_allclose(line.get_ydata(), curve.value)
    assert len(first.collections) == len(RULES), "a band each"


def test_filtering_begins_with_the_accuracy_of_all(stored):
    expected = 100 * float((stored.own.y_hat == stored.labels).mean())
    found = {("UNet", "one"): stored, ("UNet", "two"): stored, ("DiT", "one"): stored}
    single = paper_figures.filtered_figure(found)
    by_model = paper_figures.filtered_by_model_figure(found)
    assert [len(axes.lines) for axes in by_model.axes] == [2, 1]
    lines = [*single.axes[0].lines, *(line for axes in by_model.axes for line in axes.lines)]
    for line in lines:
        assert line.get_xdata()[0] == pytest.approx(0)
        assert line.get_ydata()[0] == pytest.approx(expected)
    assert [line.get_linestyle() for line in single.axes[0].lines] == ["--", "-", "--"]


def test_entropies_are_drawn_for_right_and_wrong(stored):
    figure = paper_figures.entropy_figure({("UNet", "one"): stored})
    right = stored.own.y_hat == stored.labels
    texts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert texts == [f"one\nright\n{right.sum()}", f"one\nwrong\n{(~right).sum()}"]
    flat = [line.get_ydata() for line in figure.axes[0].lines]
    levels = [y[0] for y in flat if len(y) == 2 and y[0] == y[1]]
    median = np.median(vote_entropy(stored.shares)[right])
    assert min(abs(level - median) for level in levels) < 1e-12


def test_samples_are_shown_as_they_are():
    pictures = [np.full((4, 4, 3), value, dtype=np.uint8) for value in (7, 9)]
    figure = paper_figures.samples_figure([("a chest", pictures), ("costs $1 or $2", pictures)])
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [int(np.unique(one)[0]) for one in shown] == [7, 9, 7, 9]
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "a chest"
    assert "Research use only" in texts[-1]
