"""Explanations of Gaussian classes: what they must say is known without any training."""

import numpy as np
import pytest
import torch

from diffdx.backbones.analytic import GaussianClasses
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.voting import mean_error
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.data.dataset import Record
from diffdx.errors import ConfigError
from diffdx.explain.counterfactual import EditSettings
from diffdx.explain.difference import difference_map, null_spread, significance
from diffdx.explain.evidence import evidence_parts, over_pixels, vote_agrees
from diffdx.explain.explainer import Explainer, ExplainSettings, Explanation
from diffdx.explain.judges import RememberedJudge

STD, SIDE = 0.3, 8
LEFT = slice(0, SIDE // 2)


@pytest.fixture(scope="module")
def model():
    """Two classes, dark and bright in the left half, with the exact denoiser."""
    config = ModelConfig(
        data=DataConfig(image_size=SIDE),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    )
    made = DiffusionModel(config, ("DARK", "BRIGHT"), "BRIGHT")
    images = torch.zeros(2, 1, SIDE, SIDE)
    images[0, ..., LEFT], images[1, ..., LEFT] = -0.5, 0.5
    made.denoiser = GaussianClasses(made.transform.encode(images), STD)
    made.anchor = torch.nn.Parameter(torch.zeros(1))
    return made.eval()


def drawn(model, y, seed):
    means = model.transform.decode(model.denoiser.means)
    noise = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return means[y] + STD * noise


def items(model, labels):
    return [
        (Record(f"i{i}", f"i{i}.png", model.classes[y], f"p{i // 2}"), drawn(model, y, i), None)
        for i, y in enumerate(labels)
    ]


def settings(**options):
    edit = {"logsnr_start": -4.0, "guidance_scale": 1.0, "num_steps": 30, "method": "noise"}
    edit |= options.pop("edit", {})
    return ExplainSettings(
        **{"y_cf": 0, "num_trials": 31, "bank_size": 31, "edit": EditSettings(**edit), **options}
    )


@pytest.fixture(scope="module")
def explained(model):
    return Explainer(model, settings()).explain(items(model, [1, 0, 1]))


def test_a_bright_image_becomes_dark_and_is_called_so(explained):
    for result in (explained[0], explained[2]):
        assert isinstance(result, Explanation)
        one = result.explained
        assert (one.label, one.y_src, one.y_cf) == (1, 1, 0)
        assert (result.y_hat, result.y_hat_cf) == (1, 0)
        # The means are 1 apart in the left half, and most of that is given back at log-SNR -4.
        assert one.difference[0][:, LEFT].mean() < -0.7
        assert np.abs(one.difference[0][:, SIDE // 2 :]).max() < 1e-4
        assert result.share[1] > 0.9
        assert result.share_cf[0] > 0.9


def test_the_evidence_lies_where_the_classes_differ_and_is_the_margin(explained, model):
    judged = Explainer(model, settings()).judge([x for _, x, _ in items(model, [1, 0, 1])])
    for result, before in zip(explained, judged, strict=True):
        one = result.explained
        mean = mean_error(before.errors[None], before.logsnr[None])[0]
        other = 1 - one.y_src
        assert result.margin == pytest.approx(mean[other] - mean[one.y_src], abs=1e-5 * mean.sum())
        assert result.margin > 0
        assert one.evidence.sum() == pytest.approx(result.margin, rel=1e-4)
        # The exact denoiser's residuals differ in the left half alone.
        assert np.abs(one.evidence[:, SIDE // 2 :]).sum() < 1e-4 * result.margin
        assert result.vote_agrees


def test_the_same_class_changes_exactly_nothing(explained):
    control = explained[1]
    assert control.explained.y_src == control.explained.y_cf == 0
    assert (control.explained.difference == 0).all()


def test_a_control_is_explained_once_more_as_the_other_class(explained):
    assert explained[0].forced is None
    forced = explained[1].forced
    assert (forced.y_src, forced.y_cf, forced.label) == (1, 0, 0)
    assert forced.evidence is None
    assert forced.group == "p0"


def test_calls_are_reported(explained):
    for result in explained:
        # factual, counterfactual, null edit, return: 30 steps each, unguided.
        assert result.explained.nfe == 4 * 30
        assert result.nfe_classify == 2 * 2 * 31


def test_an_image_does_not_depend_on_the_others(model, explained):
    (alone,) = Explainer(model, settings(batch_size=3)).explain(items(model, [1, 0, 1])[2:])
    # Records differ in nothing but their place.
    for name in ("x_factual", "x_cf", "x_null", "x_back", "evidence"):
        expected = getattr(explained[2].explained, name)
        np.testing.assert_allclose(getattr(alone.explained, name), expected, atol=2e-5)


def test_known_classifications_cost_nothing(model, explained):
    explainer = Explainer(model, settings())
    chosen = items(model, [1, 0, 1])
    judged = explainer.judge([x for _, x, _ in chosen])
    judged[1] = ValueError("not there")
    free = [type(one)(one.errors, one.logsnr, one.maps, 0) for one in (judged[0], judged[2])]
    results = explainer.explain(chosen, [free[0], judged[1], free[1]])
    assert results[1] is judged[1]
    for n in (0, 2):
        assert results[n].nfe_classify == 2 * 31, "the counterfactual's only"
        assert results[n].margin == pytest.approx(explained[n].margin)


def test_an_image_that_cannot_be_judged_gives_its_error(model):
    record, x, mask = items(model, [1])[0]
    results = Explainer(model, settings()).explain([(record, x * torch.nan, mask)])
    assert "not finite" in str(results[0])
    both = Explainer(model, settings()).explain([(record, x * torch.nan, mask), (record, x, mask)])
    assert isinstance(both[0], Exception)
    assert isinstance(both[1], Explanation)


def test_the_source_may_be_named_and_a_trajectory_kept(model):
    asked = settings(y_src=1, keep_trajectory=True, edit={"draws": 3, "num_steps": 8})
    (result,) = Explainer(model, asked).explain(items(model, [0]))
    assert (result.y_hat, result.explained.y_src) == (0, 1)
    assert result.margin < 0, "nothing speaks for the class that was named"
    assert result.trajectory.shape == (8, 1, SIDE, SIDE)
    assert result.significance.shape == (SIDE, SIDE)


def test_modes_and_random_state_are_untouched(model):
    model.train()
    state = torch.get_rng_state()
    Explainer(model, settings()).explain(items(model, [1]))
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()


@pytest.mark.parametrize("y", [{"y_cf": 2}, {"y_cf": -1}, {"y_src": 5}])
def test_an_unknown_class_is_refused(model, y):
    with pytest.raises(ConfigError, match="none of 0"):
        Explainer(model, settings(**y))


def test_a_level_outside_the_schedule_and_a_short_bank_are_refused(model):
    with pytest.raises(ConfigError, match="--t-start 5e"):
        Explainer(model, settings(edit={"logsnr_start": 5e8}))
    with pytest.raises(ConfigError, match="bank of 31"):
        settings(num_trials=32)


class TestMaps:
    def test_significance_is_the_change_over_the_spread_of_redraws(self):
        rng = np.random.default_rng(0)
        factual = rng.normal(0, 0.2, (400, 1, 16, 16)).astype(np.float32)
        change = np.zeros((16, 16), np.float32)
        change[:, :8] = 0.5
        z = significance(factual + change, factual)
        np.testing.assert_allclose(difference_map(factual + change, factual), change, atol=1e-6)
        # A null edit has standard deviation sqrt(2) 0.2; its estimate from 400 draws errs by 3.5%,
        # four standard errors are 14%.
        np.testing.assert_allclose(null_spread(factual), 2**0.5 * 0.2, rtol=0.14)
        np.testing.assert_allclose(z[:, :8], 0.5 / (2**0.5 * 0.2), rtol=0.16)
        assert (z[:, 8:] == 0).all()

    def test_null_edits_pass_for_significant_one_time_in_twenty(self):
        rng = np.random.default_rng(1)
        draws = rng.normal(0, 0.1, (40, 1, 64, 64)).astype(np.float32)
        z = (draws[0, 0] - draws[1, 0]) / null_spread(draws)
        # 4.55% of 4096 pixels; the standard error is 0.33%, and pooling leaves the spread 2% off.
        assert np.mean(np.abs(z) > 2) == pytest.approx(0.0455, abs=4 * 0.0033 + 0.005)

    def test_one_draw_has_no_spread(self):
        with pytest.raises(ValueError, match="at least 2 draws"):
            null_spread(np.zeros((1, 1, 4, 4), np.float32))

    def test_evidence_is_antisymmetric_and_against_the_rest_for_the_class_itself(self):
        maps = np.random.default_rng(0).random((3, 4, 4, 2)).astype(np.float32)
        np.testing.assert_allclose(evidence_parts(maps, 0, 2), -evidence_parts(maps, 2, 0))
        rest = (evidence_parts(maps, 1, 0) + evidence_parts(maps, 1, 2)) / 2
        np.testing.assert_allclose(evidence_parts(maps, 1, 1), rest, rtol=1e-5, atol=1e-6)

    def test_a_smaller_map_is_spread_evenly_over_the_image(self):
        parts = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
        np.testing.assert_array_equal(over_pixels(parts, 2, 2), parts)
        spread = over_pixels(parts, 8, 4)
        assert spread.shape == (8, 4, 2)
        np.testing.assert_allclose(spread[4:, :2].sum(axis=(0, 1)), parts[1, 0])
        with pytest.raises(ValueError, match="does not cover"):
            over_pixels(parts, 3, 4)

    def test_a_vote_that_leans_the_other_way_is_noticed(self):
        # Class 0 wins four trials of five by little and loses one by much.
        errors = np.array([[[1, 1, 1, 1, 9], [2, 2, 2, 2, 1]]], np.float32)
        margin = float(errors[0, 1].mean() - errors[0, 0].mean())
        assert margin < 0
        assert not vote_agrees(errors, margin, 0, 1)
        assert vote_agrees(errors, -margin, 0, 1)
        assert not vote_agrees(errors, margin, 0, 0)


def test_the_model_judges_what_it_has_seen():
    judge = RememberedJudge(3)
    first, second = np.zeros((1, 2, 2), np.float32), np.ones((1, 2, 2), np.float32)
    judge.remember(first, 2)
    judge.remember(second, 0)
    assert judge(np.stack([second, first])).argmax(axis=1).tolist() == [0, 2]
