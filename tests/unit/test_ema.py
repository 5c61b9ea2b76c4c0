"""The moving average of the weights: its decay, what it covers, and that it is the one used."""

import copy

import numpy as np
import pytest
import torch

from diffdx._interrupt import Interrupted, StopRequest
from diffdx.backbones.model import DiffusionModel
from diffdx.config import (
    DataConfig,
    EMAConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    UNetConfig,
)
from diffdx.data.dataset import Record
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable

BETA, INV_GAMMA, POWER = 0.6, 2.0, 0.8
CONFIG = RunConfig(
    model=ModelConfig(
        data=DataConfig(image_size=16),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    ),
    train=TrainConfig(
        steps=8,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=0,
        checkpoint_every=4,
        ema=EMAConfig(beta=BETA, inv_gamma=INV_GAMMA, power=POWER),
    ),
)


def table():
    stored = np.random.default_rng(0).integers(0, 256, (12, 1, 16, 16)).astype(np.uint8)
    records = [Record(str(i), f"{i}.png") for i in range(12)]
    return ImageTable(stored, np.array([0, 1] * 6), records)


def new_trainer(run):
    torch.manual_seed(0)
    model = DiffusionModel(CONFIG.model, ("A", "B"), "B")
    return Trainer(model, table(), CONFIG, run, device=torch.device("cpu"), precision="fp32")


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def scores(model):
    assert not model.training, "the averaged model is scored in eval mode"
    return {"auroc": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run: trainer, first weights, and the raw weights after each step."""
    trainer = new_trainer(tmp_path_factory.mktemp("run"))
    first, raw = weights(trainer.model), []
    trainer.fit(
        stop=StopRequest(),
        validate=scores,
        on_step=lambda report: raw.append(weights(trainer.model)),
    )
    return trainer, first, raw


def test_the_average_follows_the_documented_decay(trained):
    """beta_n = min(beta, 1 - (1 + n / inv_gamma)^-power), n steps after the first copy."""
    trainer, _, raw = trained
    expected = copy.deepcopy(raw[0])
    for n, after in enumerate(raw[1:], start=1):
        decay = min(BETA, 1 - (1 + n / INV_GAMMA) ** -POWER)
        expected = {name: decay * expected[name] + (1 - decay) * after[name] for name in expected}
    averaged = weights(trainer.ema.ema_model)
    # The cap must have been met, or this would test one branch only.
    assert 1 - (1 + 7 / INV_GAMMA) ** -POWER >= BETA > 1 - (1 + 1 / INV_GAMMA) ** -POWER
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_it_differs_from_the_first_and_the_last_weights_everywhere(trained):
    trainer, first, raw = trained
    averaged = weights(trainer.ema.ema_model)
    embedding = "denoiser.unet.class_embedding.weight"
    assert embedding in averaged
    for name, value in averaged.items():
        if name.startswith("denoiser."):
            assert not torch.equal(value, first[name]), name
            assert not torch.equal(value, raw[-1][name]), name


def test_it_is_what_is_saved_and_loaded(trained):
    trainer, _, _ = trained
    loaded = weights(DiffusionModel.load(trainer.run))
    averaged = weights(trainer.ema.ema_model)
    assert loaded.keys() == averaged.keys()
    assert all(torch.equal(loaded[name], averaged[name]) for name in loaded)


def test_it_is_in_eval_mode_while_the_raw_model_trains(trained):
    trainer, _, _ = trained
    assert trainer.model.training
    assert not any(part.training for part in trainer.ema.ema_model.modules())


def test_it_survives_a_resume(trained, tmp_path):
    """Four steps, a new process's worth of objects, four more: the same average."""
    whole, _, _ = trained
    stop, half = StopRequest(), new_trainer(tmp_path)

    def ask_at_four(report):
        stop.signal_number = 15 if report.step == 4 else None

    with pytest.raises(Interrupted, match="SIGTERM"):
        half.fit(stop=stop, validate=scores, on_step=ask_at_four)
    rest = new_trainer(tmp_path)
    rest.resume()
    assert rest.progress.step == 4
    at_four = weights(half.ema.ema_model)
    assert all(torch.equal(v, at_four[n]) for n, v in rest.ema.ema_model.state_dict().items())
    rest.fit(stop=StopRequest(), validate=scores)
    expected = weights(whole.ema.ema_model)
    assert all(torch.equal(v, expected[n]) for n, v in rest.ema.ema_model.state_dict().items())
