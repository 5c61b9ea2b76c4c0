"""Fitting a calibration: the posterior of Gaussian classes, no leak by patient, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from diffdx.backbones.analytic import GaussianClasses
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.weighted import weighted_scores
from diffdx.diffusion.schedule import ShiftedCosine
from diffdx.errors import CheckpointError, DataError
from diffdx.uncertainty.calibration import (
    CalibrationFile,
    read_calibration,
    stop_key,
    vote_scores,
)
from diffdx.uncertainty.choice import Features, choose_model, cross_fitted, fit_weights
from diffdx.uncertainty.fit import CalibrationImages, fit_calibration
from diffdx.uncertainty.logit import fit_logit

SHAPE, STD, TRIALS, IMAGES = (1, 2, 2), 0.5, 21, 500
SHARES = np.array([0.35, 0.65])


def gaussian_images(n, seed):
    """Errors of the exact denoiser, labels, and the posterior of each image."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack([torch.full(SHAPE, -0.4), torch.full(SHAPE, 0.4)])
    y = (torch.rand(n, generator=generator) < SHARES[1]).long()
    x = means[y] + STD * torch.randn(n, *SHAPE, generator=generator)
    results = list(
        denoising_errors(
            GaussianClasses(means, STD),
            ShiftedCosine(),
            x,
            TrialBank(size=TRIALS),
            num_trials=TRIALS,
            batch_size=2000,
        )
    )
    squared = (x[:, None] - means).square().sum(dim=(2, 3, 4)).numpy()
    posterior = softmax(np.log(SHARES) - squared / (2 * STD**2), axis=1)
    images = CalibrationImages(
        np.stack([r.errors for r in results]),
        np.stack([r.logsnr for r in results]),
        y.numpy(),
        [f"patient {i}" for i in range(n)],
        ("A", "B"),
        "B",
    )
    return images, posterior


@pytest.fixture(scope="module")
def problem():
    return gaussian_images(2 * IMAGES, seed=0)


def some(images, rows):
    return replace(
        images,
        errors=images.errors[rows],
        logsnr=images.logsnr[rows],
        labels=images.labels[rows],
        patients=[images.patients[row] for row in rows],
    )


@pytest.fixture(scope="module")
def calib(problem):
    return some(problem[0], np.arange(IMAGES))


@pytest.fixture(scope="module")
def unseen(problem):
    return some(problem[0], np.arange(IMAGES, 2 * IMAGES)), problem[1][IMAGES:]


@pytest.fixture(scope="module")
def entry(calib):
    return fit_calibration(calib, stop="none")


def test_calibrated_probabilities_are_the_posterior_on_average(entry, unseen):
    images, posterior = unseen
    prob = entry.probability.probabilities(images.errors, images.logsnr)[:, 1]
    order = np.argsort(prob).reshape(10, 50)
    for group in order:
        claimed, truth = prob[group].mean(), posterior[group, 1]
        # Spread within the group, and what 500 labels of which a tenth lies here can teach.
        error = np.sqrt(truth.var() / 50 + claimed * (1 - claimed) / 50)
        assert abs(claimed - truth.mean()) <= 3 * error + 2e-3
    # The test has power: the groups are far apart.
    assert np.ptp(prob[order].mean(axis=1)) > 0.8


def test_held_out_figures_are_those_of_a_model_that_knows_its_doubt(entry, calib, problem):
    best = -np.log(problem[1][np.arange(IMAGES), calib.labels])
    # A statistic of 21 noisy trials is worth less than the posterior, but not by much.
    assert best.mean() < entry.held_out["log_loss"] < best.mean() + 0.15
    assert entry.held_out["ece"] <= entry.held_out["ece_floor_95"] + 0.02
    assert [c["chosen"] for c in entry.candidates].count(True) == 1
    assert min(c["log_loss"] for c in entry.candidates) > best.mean() - 0.02


def test_the_weighted_rule_beats_or_equals_the_vote(entry, unseen):
    images, _ = unseen
    scores = weighted_scores(images.errors, images.logsnr, entry.probability.weights)
    weighted = (scores.argmax(axis=1) == images.labels).mean()
    vote = (vote_scores(images.errors, "split").argmax(axis=1) == images.labels).mean()
    assert weighted >= vote - 3 * np.sqrt(0.25 / IMAGES)


def misleading(images, seed):
    """The images where a site adds to the errors of class B at high noise, each its amount."""
    amount = np.random.default_rng(seed).normal(size=(len(images.labels), 1))
    errors = images.errors.copy()
    errors[:, 1] = np.maximum(errors[:, 1] + np.where(images.logsnr < 0, amount, 0), 1e-6)
    return replace(images, errors=errors.astype(np.float32))


def test_copies_teach_the_probabilities_alone(entry, calib, unseen):
    copies = misleading(calib, seed=1)
    taught = fit_calibration(calib, copies, stop="none")
    there = misleading(unseen[0], seed=2)

    def log_loss_there(entry):
        prob = entry.probability.probabilities(there.errors, there.logsnr)
        return -np.log(prob[np.arange(IMAGES), there.labels]).mean()

    assert log_loss_there(taught) < log_loss_there(entry) - 0.1
    assert taught.held_out_altered["n"] == IMAGES
    # Held out patient by patient, so it says what a new image there meets.
    assert abs(taught.held_out_altered["log_loss"] - log_loss_there(taught)) < 0.1
    assert entry.held_out_altered is None
    for part in ("conformal", "triage", "gate"):
        assert getattr(taught, part) == getattr(entry, part)


def test_an_entry_comes_back_from_its_file(entry, calib, tmp_path):
    file = CalibrationFile("ab" * 32, ("A", "B"), "B", {}).with_entry(entry)
    path = file.write(tmp_path)
    assert "medical device" in json.loads(path.read_text())["notice"]
    again = read_calibration(tmp_path)
    assert again == file
    run = {"stop": "none", "rule": "vote", "space": "v", "trials": TRIALS}
    found = again.find(run)
    np.testing.assert_array_equal(
        found.probability.probabilities(calib.errors, calib.logsnr),
        entry.probability.probabilities(calib.errors, calib.logsnr),
    )
    assert again.find(run | {"trials": 11}) is None
    assert again.find(run | {"stop": "exact"}) is None
    assert read_calibration(tmp_path / "elsewhere") is None


def test_a_damaged_or_newer_file_is_named(entry, tmp_path):
    path = CalibrationFile("ab" * 32, ("A", "B"), "B", {"none": entry}).write(tmp_path)
    stored = json.loads(path.read_text())
    for content, says in (
        ("{", "damaged"),
        (json.dumps(stored | {"format_version": 99}), "format_version 99, this diffdx reads 2"),
        (json.dumps({"format_version": 2}), "damaged .KeyError: 'model_sha256'"),
    ):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=says):
            read_calibration(tmp_path)


def test_a_run_is_known_by_what_stopped_it():
    run = {"stop": "0.01", "rule": "vote", "space": "v"}
    assert stop_key(run) == "0.01"
    assert stop_key(run | {"stop": "0.010"}) == "0.01"
    assert stop_key(run | {"stop": "share:0.10"}) == "share:0.1"
    assert stop_key(run | {"rule": "mean"}) == "0.01 mean_v"
    assert stop_key(run | {"stop": "none", "rule": "mean"}) == "none"


def test_images_of_a_patient_teach_nothing_about_each_other():
    rng = np.random.default_rng(0)
    patients, images = 60, 4
    y = np.repeat(rng.permutation(patients) % 2, images)
    # Every patient has a look of its own that has nothing to do with the label.
    look = np.repeat(rng.normal(size=(patients, 8)), images, axis=0)
    features = Features(
        np.stack([-look[:, 0], look[:, 0]], axis=1),
        np.stack([-look, look], axis=1),
        y,
        np.repeat(np.arange(patients), images),
    )
    prob = cross_fitted(features, ("vote", "weighted"), 0)
    loss = -np.log(prob[np.arange(len(y)), y]).reshape(patients, images).mean(axis=1)
    assert loss.mean() > np.log(2) - 3 * loss.std() / np.sqrt(patients)
    for rows, others in features.folds(0):
        assert not set(features.patients[rows]) & set(features.patients[others])


def test_what_cannot_be_told_apart_is_decided_for_fewer_parameters():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    z = 2 * (y - 0.5) + rng.normal(size=200)
    scores = np.stack([-z, z], axis=1)
    features = Features(scores, scores[:, :, None], y, np.arange(200))
    fitted = choose_model(features, ("vote", "weighted"), 0)
    assert (fitted.statistic, fitted.calibrator.method) == ("vote", "temperature")


def test_weights_do_not_depend_on_units_or_on_the_classes_frequency():
    rng = np.random.default_rng(0)
    y = (rng.random(900) < 0.2).astype(np.int64)
    d = rng.normal(size=(900, 3)) + [1.5, 0.5, 0.0] * (2 * y[:, None] - 1)
    binned = np.stack([-d, d], axis=1)
    weights, biases = fit_weights(binned, y)
    assert weights[0] > weights[1] > weights[2] >= 0
    scaled, _ = fit_weights(binned * [1e-3, 1.0, 50.0], y)
    np.testing.assert_allclose(scaled * [1e-3, 1.0, 50.0], weights, rtol=1e-3)
    # Symmetric classes: no class is favoured although one has a fifth of the images. The error of
    # the log-odds' constant is that of 180 images' mean, at three standard errors.
    assert abs(biases[1] - biases[0]) < 3 * 2 / np.sqrt(180)
    plain, _ = fit_logit(binned, np.eye(2)[y], ridge=1e-3)
    np.testing.assert_allclose(plain, weights, rtol=0.25, atol=0.1)


def test_what_is_too_little_is_refused(calib):
    of_class = [np.flatnonzero(calib.labels == k) for k in (0, 1)]
    with pytest.raises(DataError, match="here: no labelled image"):
        fit_calibration(some(calib, of_class[0][:0]), stop="none", where="here")
    with pytest.raises(DataError, match="column label has no image of class B"):
        fit_calibration(some(calib, of_class[0]), stop="none")
    few = np.append(of_class[0][:50], of_class[1][:9])
    with pytest.raises(DataError, match=r"too few patients .*9 of B.*at least 10 of each"):
        fit_calibration(some(calib, few), stop="none")
    one_patient = replace(some(calib, few), patients=["p"] * len(few))
    with pytest.raises(DataError, match="1 of A, 1 of B"):
        fit_calibration(one_patient, stop="none")


def test_a_baseline_is_calibrated_from_its_softmax():
    rng = np.random.default_rng(3)
    n = 600
    y = (rng.random(2 * n) < 0.6).astype(np.int64)
    z = 2 * (y - 0.5) + rng.normal(size=2 * n)
    # The log odds of the posterior are 2 z + log(.6 / .4); the softmax claims three times as much.
    odds = 3 * (2 * z + np.log(0.6 / 0.4))
    softmax = np.exp(-np.logaddexp(0, np.stack([odds, -odds], axis=1)))
    truth = 1 / (1 + np.exp(-(odds / 3)))

    def images(rows):
        count = len(y[rows])
        return CalibrationImages(
            np.empty((count, 2, 0)),
            np.empty((count, 0)),
            y[rows],
            [f"patient {i}" for i in range(count)],
            ("A", "B"),
            "B",
            softmax=softmax[rows],
        )

    entry = fit_calibration(images(slice(None, n)), stop="none")
    assert (entry.probability.statistic, entry.trials, entry.gate) == ("softmax", 0, None)
    assert entry.difference_bounds == {}
    new = images(slice(n, None))
    prob = entry.probability.probabilities(new.errors, new.logsnr, new.softmax)[:, 1]
    # A slope and a bias from 600 labels: some hundredths of a probability at most.
    assert np.abs(prob - truth[n:]).max() < 0.1
    assert np.abs(prob - truth[n:]).mean() < 0.02
    covered = entry.conformal.sets(new.shares)[np.arange(n), new.labels].mean()
    assert covered >= 0.9 - 3 * np.sqrt(0.9 * 0.1 * 2 / n)
    file = CalibrationFile("ab" * 32, ("A", "B"), "B", {"none": entry})
    run = {"stop": None, "rule": "softmax", "space": None, "trials": None}
    assert file.find(run) is entry
