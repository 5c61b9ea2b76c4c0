"""The judge of edited images: a baseline that sees them as saved pictures."""

import numpy as np
import pytest
import torch

from diffdx.backbones.model import DiffusionModel
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.errors import ConfigError
from diffdx.explain.judges import BaselineJudge
from diffdx.transforms.pixels import to_uint8

pytest.importorskip("timm", reason="baselines are an extra")
classifiers = pytest.importorskip("diffdx.backbones.classifiers")


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        data=DataConfig(image_size=16),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    )
    return DiffusionModel(config, ("NORMAL", "OPACITY"))


def baseline(folder, classes):
    from diffdx.baseline_config import BaselineModelConfig, InputConfig

    torch.manual_seed(0)
    config = BaselineModelConfig(architecture="resnet18", data=InputConfig(image_size=32))
    made = classifiers.Baseline(config, classes)
    made.save(folder)
    return made.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline") / "run"
    return folder, baseline(folder, ("OPACITY", "NORMAL"))


def test_it_sees_saved_pictures_and_answers_in_the_models_order(run, model):
    folder, made = run
    judge = BaselineJudge(folder, model)
    pictures = np.random.default_rng(0).uniform(-1.2, 1.2, (3, 1, 16, 16)).astype(np.float32)
    saved = [made.preprocess(to_uint8(picture)[0]) for picture in pictures]
    x = torch.from_numpy(np.stack(saved))
    expected = made.probabilities(x).numpy()[:, ::-1]
    np.testing.assert_allclose(judge(pictures), expected, atol=1e-6)
    features = judge.features(pictures)
    assert features.shape == (3, 512)
    with torch.no_grad():
        logits = made.network.fc(torch.from_numpy(features))
        torch.testing.assert_close(logits, made(x), atol=1e-4, rtol=0)


def test_a_judge_of_other_classes_is_refused(tmp_path, model):
    baseline(tmp_path / "run", ("CAT", "NORMAL"))
    with pytest.raises(ConfigError, match="train the judge on the same classes"):
        BaselineJudge(tmp_path / "run", model)


def test_the_diffusion_model_is_no_judge_of_itself(tmp_path, model):
    model.save(tmp_path)
    with pytest.raises(ConfigError, match="must have had no part"):
        BaselineJudge(tmp_path, model)
