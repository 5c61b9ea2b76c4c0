"""Pointing game and energy in mask: known maps, and the mask's share for maps that know nothing."""

import numpy as np
import pytest

from diffdx.explain.localisation import energy_in_mask, hits_mask, smoothed, toward_finding


@pytest.fixture
def mask():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:20] = True
    return mask


def test_a_peak_inside_hits_and_one_outside_misses(mask):
    inside, outside = np.zeros((2, 20, 30))
    inside[5, 12], outside[0, 0] = 1, 1
    assert hits_mask(inside, mask) == 1
    assert hits_mask(outside, mask) == 0


def test_a_constant_map_scores_the_masks_share(mask):
    assert hits_mask(np.ones(mask.shape), mask) == pytest.approx(mask.mean())
    assert energy_in_mask(np.ones(mask.shape), mask) == pytest.approx(mask.mean())


def test_noise_scores_the_masks_share(mask):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2000, *mask.shape))
    share = mask.mean()
    hits = np.mean([hits_mask(m, mask) for m in maps])
    assert abs(hits - share) < 4 * np.sqrt(share * (1 - share) / len(maps))
    energies = [energy_in_mask(m, mask) for m in maps]
    error = np.std(energies) / np.sqrt(len(maps))
    # A ratio of sums over few pixels is biased by their relative variance, 1 / 600 of it here.
    assert abs(np.mean(energies) - share) < 4 * error + share / 600 * np.pi


def test_energy_counts_the_positive_part_alone(mask):
    pixel_map = np.where(mask, 1.0, -5.0)
    assert energy_in_mask(pixel_map, mask) == 1
    pixel_map[0, 0] = mask.sum()
    assert energy_in_mask(pixel_map, mask) == pytest.approx(0.5)
    assert np.isnan(energy_in_mask(-np.ones(mask.shape), mask))


def test_scale_does_not_matter(mask):
    pixel_map = np.random.default_rng(1).normal(size=mask.shape)
    for score in (hits_mask, energy_in_mask):
        assert score(7 * pixel_map, mask) == pytest.approx(score(pixel_map, mask))


def test_smoothing_keeps_the_sum_and_lifts_a_finding_out_of_noise(mask):
    rng = np.random.default_rng(2)
    maps = mask + rng.normal(0, 1.5, (200, *mask.shape))
    assert smoothed(maps[0], 2.0).sum() == pytest.approx(maps[0].sum())
    np.testing.assert_array_equal(smoothed(maps[0], 0.0), maps[0])
    raw, wide = (np.mean([hits_mask(smoothed(m, s), mask) for m in maps]) for s in (0.0, 2.0))
    # Standard error of a share of 200: at most .036.
    assert wide > raw + 4 * 0.036


def test_evidence_is_turned_toward_the_class_of_the_finding():
    evidence = np.arange(4.0).reshape(2, 2)
    right = toward_finding(evidence, label=1, y_src=1, y_cf=0)
    np.testing.assert_array_equal(right, evidence)
    wrong = toward_finding(evidence, label=1, y_src=0, y_cf=1)
    np.testing.assert_array_equal(wrong, -evidence)
    assert toward_finding(evidence, label=2, y_src=0, y_cf=1) is None
    assert toward_finding(evidence, label=None, y_src=0, y_cf=1) is None


@pytest.mark.parametrize("score", [hits_mask, energy_in_mask])
def test_an_empty_mask_is_refused(score):
    with pytest.raises(ValueError, match="mask is empty"):
        score(np.ones((3, 3)), np.zeros((3, 3), bool))


def test_a_negative_width_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        smoothed(np.ones((3, 3)), -1.0)
