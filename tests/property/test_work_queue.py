"""The queue: images end where their rule says, whatever the batches were, and cost no more."""

import numpy as np
import pytest
import torch
from torch import nn

from diffdx.backbones.denoiser import Denoiser
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.stopping import Elimination, stopping_rule, truncated
from diffdx.classification.stopping.rule import NoStop
from diffdx.classification.work import Ending
from diffdx.diffusion.schedule import ShiftedCosine
from diffdx.errors import ConfigError

SHAPE, SCHEDULE, TRIALS = (1, 4, 4), ShiftedCosine(), 61


class Shifted(Denoiser):
    """Its error has a class-dependent part, so that some images are easy and some are not."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.num_classes = num_classes
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.means = nn.Parameter(torch.randn(num_classes + 1, *SHAPE))
        self.rows = []

    def forward(self, z_t, logsnr, y):
        self.rows.append(len(y))
        return z_t * 0.3 - 0.4 * self.means[y]


def images(count):
    generator = torch.Generator().manual_seed(7)
    return list(torch.rand(count, *SHAPE, generator=generator) * 2 - 1)


def run(stream, *, num_classes=2, denoiser=None, **options):
    bank = TrialBank(size=TRIALS)
    denoiser = denoiser or Shifted(num_classes)
    return list(denoising_errors(denoiser, SCHEDULE, stream, bank, num_trials=TRIALS, **options))


def ending(stop="none", *, num_classes=2, eliminate=False, budget=None):
    shared = {"num_classes": num_classes, "num_trials": TRIALS}
    rule = None if stop == "none" else stopping_rule(stop, rule="vote", ties="split", **shared)
    return Ending(
        rule, Elimination(num_classes, TRIALS, strictness=0.05) if eliminate else None, budget
    )


ENDINGS = [
    ("exact", 2, False),
    ("0.05", 2, False),
    ("share:0.4", 2, False),
    ("0.05", 4, False),
    ("none", 4, True),
    ("exact", 4, True),
]


@pytest.mark.parametrize(("stop", "num_classes", "eliminate"), ENDINGS)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_stopped_run_is_the_full_run_cut_by_its_rule(stop, num_classes, eliminate, batch_size):
    stream = images(9)
    when = ending(stop, num_classes=num_classes, eliminate=eliminate)
    full = run(stream, num_classes=num_classes)
    errors, logsnr = (np.stack([getattr(r, a) for r in full]) for a in ("errors", "logsnr"))
    expected = truncated(errors, logsnr, when.stop or NoStop(TRIALS), when.elimination)
    results = run(stream, num_classes=num_classes, batch_size=batch_size, ending=when)
    assert {r.stopped_by for r in results} - {"none"}
    for result, row in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.errors, row, rtol=1e-5)
        assert np.array_equal(np.isinf(result.errors), np.isinf(row))
        assert (result.stopped_by == "none") == (not np.isnan(row).any())


@pytest.mark.parametrize(("stop", "num_classes", "eliminate"), ENDINGS)
def test_a_deterministic_run_stops_at_the_same_bytes_in_any_order(stop, num_classes, eliminate):
    stream, order = images(5), [3, 0, 4, 1, 2]
    when = ending(stop, num_classes=num_classes, eliminate=eliminate)
    options = {"num_classes": num_classes, "deterministic": True, "ending": when}
    first = run(stream, **options)
    moved = run([stream[i] for i in order], batch_size=5, **options)
    for position, index in enumerate(order):
        assert np.array_equal(moved[position].errors, first[index].errors, equal_nan=True)
        assert moved[position].stopped_by == first[index].stopped_by


def test_nothing_is_computed_in_vain_while_other_images_fill_the_batch():
    denoiser = Shifted()
    results = run(images(200), denoiser=denoiser, batch_size=16, ending=ending("0.05"))
    used = [int(np.isfinite(r.errors).sum()) for r in results]
    assert sum(r.calls for r in results) == sum(denoiser.rows)
    # Only the last images run ahead, by an eighth.
    assert all(r.calls == n for r, n in zip(results[:-20], used[:-20], strict=True))
    assert sum(r.calls for r in results) <= 1.02 * sum(used)
    assert max(denoiser.rows) <= 16
    # Full batches, but for the first images of the last ones.
    assert np.mean(np.array(denoiser.rows) == 16) > 0.8


def test_a_lone_image_runs_ahead_by_an_eighth_at_most():
    for x in images(12):
        (result,) = run([x], ending=ending("0.05"))
        used = int(np.isfinite(result.errors).sum())
        assert used <= result.calls <= used * 9 / 8 + 2


def test_dropped_classes_cost_nothing():
    (plain,) = run(images(1), num_classes=4)
    (result,) = run(images(1), num_classes=4, ending=ending(num_classes=4, eliminate=True))
    finite = np.isfinite(result.errors)
    assert finite.sum() < plain.errors.size
    assert result.calls <= finite.sum() * 9 / 8 + 4


class Clock:
    """Each reading is a second after the one before: every batch takes one second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize(("seconds", "least", "most"), [(0.001, 1, 1), (5.0, 3, 61)])
def test_a_time_budget_ends_an_image_after_at_least_one_trial(monkeypatch, seconds, least, most):
    monkeypatch.setattr("diffdx.classification.denoising_errors.time.perf_counter", Clock())
    results = run(images(4), batch_size=8, ending=ending(budget=seconds))
    for result in results:
        trials = int(np.isfinite(result.errors[0]).sum())
        assert least <= trials <= most
        assert result.stopped_by == ("none" if trials == TRIALS else "budget")
    assert {r.stopped_by for r in results} == {"budget"}


def test_a_time_budget_is_refused_where_results_must_not_depend_on_time():
    with pytest.raises(ConfigError, match="never deterministic"):
        run(images(1), deterministic=True, ending=ending(budget=1.0))


def test_an_image_that_cannot_be_judged_ends_at_once_and_the_others_go_on():
    stream = images(3)
    stream[1] = torch.full(SHAPE, torch.nan)
    denoiser = Shifted()
    results = run(stream, denoiser=denoiser, batch_size=8, ending=ending("exact"))
    assert [r.failure is None for r in results] == [True, False, True]
    assert "not finite" in str(results[1].failure)
    assert results[1].calls < 2 * TRIALS


def test_images_are_read_only_as_the_queue_needs_them():
    opened = []

    def stream():
        for x in images(30):
            opened.append(x)
            yield x

    bank, seen = TrialBank(size=TRIALS), []
    for result in denoising_errors(
        Shifted(), SCHEDULE, stream(), bank, num_trials=TRIALS, batch_size=4, ending=ending("exact")
    ):
        seen.append(result.index)
        # Two pairs fit a batch, so two images are open; others wait for their turn to leave.
        assert len(opened) <= len(seen) + 6
    assert seen == list(range(30))
