"""Each metric against scikit-learn, the published definition, and its degenerate cases."""

import numpy as np
import pytest
from sklearn import metrics as sk

from diffdx.metrics import (
    accuracy,
    auroc,
    balanced_accuracy,
    bootstrap_by_patient,
    class_recalls,
    confusion_matrix,
    f1,
    patient_resamples,
    roc_curve,
)


def _labels(
    num_classes: int, seed: int = 0, n: int = 200
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(num_classes, size=n)
    scores = np.round(
        rng.random((n, num_classes)) + 0.3 * np.eye(num_classes)[y], 1
    )  # rounded: many ties
    return y, scores, scores.argmax(axis=1)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_decisions_equal_scikit_learn(num_classes: int, weighted: bool) -> None:
    y, _, y_hat = _labels(num_classes)
    weights = (
        np.random.default_rng(1).integers(0, 4, size=len(y)).astype(float) if weighted else None
    )
    options = {"weights": weights}
    expected = {"sample_weight": weights}
    assert accuracy(y, y_hat, **options) == pytest.approx(sk.accuracy_score(y, y_hat, **expected))
    options["num_classes"] = num_classes
    np.testing.assert_allclose(
        confusion_matrix(y, y_hat, **options), sk.confusion_matrix(y, y_hat, **expected)
    )
    np.testing.assert_allclose(
        class_recalls(y, y_hat, **options), sk.recall_score(y, y_hat, average=None, **expected)
    )
    assert balanced_accuracy(y, y_hat, **options) == pytest.approx(
        sk.balanced_accuracy_score(y, y_hat, **expected)
    )
    assert f1(y, y_hat, **options) == pytest.approx(
        sk.f1_score(y, y_hat, average="macro", **expected)
    )
    one_class = sk.f1_score(y, y_hat, labels=[1], average="macro", **expected)
    assert f1(y, y_hat, positive=1, **options) == pytest.approx(one_class)


@pytest.mark.parametrize("weighted", [False, True])
def test_auroc_equals_scikit_learn_with_ties(weighted: bool) -> None:
    y, scores, _ = _labels(2)
    weights = (
        np.random.default_rng(1).integers(0, 4, size=len(y)).astype(float) if weighted else None
    )
    expected = sk.roc_auc_score(y, scores[:, 1], sample_weight=weights)
    assert auroc(y, scores, positive=1, weights=weights) == pytest.approx(expected, rel=1e-12)


def test_auroc_of_several_classes_is_the_mean_of_one_against_the_rest() -> None:
    y, scores, _ = _labels(4)
    expected = np.mean([sk.roc_auc_score(y == k, scores[:, k]) for k in range(4)])
    assert auroc(y, scores) == pytest.approx(expected, rel=1e-12)


def test_auroc_counts_pairs_as_defined() -> None:
    y, scores, _ = _labels(2, n=60)
    pairs = scores[y == 1, 1][:, None] - scores[y == 0, 1][None, :]
    assert auroc(y, scores, positive=1) == pytest.approx(
        np.mean((pairs > 0) + 0.5 * (pairs == 0)), rel=1e-12
    )


def test_auroc_at_its_extremes() -> None:
    y = np.array([0, 0, 1, 1])
    ranked = np.array([[4.0, -np.inf], [3.0, 0.0], [2.0, 1.0], [1.0, np.inf]])
    assert auroc(y, ranked, positive=1) == 1.0
    assert auroc(1 - y, ranked, positive=1) == 0.0
    assert auroc(y, np.zeros((4, 2)), positive=1) == 0.5


def test_roc_curve_equals_scikit_learn_and_encloses_the_auroc() -> None:
    y, scores, _ = _labels(2)
    fpr, tpr = roc_curve(y == 1, scores[:, 1])
    expected = sk.roc_curve(y, scores[:, 1], drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0])
    np.testing.assert_allclose(tpr, expected[1])
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(y, scores, positive=1), rel=1e-12)


def test_an_absent_class_leaves_nan_where_the_metric_needs_it() -> None:
    y, y_hat = np.zeros(5, int), np.array([0, 0, 0, 1, 1])
    scores = np.eye(2)[y_hat]
    assert accuracy(y, y_hat) == pytest.approx(0.6)
    assert np.isnan(auroc(y, scores, positive=1))
    assert np.isnan(balanced_accuracy(y, y_hat, num_classes=2))
    np.testing.assert_array_equal(np.isnan(class_recalls(y, y_hat, num_classes=2)), [False, True])
    assert f1(y, y_hat, num_classes=2, positive=1) == 0.0  # defined: two false positives
    assert np.isnan(f1(y, y, num_classes=2, positive=1))  # never present, never predicted
    assert np.isnan(accuracy(y[:0], y[:0]))


def test_refusals() -> None:
    y = np.array([0, 1])
    with pytest.raises(ValueError, match="y_hat holds classes outside"):
        confusion_matrix(y, y + 1, num_classes=2)
    with pytest.raises(ValueError, match="nan, which has no rank"):
        auroc(y, np.array([[0.0, np.nan], [1.0, 0.0]]), positive=1)
    with pytest.raises(ValueError, match="at least one image"):
        patient_resamples([])


def test_images_of_a_patient_are_drawn_together_and_patients_number_is_kept() -> None:
    patient_ids = [f"p{i // 3}" for i in range(30)]
    resamples = patient_resamples(patient_ids, n_resamples=200, seed=3)
    by_patient = resamples.reshape(200, 10, 3)
    np.testing.assert_array_equal(by_patient, by_patient[:, :, :1].repeat(3, axis=2))
    np.testing.assert_array_equal(by_patient[:, :, 0].sum(axis=1), 10)
    np.testing.assert_array_equal(
        resamples, patient_resamples(patient_ids, n_resamples=200, seed=3)
    )
    assert (resamples != patient_resamples(patient_ids, n_resamples=200, seed=4)).any()


def test_interval_width_is_that_of_the_patients_not_of_the_images() -> None:
    """With identical images a patient, the standard error is sqrt(p (1-p) / patients)."""
    rng = np.random.default_rng(0)
    correct_patients = np.arange(200) < 140
    y_hat = rng.permutation(correct_patients).astype(int).repeat(5)
    y = np.ones(1000, int)
    patient_ids = [f"p{i // 5}" for i in range(1000)]
    resamples = patient_resamples(patient_ids, n_resamples=2000)
    interval = bootstrap_by_patient(lambda w: accuracy(y, y_hat, weights=w), resamples)
    standard_error = np.sqrt(0.7 * 0.3 / 200)
    # The 2.5% quantile of R draws has standard error sqrt(q (1-q) / R) / density = .060 standard
    # errors at R = 2000; the lattice of 1/200 adds up to .15 of one.
    tolerance = (3 * 0.060 + 0.15) * standard_error
    assert interval.value == pytest.approx(0.7)
    assert interval.low == pytest.approx(0.7 - 1.96 * standard_error, abs=tolerance)
    assert interval.high == pytest.approx(0.7 + 1.96 * standard_error, abs=tolerance)


def test_resamples_without_a_class_are_left_out_of_the_interval() -> None:
    y = np.array([0] * 9 + [1])
    scores = np.stack([-np.arange(10.0), np.arange(10.0)], axis=1)
    resamples = patient_resamples([str(i) for i in range(10)], n_resamples=300)
    interval = bootstrap_by_patient(lambda w: auroc(y, scores, positive=1, weights=w), resamples)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)
    undefined = bootstrap_by_patient(
        lambda w: auroc(0 * y, scores, positive=1, weights=w), resamples
    )
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()
