"""The scorecard on explanations that are built so that every measure is known beforehand."""

import dataclasses

import numpy as np
import pytest

from diffdx.explain.explained import Explained
from diffdx.explain.scorecard import scorecard
from diffdx.explain.similarity import ssim

NORMAL, SICK = 0, 1
SIDE = 16
NULL, EDIT = 0.02, 0.3


def bright_half(values):
    """Score of SICK: whether the left half is brighter than the right one."""
    difference = values[..., : SIDE // 2].mean((1, 2, 3)) - values[..., SIDE // 2 :].mean((1, 2, 3))
    return np.stack([-difference, difference], axis=1)


def explained(index, label, y_src, *, edit=EDIT, null=NULL, back=NULL):
    """Turned NORMAL: the left half loses `edit`; every generated image is off by `null`."""
    rng = np.random.default_rng(index)
    x = rng.uniform(-0.3, 0.3, (1, SIDE, SIDE)).astype(np.float32)
    left = np.zeros((1, SIDE, SIDE), np.float32)
    left[..., : SIDE // 2] = 1
    x = x - (x * left).sum() / left.sum() * left - (x * (1 - left)).sum() / left.sum() * (1 - left)
    x = x + (0.1 if label == SICK else -0.1) * left
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:6, 2:6] = label == SICK
    return Explained(
        image_id=str(index),
        group=f"p{index // 2}",
        label=label,
        y_src=y_src,
        y_cf=NORMAL,
        x=x,
        x_factual=x + np.float32(null),
        x_null=x + np.float32(null),
        x_cf=x - np.float32(edit) * left,
        x_back=x + np.float32(back),
        evidence=np.where(mask, 1.0, -1.0) if label == SICK else None,
        mask=mask,
    )


@pytest.fixture
def cases():
    sick = [explained(i, SICK, SICK) for i in range(12)]
    return sick + [explained(100 + i, NORMAL, NORMAL, edit=0.1) for i in range(8)]


def test_every_measure_of_known_explanations(cases):
    scores = scorecard(cases, bright_half, bright_half, seed=0, smoothing_px=0.0)
    expected = {
        "flip_rate": (1, 12),
        "flip_rate_self": (1, 12),
        "flip_rate_null": (0, 12),
        "null_edit": (NULL, 20),
        "composition_mae": (NULL, 20),
        "reversibility_mae": (NULL, 12),
        "reversibility_ratio": (1, 12),
        "minimality": (EDIT / 2 + NULL, 12),
        # Half of the image is edited; the null edit is taken off both.
        "control_edit_ratio": ((0.05 - NULL) / (EDIT / 2 - NULL), 20),
        "pointing_game": (1, 12),
        "energy_in_mask": (1, 12),
    }
    for name, (value, n) in expected.items():
        assert scores[name]["value"] == pytest.approx(value, abs=1e-5), name
        assert scores[name]["n"] == n, name
    # Every image was built alike, so resampling patients changes nothing.
    assert scores["reversibility_ratio"]["low"] == pytest.approx(1, abs=1e-5)
    likeness = np.mean([ssim(case.x_factual, case.x) for case in cases])
    assert scores["composition_ssim"]["value"] == pytest.approx(likeness)
    for name in ("control_edit_ratio_forced", "realism", "realism_real"):
        assert scores[name] == {"value": None, "low": None, "high": None, "n": 0}


def test_only_images_that_the_judge_calls_the_source_can_flip(cases):
    called_sick_wrongly = explained(200, NORMAL, SICK)
    scores = scorecard([*cases, called_sick_wrongly], bright_half, None, seed=0)
    assert scores["flip_rate"]["n"] == 12
    assert scores["flip_rate_self"]["n"] == 0


def test_a_flip_that_noise_alone_makes_is_told_apart(cases):
    healthy = cases[-1].x
    noisy = [dataclasses.replace(case, x_null=healthy) for case in cases]
    scores = scorecard(noisy, bright_half, None, seed=0)
    assert scores["flip_rate_null"]["value"] == 1


def test_half_of_the_flips_with_its_interval():
    rows = [explained(2 * i, SICK, SICK, edit=EDIT if i % 2 else 0.0) for i in range(400)]
    flip = scorecard(rows, bright_half, None, seed=0)["flip_rate"]
    assert flip["value"] == 0.5
    # A share of 400 independent patients: 1.96 standard errors, and the bootstrap's own error.
    for bound in ("low", "high"):
        assert abs(flip[bound] - 0.5) == pytest.approx(1.96 * 0.025, abs=0.012)


def test_forced_controls_are_a_measure_of_their_own(cases):
    forced = [explained(100 + i, NORMAL, SICK, edit=0.2) for i in range(8)]
    scores = scorecard(cases, bright_half, None, seed=0, forced=forced)
    without = scorecard(cases, bright_half, None, seed=0)
    expected = (0.1 - NULL) / (EDIT / 2 - NULL)
    assert scores["control_edit_ratio_forced"]["value"] == pytest.approx(expected, abs=1e-5)
    assert {k: v for k, v in scores.items() if not k.endswith("_forced")} == {
        k: v for k, v in without.items() if not k.endswith("_forced")
    }


def test_realism_compares_edited_images_with_real_ones_of_their_target(cases):
    def features(images):
        return images.reshape(len(images), -1)[:, ::9]

    scores = scorecard(cases, None, None, seed=0, features=features)
    assert scores["realism"]["n"] == 20
    assert scores["realism_real"]["n"] == 8
    assert scores["realism"]["value"] > scores["realism_real"]["high"]


def test_a_wrongly_called_image_is_located_by_its_true_class(cases):
    flipped = dataclasses.replace(cases[0], y_src=NORMAL, y_cf=SICK, evidence=-cases[0].evidence)
    scores = scorecard([flipped], None, None, seed=0, smoothing_px=0.0)
    assert scores["pointing_game"]["value"] == scores["energy_in_mask"]["value"] == 1


def test_measures_without_images_are_null(cases):
    blank = dataclasses.replace(cases[0], label=None, y_src=NORMAL, evidence=None, mask=None)
    scores = scorecard([blank], bright_half, bright_half, seed=0)
    assert scores["null_edit"]["n"] == 1
    for name in ("flip_rate", "reversibility_ratio", "control_edit_ratio", "pointing_game"):
        assert scores[name] == {"value": None, "low": None, "high": None, "n": 0}, name


def test_nothing_explained_is_refused():
    with pytest.raises(ValueError, match="no explanation to score"):
        scorecard([], None, None, seed=0)
