"""A folder of images to a predictions folder: resumed, sharded, interrupted, with bad files."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffdx._interrupt import Interrupted
from diffdx.classification import conclusion
from diffdx.classification.predictions import read_predictions
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.store import read_errors
from diffdx.data import open_dataset
from diffdx.errors import ConfigError, DataError

SETTINGS = ClassifySettings(
    num_trials=3, bank_size=5, device="cpu", precision="fp32", deterministic=True
)
FILES = ("errors.parquet", "predictions.parquet", "predictions.csv")


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("NORMAL", "PNEUMONIA")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("NORMAL", "PNEUMONIA"):
        (root / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    bad = root / "NORMAL" / "3.png"
    bad.write_bytes(bad.read_bytes()[:150])
    (root / "PNEUMONIA" / "5.png").write_text("not an image")
    return open_dataset(root)


@pytest.fixture(scope="module")
def whole(model, dataset, tmp_path_factory):
    steps = []
    folder = tmp_path_factory.mktemp("whole")
    result = classify_dataset(
        model, dataset, folder, SETTINGS, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(i, 16) for i in range(1, 17)]
    return result


def same_files(a, b):
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in FILES)


def test_every_image_has_a_row_and_bad_files_say_why(whole, dataset):
    table = read_predictions(whole.folder)
    pd.testing.assert_frame_equal(table, whole.table)
    assert table["image_id"].tolist() == [r.image_id for r in dataset.records]
    failed = table[table["status"] == "error"]
    assert failed["image_id"].tolist() == ["NORMAL/3.png", "PNEUMONIA/5.png"]
    assert whole.n_failed == 2
    assert failed["error"].str.contains("png").all()
    assert not failed["error"].str.contains("\n").any()
    good = table[table["status"] == "ok"]
    assert (good["trials_used"] == 3).all()
    assert (good["nfe"] == 6).all()
    assert (good["votes_NORMAL"] + good["votes_PNEUMONIA"] == 3).all()
    assert read_errors(whole.folder / "errors.parquet")[0] == good["image_id"].tolist()


def test_the_record_says_what_was_done(whole, model):
    info = json.loads((whole.folder / "classify.json").read_text())
    assert info == whole.info
    expected = {
        "n": 16, "n_failed": 2, "classes": ["NORMAL", "PNEUMONIA"], "positive": "PNEUMONIA",
        "rule": "vote", "space": "v", "trials": 3, "bank": 5, "stop": "none", "seed": 0,
        "ties": "split", "device": "cpu", "precision": "fp32", "batch_size": 64,
        "model_sha256": model.sha256, "tied_trials": 0, "tied_votes": 0, "shard": None,
    }  # fmt: skip
    assert {name: info[name] for name in expected} == expected
    assert "not a medical device" in info["notice"].lower()
    assert info["seconds"] > 0
    assert info["images_per_second"] > 0
    assert isinstance(info["warnings"], list)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    model, dataset, whole, tmp_path, number, exit_code
):
    before = signal.getsignal(number)

    def interrupt(done, total):
        if done == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as caught:
        classify_dataset(model, dataset, tmp_path, SETTINGS, progress=interrupt)
    assert caught.value.exit_code == exit_code
    assert signal.getsignal(number) is before
    assert not (tmp_path / "errors.parquet").exists()

    steps = []
    classify_dataset(model, dataset, tmp_path, SETTINGS, lambda done, total: steps.append(done))
    # Three images were finished, and at most the ones already read.
    assert 4 <= steps[0] <= 6
    assert steps[-1] == 16
    assert same_files(tmp_path, whole.folder)


def test_a_second_run_computes_nothing_and_changes_nothing(model, dataset, whole, tmp_path):
    first = classify_dataset(model, dataset, tmp_path, SETTINGS)
    again = classify_dataset(model, dataset, tmp_path, SETTINGS)
    assert same_files(tmp_path, whole.folder)
    # Only the two bad files were tried again.
    assert again.n_failed == 2
    for name in ("seconds", "images_per_second"):
        assert again.info[name] == first.info[name], "the record of the evaluation is kept"


def test_shards_together_are_the_whole(model, dataset, whole, tmp_path):
    good = dataset.subset([r for r in dataset.records if r.image_id in stored_ids(whole.folder)])
    alone = classify_dataset(model, good, tmp_path / "alone", SETTINGS)
    for i in (3, 1, 2):
        shard = replace(SETTINGS, shard=(i, 3))
        result = classify_dataset(model, good, tmp_path / "shared", shard)
        assert (result.table is None) == (i != 2)
    pd.testing.assert_frame_equal(result.table, alone.table)
    for name in ("errors.parquet", "predictions.parquet", "predictions.csv"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_failed_image_of_a_shard_is_settled_by_a_run_over_all(model, dataset, whole, tmp_path):
    for i in (1, 2):
        result = classify_dataset(model, dataset, tmp_path, replace(SETTINGS, shard=(i, 2)))
    final = classify_dataset(model, dataset, tmp_path, SETTINGS)
    pd.testing.assert_frame_equal(final.table, whole.table)
    assert result.table is None or result.n_failed


def test_a_file_of_the_same_name_elsewhere_is_another_input(model, dataset, tmp_path):
    first, second = (replace_path(dataset, folder) for folder in ("a", "b"))
    classify_dataset(model, first, tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match="inputs"):
        classify_dataset(model, second, tmp_path, SETTINGS)


def stored_ids(folder):
    return set(read_errors(folder / "errors.parquet")[0])


def replace_path(dataset, folder):
    """Return the first two images as if the user had named another folder."""
    few = dataset.subset(dataset.records[:2])
    few.records = [replace(r, path=f"{folder}/../{r.path}") for r in few.records]
    return few


@pytest.mark.parametrize("images", [1, 2, 5, 13])
def test_tables_made_some_images_at_a_time_are_the_same(
    model, dataset, whole, tmp_path, monkeypatch, images
):
    for name in ("errors.parquet", "classify.json"):
        (tmp_path / name).write_bytes((whole.folder / name).read_bytes())
    monkeypatch.setattr(conclusion, "IMAGES_AT_ONCE", images)
    result = classify_dataset(model, dataset, tmp_path, SETTINGS)
    assert same_files(tmp_path, whole.folder)
    for name in ("n", "tied_trials", "tied_votes", "vote_against_mean"):
        assert result.info[name] == whole.info[name]


def test_other_settings_are_refused_unless_overwritten(model, dataset, tmp_path):
    few = dataset.subset(dataset.records[:2])
    classify_dataset(model, few, tmp_path, SETTINGS)
    other = replace(SETTINGS, seed=1)
    with pytest.raises(ConfigError, match="seed: 0 there, 1 now"):
        classify_dataset(model, few, tmp_path, other)
    anew = classify_dataset(model, few, tmp_path, replace(other, overwrite=True))
    assert anew.info["seed"] == 1


def test_strict_stops_at_the_first_bad_image_and_keeps_the_good_ones(model, dataset, tmp_path):
    strict = replace(SETTINGS, strict=True)
    for _ in range(2):
        with pytest.raises(DataError, match=r"3\.png"):
            classify_dataset(model, dataset, tmp_path, strict)
    assert not (tmp_path / "predictions.parquet").exists()
    steps = []
    classify_dataset(model, dataset, tmp_path, SETTINGS, lambda done, total: steps.append(done))
    assert steps[0] > 3


def test_it_runs_outside_the_main_thread(model, dataset, whole, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(classify_dataset, model, dataset, tmp_path, SETTINGS).result()
    assert same_files(tmp_path, whole.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_trials": 7}, "--bank"),
        ({"shard": (4, 3)}, "--shard 4/3"),
        ({"shard": (0, 3)}, "--shard 0/3"),
    ],
)
def test_settings_that_cannot_be_carried_out_are_refused_at_once(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **change)
