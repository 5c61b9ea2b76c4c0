"""A replayed run equals a run made with these settings: stops, fewer trials, another rule."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffdx.backbones.model import DiffusionModel
from diffdx.classification.predictions import read_predictions
from diffdx.classification.replay import replay
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.store import read_errors
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.data import open_dataset
from diffdx.errors import ConfigError, DataError
from diffdx.evaluation.summary import evaluate_predictions

FULL = ClassifySettings(
    num_trials=41, bank_size=41, device="cpu", precision="fp32", deterministic=True
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("A", "B", "C"):
        (root / name).mkdir()
        for i in range(3):
            pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    (root / "C" / "1.png").write_text("not an image")
    return open_dataset(root)


def model_of(classes):
    torch.manual_seed(3)
    config = ModelConfig(
        data=DataConfig(image_size=16),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    )
    model = DiffusionModel(config, classes)
    # Wider labels: an untrained network hardly listens to its class.
    model.denoiser.unet.class_embedding.weight.data *= 3
    return model


@pytest.fixture(scope="module")
def model():
    return model_of(("A", "B", "C"))


@pytest.fixture(scope="module")
def full(model, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    classify_dataset(model, dataset, folder, FULL)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"stop": "exact"},
        {"stop": "0.1"},
        {"stop": "share:0.5"},
        {"stop": "exact", "eliminate": True},
        {"num_trials": 20, "rule": "mean", "space": "x"},
        {"num_trials": 30, "stop": "0.2", "rule": "mean", "bound": 0.5},
    ],
    ids=str,
)
def test_a_replay_is_the_run_itself(full, model, dataset, change, tmp_path):
    settings = replace(FULL, **change)
    online = classify_dataset(model, dataset, tmp_path / "online", settings)
    table = replay(full, tmp_path / "replayed", settings)
    pd.testing.assert_frame_equal(table, online.table)
    folders = [tmp_path / "online", tmp_path / "replayed"]
    ids, errors, logsnr = zip(*(read_errors(f / "errors.parquet") for f in folders), strict=True)
    assert ids[0] == ids[1]
    assert np.array_equal(errors[0], errors[1], equal_nan=True)
    assert np.array_equal(logsnr[0], logsnr[1])
    stops = [pd.read_parquet(f / "errors.parquet", columns=["stopped_by"]) for f in folders]
    pd.testing.assert_frame_equal(*stops)
    written = [json.loads((folder / "classify.json").read_text()) for folder in folders]
    for name in settings.decision:
        assert written[0][name] == written[1][name]
    assert (read_predictions(folders[1])["nfe"] <= 3 * 41).all()


def test_stops_are_recorded_and_evaluated(full, tmp_path):
    table = replay(full, tmp_path / "out", replace(FULL, stop="0.2"))
    good = table[table["status"] == "ok"]
    assert set(good["stopped_by"]) <= {"0.2", "none"}
    assert ((good["trials_used"] < 41) == (good["stopped_by"] == "0.2")).all()
    assert (good["trials_used"] < 41).any()
    summary = evaluate_predictions(tmp_path / "out", n_resamples=10)
    assert summary["stop"] == "0.2"
    assert summary["nfe"]["mean"] == good["nfe"].mean() < summary["nfe"]["full"]


def test_a_stopped_run_cannot_be_replayed_nor_time_nor_trials_never_run(full, tmp_path):
    replay(full, tmp_path / "short", replace(FULL, stop="0.2"))
    with pytest.raises(DataError, match="--stop none"):
        replay(tmp_path / "short", tmp_path / "again", FULL)
    with pytest.raises(DataError, match="43 trials"):
        replay(full, tmp_path / "long", replace(FULL, num_trials=43, bank_size=43))
    with pytest.raises(ConfigError, match="take no time"):
        replay(full, tmp_path / "timed", replace(FULL, budget_seconds=1.0))
    with pytest.raises(DataError, match=r"classify\.json"):
        replay(tmp_path, tmp_path / "none", FULL)
    with pytest.raises(ConfigError, match="other settings"):
        replay(full, tmp_path / "short", replace(FULL, stop="exact"))


def test_a_stopped_run_that_was_cut_goes_on_and_another_stop_is_refused(
    model, dataset, full, tmp_path
):
    settings = replace(FULL, stop="0.1", shard=(1, 2))
    classify_dataset(model, dataset, tmp_path, settings)
    result = classify_dataset(model, dataset, tmp_path, replace(settings, shard=None))
    expected = replay(full, tmp_path / "replayed", settings)
    pd.testing.assert_frame_equal(result.table, expected)
    with pytest.raises(ConfigError, match=r"stop: 0\.1 there, exact now"):
        classify_dataset(model, dataset, tmp_path, replace(FULL, stop="exact"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget_seconds": 0.0}, "--budget 0.0: use a positive"),
        ({"stop": "0.01", "eliminate": True}, "--eliminate with --stop 0.01"),
    ],
)
def test_settings_that_contradict_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(FULL, **change)
