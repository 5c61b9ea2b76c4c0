"""The gate: false alarms as stated, both directions seen, few and missing trials understood."""

import json

import numpy as np
import pytest

from diffdx.uncertainty.error_profile import error_profile, mean_curve
from diffdx.uncertainty.out_of_distribution import OutOfDistributionGate, fit_gate


def usual_errors(
    n: int, rng: np.random.Generator, *, trials: int = 31, classes: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Errors that fall with log-SNR, with image effects common to all noise levels and noise."""
    logsnr = rng.uniform(-8, 8, (n, trials)).astype(np.float32)
    image = rng.normal(scale=0.3, size=(n, 1, 1)) + rng.normal(
        scale=0.05, size=(n, 1, 1)
    ) * np.sign(logsnr[:, None])
    lead = rng.normal(scale=0.1, size=(n, classes, 1))
    noise = rng.normal(scale=0.1, size=(n, classes, trials))
    errors = np.exp(-1 - 0.2 * logsnr[:, None] + image + lead + noise)
    return errors.astype(np.float32), logsnr


@pytest.fixture(scope="module")
def gate() -> OutOfDistributionGate:
    return fit_gate(*usual_errors(600, np.random.default_rng(0)))


def test_false_alarms_are_as_frequent_as_stated() -> None:
    """P values of usual images are uniform: checked at three rates over calibration sets."""
    rng = np.random.default_rng(1)
    p = np.array(
        [fit_gate(*usual_errors(100, rng)).p_values(*usual_errors(40, rng)) for _ in range(60)]
    )
    for rate in (0.04, 0.1, 0.5):
        per_set = (p <= rate + 1e-9).mean(axis=1)
        exact = np.floor(rate * 51 + 1e-9) / 51  # p lies on a lattice of 1/51
        error = per_set.std(ddof=1) / np.sqrt(len(per_set))
        assert per_set.mean() == pytest.approx(exact, abs=3 * error)


@pytest.mark.parametrize("factor", [0.15, 6.0])
def test_errors_too_large_and_too_small_are_both_foreign(
    gate: OutOfDistributionGate, factor: float
) -> None:
    errors, logsnr = usual_errors(50, np.random.default_rng(2))
    assert gate.flags(errors, logsnr).mean() < 0.3
    assert gate.flags(errors * np.float32(factor), logsnr).all()


def test_a_shape_that_no_usual_image_has_is_foreign(gate: OutOfDistributionGate) -> None:
    """Levels within the usual range everywhere, yet high at one end and low at the other."""
    errors, logsnr = usual_errors(50, np.random.default_rng(3))
    tilted = errors * np.exp(0.04 * logsnr[:, None])
    assert gate.flags(tilted.astype(np.float32), logsnr).mean() > 0.9


def test_a_class_that_fits_too_well_is_foreign(gate: OutOfDistributionGate) -> None:
    errors, logsnr = usual_errors(50, np.random.default_rng(4))
    for favoured in (0, 1):
        gain = np.where(np.arange(2) == favoured, -0.6, 0.6)[None, :, None]
        assert gate.flags((errors * np.exp(gain)).astype(np.float32), logsnr).all()


def test_the_order_of_two_classes_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    calib, new = usual_errors(100, rng), usual_errors(20, rng)
    swapped = fit_gate(calib[0][:, ::-1], calib[1])
    np.testing.assert_allclose(
        swapped.surprise(new[0][:, ::-1], new[1]), fit_gate(*calib).surprise(*new), rtol=1e-6
    )


def test_stopped_images_are_compared_like_with_like(gate: OutOfDistributionGate) -> None:
    """Fewer trials than in calibration: noisier means, yet hardly more false alarms."""
    errors, logsnr = usual_errors(400, np.random.default_rng(6))
    errors[:, :, 9:] = np.nan
    # 5% stated; three standard errors of 400 images and of the 300 that rank are .05.
    assert gate.flags(errors, logsnr).mean() < 0.10
    assert gate.flags(errors * np.float32(6), logsnr).mean() > 0.95
    alone = errors.copy()
    alone[:, :, 1:] = np.nan  # one trial: all bins but one are empty
    assert np.isfinite(gate.surprise(alone, logsnr)).all()
    assert gate.flags(alone, logsnr).mean() < 0.10


def test_an_eliminated_class_is_left_out_of_the_level() -> None:
    errors, logsnr = usual_errors(30, np.random.default_rng(7), classes=3)
    edges, curve = np.array([0.0]), mean_curve(errors, logsnr)
    full = error_profile(errors, logsnr, edges, curve)
    assert full.counts.shape[1] == 2 + 2 * 1  # two levels, one lead of each of two classes
    errors[:, 2] = np.inf
    left = error_profile(errors, logsnr, edges, curve)
    pair = error_profile(errors[:, :2], logsnr, edges, curve)
    np.testing.assert_allclose(left.means[:, :3], pair.means)
    assert (left.counts[:, 3] == 0).all()


def test_levels_and_leads_by_hand() -> None:
    errors = np.exp(np.array([[[1.0, 2.0], [3.0, 6.0]]]))
    logsnr = np.array([[-1.0, 1.0]])
    made = error_profile(errors, logsnr, np.array([0.0]), np.zeros((2, 1)))
    # Levels 2 and 4; the second class leads by 1 - 3 = -2 and 2 - 6 = -4, mean -3.
    np.testing.assert_allclose(made.means, [[2.0, 4.0, -3.0]])
    np.testing.assert_allclose(made.squares, [[0.0, 0.0, 2.0]])
    np.testing.assert_allclose(made.counts, [[1.0, 1.0, 2.0]])


def test_curve_is_the_mean_log_error() -> None:
    errors, logsnr = usual_errors(400, np.random.default_rng(8))
    at, mean = mean_curve(errors, logsnr)
    assert (np.diff(at) > 0).all()
    # Image effects of .31 over 400 images, drawn again by each point's 517 trials: a standard error
    # of .31 (1/400 + 1/517)^.5 = .021; four of them for the largest of 24 points.
    np.testing.assert_allclose(mean, -1 - 0.2 * at, atol=0.084)


def test_patients_count_once_and_json_keeps_all() -> None:
    errors, logsnr = usual_errors(300, np.random.default_rng(9))
    made = fit_gate(errors, logsnr, groups=[f"p{i // 3}" for i in range(300)])
    assert len(made.scores) == 50
    again = OutOfDistributionGate.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made
    np.testing.assert_array_equal(again.flags(errors, logsnr), made.flags(errors, logsnr))


def test_too_few_patients_make_a_gate_that_never_flags_and_says_so() -> None:
    errors, logsnr = usual_errors(59, np.random.default_rng(10))
    made = fit_gate(errors, logsnr)
    assert not made.flags(errors * np.float32(100), logsnr).any()
    assert "too few calibration patients" in made.notices()[0]
    fine = usual_errors(60, np.random.default_rng(10))
    assert fit_gate(*fine).notices() == []
    assert "30 to rank by" in fit_gate(*fine, false_alarm=0.01).notices()[0]
    with pytest.raises(ValueError, match="there are none"):
        fit_gate(errors[:0], logsnr[:0])
    with pytest.raises(ValueError, match="false_alarm must lie"):
        fit_gate(errors, logsnr, false_alarm=1.0)
