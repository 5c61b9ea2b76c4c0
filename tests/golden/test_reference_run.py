"""The committed chest X-ray model and its stored errors: what they were, they still are.

Provenance: `assets/README.md` lists the commands. The forward pass was recorded in float32 on a CPU
with torch 2.13 and diffusers 0.42 from the committed weights.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdx._files import sha256
from diffdx._random import philox_normal
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.store import read_errors
from diffdx.config import PRESETS, resolve_config
from diffdx.data import open_dataset
from diffdx.evaluation import evaluate_predictions

ROOT = Path(__file__).parents[2]
ASSET = ROOT / "assets" / "cxr64"
CHEST_XRAY = ROOT.parent / "shared" / "data" / "chest-xray"
STORES = [ASSET / "errors" / role for role in ("calib", "test")]
COPIES = ASSET / "errors" / "calib-altered"


@pytest.fixture(scope="module")
def model():
    return DiffusionModel.load(ASSET)


def test_the_weights_are_the_recorded_ones(model):
    weights = ASSET / "checkpoints" / "best" / "model.safetensors"
    assert sha256(weights) == model.sha256
    assert model.classes == ("NORMAL", "PNEUMONIA")
    assert model.positive == "PNEUMONIA"


def test_one_forward_pass(model):
    z_t = philox_normal(torch.tensor([7] * 4), torch.arange(4), model.shape)
    with torch.no_grad():
        v_hat = model(z_t, torch.tensor([-6.0, -2.0, 2.0, 6.0]), torch.tensor([0, 1, 0, 2]))
    energy = torch.tensor([0.239969, 0.164437, 1.090583, 1.554513])
    pixel = torch.tensor([-0.287505, -0.078506, -2.846177, 2.908345])
    torch.testing.assert_close(v_hat.square().mean((1, 2, 3)), energy, rtol=1e-4, atol=0)
    torch.testing.assert_close(v_hat[:, 0, 5, 7], pixel, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("tiny", 1_906_116), ("small", 7_264_196), ("base", 22_292_676)]
)
def test_presets_keep_their_size(preset, parameters):
    assert preset in PRESETS
    built = DiffusionModel(resolve_config(preset).model, ("A", "B"))
    assert sum(p.numel() for p in built.parameters()) == parameters


@pytest.mark.parametrize("store", STORES, ids=lambda path: path.name)
def test_summaries_follow_from_the_stored_errors(store, tmp_path):
    shutil.copytree(store, tmp_path / "copy")
    recorded = json.loads((store / "summary.json").read_text())
    again = evaluate_predictions(tmp_path / "copy")
    assert again["by_rule"].keys() == recorded["by_rule"].keys()
    for rule, scores in recorded["by_rule"].items():
        for name, score in scores.items():
            assert again["by_rule"][rule][name] == pytest.approx(score, abs=1e-12)


def test_the_stores_are_small_and_of_this_model(model):
    trials = {**dict.fromkeys(STORES, 501), COPIES: 101}
    assert sum((store / "errors.parquet").stat().st_size for store in trials) < 20e6
    for store, num_trials in trials.items():
        info = json.loads((store / "classify.json").read_text())
        assert info["model_sha256"] == model.sha256
        assert (info["trials"], info["n_failed"]) == (num_trials, 0)


@pytest.mark.skipif(not CHEST_XRAY.is_dir(), reason="the chest X-ray images are not here")
def test_an_image_is_classified_as_stored(model):
    ids, stored, logsnr = read_errors(ASSET / "errors" / "test" / "errors.parquet")
    index, trials = 300, 8
    record = open_dataset(CHEST_XRAY).select([ids[index]]).records[0]
    pixels = open_dataset(CHEST_XRAY).pixels(record)
    image = torch.from_numpy(model.preprocess(pixels))
    (result,) = denoising_errors(
        model.denoiser,
        model.schedule,
        [image],
        TrialBank(),
        num_trials=trials,
        encode=model.transform.encode,
    )
    np.testing.assert_allclose(result.logsnr, logsnr[index, :trials], rtol=1e-5, atol=1e-5)
    # Stored in bf16, recomputed in fp32: 8 bits of mantissa in every product.
    np.testing.assert_allclose(result.errors, stored[index, :, :trials], rtol=0.05)
