"""The classifier with exact denoisers must be the Bayes classifier, with the votes theory predicts.

For classes N(mu_k, s^2 I) one trial at log-SNR lambda votes for A against B with probability

    p = Phi( exp(-lambda/2) (|x-mu_B|^2 - |x-mu_A|^2) / (2 s^2 |mu_A-mu_B|) ).
"""

import numpy as np
import pytest
import torch

from diffdx.backbones.analytic import GaussianClasses
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.voting import (
    majority_vote,
    mean_error,
    predict_mean,
    predict_vote,
    vote_entropy,
    vote_share,
)
from diffdx.diffusion.schedule import ShiftedCosine

SHAPE, STD, TRIALS = (1, 4, 4), 0.5, 2001


def gaussian_problem(num_classes, images_per_class, seed):
    """Class means about two standard deviations apart, and images drawn from the classes."""
    generator = torch.Generator().manual_seed(seed)
    means = 0.35 * torch.randn(num_classes, *SHAPE, generator=generator)
    y = torch.arange(num_classes).repeat(images_per_class)
    x = means[y] + STD * torch.randn(len(y), *SHAPE, generator=generator)
    return GaussianClasses(means, STD), x, (x[:, None] - means).square().sum(dim=(2, 3, 4)).numpy()


def classify(denoiser, x, num_trials):
    results = list(
        denoising_errors(
            denoiser,
            ShiftedCosine(),
            x,
            TrialBank(size=num_trials),
            num_trials=num_trials,
            batch_size=1000,
        )
    )
    return np.stack([r.errors for r in results]), np.stack([r.logsnr for r in results])


def entropy_of(p):
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


@pytest.fixture(scope="module")
def two_classes():
    denoiser, x, squared = gaussian_problem(2, 8, seed=1)
    errors, logsnr = classify(denoiser, x, TRIALS)
    gap = float((denoiser.means[0] - denoiser.means[1]).norm())
    lead = (squared[:, 1] - squared[:, 0])[:, None] / (2 * STD**2 * gap)
    p = torch.special.ndtr(torch.from_numpy(np.exp(-logsnr / 2) * lead).double()).numpy()
    standard_error = np.sqrt((p * (1 - p)).sum(axis=1)) / TRIALS
    return errors, logsnr, squared, p.mean(axis=1), standard_error


def test_the_vote_share_is_the_predicted_one(two_classes):
    errors, _, _, predicted, standard_error = two_classes
    share = vote_share(majority_vote(errors))[:, 0]
    assert (np.abs(share - predicted) <= 3 * standard_error).all()
    # The test has power: the shares spread over much more than their errors.
    assert share.std() > 20 * standard_error.max()


def test_vote_and_mean_give_the_bayes_label(two_classes):
    errors, logsnr, squared, predicted, standard_error = two_classes
    bayes = squared.argmin(axis=1)
    label, tied = predict_vote(majority_vote(errors))
    clear = np.abs(predicted - 0.5) > 3 * standard_error
    assert clear.sum() >= 12
    assert not tied.any()
    assert (label == bayes)[clear].all()
    for space in ("v", "eps", "x"):
        assert (predict_mean(mean_error(errors, logsnr, space))[0] == bayes)[clear].all()


def test_entropy_is_that_of_the_predicted_share(two_classes):
    errors, _, _, predicted, standard_error = two_classes
    entropy = vote_entropy(vote_share(majority_vote(errors)))
    low, high = predicted - 3 * standard_error, predicted + 3 * standard_error
    ends = entropy_of(np.stack([low, high]))
    # Entropy rises to 1 bit at a share of 1/2 and falls after it.
    highest = np.where((low < 0.5) & (high > 0.5), 1.0, ends.max(axis=0))
    assert (entropy >= ends.min(axis=0)).all()
    assert (entropy <= highest).all()


def test_three_classes_get_their_bayes_labels():
    denoiser, x, squared = gaussian_problem(3, 5, seed=2)
    errors, logsnr = classify(denoiser, x, 501)
    ordered = np.sort(squared, axis=1)
    # Images whose two nearest means differ by less than a tenth of the gap are near ties.
    gap = torch.pdist(denoiser.means[:3].flatten(1)).min().item()
    clear = ordered[:, 1] - ordered[:, 0] > 0.1 * gap**2
    assert clear.sum() >= 10
    assert (predict_mean(mean_error(errors, logsnr))[0] == squared.argmin(axis=1))[clear].all()


def test_equal_classes_tie_in_every_trial():
    mean = torch.zeros(1, *SHAPE)
    errors, _ = classify(GaussianClasses(torch.cat([mean, mean]), STD), mean, 5)
    votes = majority_vote(errors)
    assert votes.tolist() == [[2.5, 2.5]]
    assert vote_entropy(vote_share(votes)).tolist() == [1.0]
    label, tied = predict_vote(votes)
    assert label.tolist() == [0]
    assert tied.tolist() == [True]
