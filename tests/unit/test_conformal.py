"""Conformal sets cover what they promise, exactly; and say when the promise is void."""

import json
import math

import numpy as np
import pytest
from scipy.stats import norm

from diffdx.uncertainty.conformal import (
    ConformalSets,
    fit_conformal,
    needed,
    set_coverage,
    set_texts,
)
from diffdx.uncertainty.exchangeable import one_per_patient

MEAN = 1.5


def gaussian_images(n: int, rng: np.random.Generator, *, rare: float = 0.25):
    """Labels and exact posteriors of two classes N(-MEAN, 1), N(MEAN, 1), the second one rare."""
    y = (rng.random(n) < rare).astype(np.int64)
    x = rng.normal(np.where(y == 1, MEAN, -MEAN))
    p = 1 / (1 + (1 - rare) / rare * np.exp(-2 * MEAN * x))
    return np.stack([1 - p, p], axis=1), y


@pytest.mark.parametrize("by_class", [True, False])
def test_randomised_sets_cover_exactly(by_class: bool) -> None:
    rng = np.random.default_rng(0)
    alpha, hits, shares = 0.1, [], []
    for _ in range(400):
        made = fit_conformal(*gaussian_images(60, rng), alpha=alpha, by_class=by_class)
        prob, y = gaussian_images(50, rng)
        covered = made.sets(prob, rng.random(50))[np.arange(50), y]
        hits.append(covered.mean())
        shares.append([covered[y == k].mean() if (y == k).any() else np.nan for k in (0, 1)])
    # Calibration sets are independent, so the spread over them gives the standard error.
    error = np.std(hits, ddof=1) / math.sqrt(len(hits))
    assert np.mean(hits) == pytest.approx(1 - alpha, abs=3 * error)
    per_class = np.nanmean(shares, axis=0)
    class_error = np.nanstd(shares, axis=0, ddof=1) / math.sqrt(len(hits))
    if by_class:
        assert (np.abs(per_class - (1 - alpha)) < 3 * class_error).all()
    else:
        # The rare class pays: its posterior is smaller, and only the average is promised.
        assert per_class[1] < 1 - alpha - 3 * class_error[1]


def test_deterministic_sets_are_the_textbook_quantile() -> None:
    """Class in the set if its score is at most the ceil((n + 1) (1 - alpha))-th smallest."""
    rng = np.random.default_rng(1)
    for n, alpha in ((9, 0.1), (10, 0.1), (37, 0.02), (99, 0.02), (150, 0.05)):
        prob, y = gaussian_images(n, rng)
        made = fit_conformal(prob, y, alpha=alpha, by_class=False)
        rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
        ordered = np.sort(1 - prob[np.arange(n), y])
        limit = ordered[rank - 1] if rank <= n else np.inf
        new, _ = gaussian_images(200, rng)
        np.testing.assert_array_equal(made.sets(new), 1 - new <= limit)
        # A draw only ever takes classes out.
        assert (made.sets(new) | ~made.sets(new, rng.random(200))).all()


def test_empty_sets_are_as_frequent_as_theory_says() -> None:
    """Between the classes nothing fits: |x| < c = MEAN + Phi^-1(alpha), here with equal classes."""
    rng = np.random.default_rng(2)
    made = fit_conformal(*gaussian_images(4000, rng, rare=0.5), alpha=0.2)
    n = 20_000
    sets = made.sets(gaussian_images(n, rng, rare=0.5)[0])
    c = MEAN + norm.ppf(0.2)
    empty = norm.cdf(c - MEAN) - norm.cdf(-c - MEAN)
    # The two limits are quantiles of 2000 images each: their error counts as well, with density
    # .28 standard error .4 / sqrt(2000) / .28 = .03 in x, and .28 of that in the share.
    assert (sets.sum(axis=1) == 0).mean() == pytest.approx(
        empty, abs=3 * math.sqrt(empty / n + 2 * (0.4**2 / 2000) / 4)
    )


def test_equal_scores_share_their_place() -> None:
    """All probabilities alike: the p value is the draw itself, and u = 1 keeps every class."""
    prob, y = np.full((40, 2), 0.5), np.arange(40) % 2
    made = fit_conformal(prob, y, alpha=0.3)
    u = np.linspace(0, 1, 40, endpoint=False)
    np.testing.assert_allclose(made.p_values(prob, u), np.stack([u, u], axis=1))
    assert made.sets(prob).all()


def test_too_few_images_void_the_guarantee_and_are_named() -> None:
    assert [needed(alpha) for alpha in (0.1, 0.02, 0.3, 0.5)] == [9, 49, 3, 1]
    rng = np.random.default_rng(3)
    y = np.repeat([0, 1], [48, 49])
    p = rng.random(97)
    made = fit_conformal(np.stack([1 - p, p], axis=1), y, alpha=0.02)
    (notice,) = made.notices(["A", "B"])
    assert "void for class A: 48 calibration patients, 49 are needed" in notice
    extreme = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert made.sets(extreme)[:, 0].all()
    assert not made.sets(extreme)[1, 1]
    pooled = fit_conformal(np.stack([1 - p, p], axis=1), y, alpha=0.001, by_class=False)
    assert "void for all classes: 97" in pooled.notices(["A", "B"])[0]


def test_one_image_of_each_patient_counts() -> None:
    rng = np.random.default_rng(4)
    prob, y = gaussian_images(30, rng)
    patients = [f"p{i // 3}" for i in range(30)]
    made = fit_conformal(prob, y, groups=patients)
    assert sum(map(len, made.scores)) == 10
    chosen = one_per_patient(patients, 30, seed=0)
    assert [patients[i] for i in chosen] == sorted(set(patients))
    draws = [one_per_patient(patients, 30, seed=seed) % 3 for seed in range(300)]
    # Each of the three is as likely: 1000 draws of probability 1/3, three standard errors.
    assert np.mean(np.concatenate(draws) == 1) == pytest.approx(1 / 3, abs=3 * 0.0086)


def test_sets_survive_json() -> None:
    rng = np.random.default_rng(5)
    made = fit_conformal(*gaussian_images(50, rng))
    again = ConformalSets.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made


def test_texts_and_coverage_of_known_sets() -> None:
    sets = np.array([[True, False], [True, True], [False, False], [False, True]])
    assert set_texts(sets, ["A", "B"]) == ["{A}", "{A, B}", "{}", "{B}"]
    found = set_coverage(sets, np.array([0, 0, 0, 0]), ["A", "B"])
    assert found == {
        "marginal": 0.5,
        "per_class": {"A": 0.5, "B": None},
        "mean_size": 1.0,
        "empty": 0.25,
        "single": 0.5,
    }


def test_what_cannot_be_calibrated_is_refused() -> None:
    prob, y = np.full((4, 2), 0.5), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="alpha must lie"):
        fit_conformal(prob, y, alpha=1.0)
    with pytest.raises(ValueError, match="at least one image"):
        fit_conformal(prob[:0], y[:0])
    with pytest.raises(ValueError, match="no nan"):
        fit_conformal(prob * np.nan, y)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1"):
        fit_conformal(prob, y - 1)
    with pytest.raises(ValueError, match="3 probabilities an image"):
        fit_conformal(prob, y).sets(np.full((1, 3), 1 / 3))
    with pytest.raises(ValueError, match="4 images but 1 patients"):
        fit_conformal(prob, y, groups=["one"])
