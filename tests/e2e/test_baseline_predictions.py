"""A run of a baseline through classify and evaluate: its tables, and what befalls broken input."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffdx._interrupt import Interrupted
from diffdx.backbones.classifiers import Baseline
from diffdx.baseline_config import BaselineModelConfig
from diffdx.classification.predictions import softmax_table
from diffdx.classification.supervised import SupervisedSettings, classify_supervised
from diffdx.cli.app import app
from diffdx.data.dataset import Dataset, MemorySource, Record
from diffdx.errors import ConfigError, DataError

CLASSES = ("healthy", "ill")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that nobody has trained: what it says is arbitrary, but always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Baseline(
            BaselineModelConfig(data={"image_size": 32}), CLASSES, "ill", ("A warning.",)
        )
    folder = tmp_path_factory.mktemp("run") / "run"
    model.save(folder / "checkpoints" / "best")
    return folder


@pytest.fixture
def images(tmp_path):
    """Six images in two class folders, one of them no image."""
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "data" / CLASSES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "data" / "ill" / "5.png").write_bytes(b"no image")
    return tmp_path / "data"


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_table_holds_the_softmax_and_the_failure(run, images, tmp_path):
    out = tmp_path / "out"
    done = invoke("classify", run, images, "--out", out, "--precision", "fp32", "--device", "cpu")
    assert done.exit_code == 3, done.output
    table = pd.read_parquet(out / "predictions.parquet").set_index("image_id")
    assert table.loc["ill/5.png", "status"] == "error"
    assert "5.png" in table.loc["ill/5.png", "error"]
    model = Baseline.load(run)
    ok = table[table["status"] == "ok"]
    assert len(ok) == 5
    for image_id, row in ok.iterrows():
        pixels = np.asarray(Image.open(images / image_id))
        x = torch.from_numpy(model.preprocess(pixels))[None]
        expected = model.probabilities(x)[0].double().numpy()
        np.testing.assert_allclose(row[["score_healthy", "score_ill"]].astype(float), expected,
                                   atol=1e-6)  # fmt: skip
        assert row["prediction"] == CLASSES[expected.argmax()]
        bits = -(expected * np.log2(expected)).sum()
        assert row["entropy_bits"] == pytest.approx(bits, abs=1e-5)
        assert (row["nfe"], row["trials_used"], row["stopped_by"]) == (1, 0, "none")
    info = json.loads((out / "classify.json").read_text())
    assert (info["kind"], info["rule"], info["n"], info["n_failed"]) == (
        "baseline",
        "softmax",
        6,
        1,
    )
    assert (info["classes"], info["positive"]) == (list(CLASSES), "ill")
    assert info["warnings"][0] == "A warning."
    assert info["model_sha256"] == model.sha256
    assert not (out / "errors.parquet").exists()
    assert (out / "predictions.csv").exists()


def test_the_batch_size_changes_nothing_and_the_same_run_may_be_repeated(run, images, tmp_path):
    tables = []
    for size in ("1", "4"):
        out = tmp_path / "out"
        invoke("classify", run, images, "--out", out, "--batch-size", size, "--precision", "fp32")
        tables.append(pd.read_parquet(out / "predictions.parquet")["score_ill"].to_numpy())
    np.testing.assert_allclose(*tables, atol=1e-5)


def test_options_of_trials_are_refused(run, images, tmp_path):
    out = tmp_path / "out"
    done = invoke("classify", run, images, "--out", out, "--stop", "0.01", "--evidence")
    assert done.exit_code == 2
    assert "leave out --stop, --evidence" in " ".join(done.stderr.split())


def test_an_option_of_trials_is_refused_even_at_its_default(run, images, tmp_path):
    given = ["--trials", "501", "--bank", "501", "--space", "v", "--deterministic"]
    done = invoke("classify", run, images, "--out", tmp_path / "out", *given)
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "leave out --trials, --bank, --space, --deterministic" in said
    done = invoke("calibrate", run, images, "--rule", "vote")
    assert done.exit_code == 2
    assert "leave out --rule" in " ".join(done.stderr.split())


def test_the_softmax_table_tells_cautions_and_failures():
    records = [
        Record("a", "a.dcm", "ill", metadata={"burned_in": "declared"}),
        Record("b", "b.dcm", "ill"),
        Record("c", "c.dcm"),
    ]
    softmax = np.array([[0.25, 0.75], [1.0, 0.0]])
    table = softmax_table(records, CLASSES, ["c", "a"], softmax, {"b": "cut short"})
    table = table.set_index("image_id")
    assert table.loc["a", "caution"] == "burned-in text: declared"
    assert table.caution.isna().tolist() == [False, True, True]
    assert table.loc[["a", "c"], "prediction"].tolist() == [CLASSES[0], CLASSES[1]]
    assert table.entropy_bits["a"] == 0
    assert table.status.tolist() == ["ok", "error", "ok"]
    assert table.error["b"] == "cut short"
    assert (table.nfe.tolist(), table.trials_used.tolist()) == ([1, 0, 1], [0, 0, 0])
    without = softmax_table(records[1:], CLASSES, [], softmax[:0], {"b": "x", "c": "y"})
    assert "caution" not in without
    assert without.status.tolist() == ["error", "error"]


def test_a_folder_of_another_run_is_not_mixed(run, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "errors.parquet").write_bytes(b"")
    refused = invoke("classify", run, images, "--out", out)
    assert refused.exit_code == 2
    assert "holds denoising errors" in " ".join(refused.stderr.split())
    replaced = invoke("classify", run, images, "--out", out, "--overwrite")
    assert replaced.exit_code == 3, replaced.output
    assert not (out / "errors.parquet").exists()
    other = invoke("classify", run, images / "healthy", "--out", out)
    assert other.exit_code == 2
    assert "another run (inputs)" in " ".join(other.stderr.split())


def dataset(*pixels):
    records = [Record(str(i), f"{i}.png", label="ill") for i in range(len(pixels))]
    return Dataset("some", records, CLASSES, "ill", False, [], MemorySource(pixels))


def test_strict_stops_at_the_first_unreadable_image(run, tmp_path, monkeypatch):
    images = dataset(np.zeros((9, 9), np.uint8))

    def broken(record):
        raise DataError("0.png: not an image")

    monkeypatch.setattr(images, "pixels", broken)
    with pytest.raises(DataError, match="not an image"):
        classify_supervised(
            Baseline.load(run), images, tmp_path / "out", SupervisedSettings(strict=True)
        )
    assert not (tmp_path / "out" / "predictions.parquet").exists()


def test_no_readable_image_leaves_a_table_of_failures(run, tmp_path, monkeypatch):
    images = dataset(np.zeros((9, 9), np.uint8))

    def broken(record):
        raise DataError("0.png: not an image")

    monkeypatch.setattr(images, "pixels", broken)
    result = classify_supervised(Baseline.load(run), images, tmp_path, SupervisedSettings())
    assert (result.n_failed, result.table["status"].tolist()) == (1, ["error"])
    assert result.info["images_per_second"] is None


def test_progress_counts_to_the_end(run, tmp_path):
    seen = []
    images = dataset(*[np.full((9, 9), i, np.uint8) for i in range(5)])
    classify_supervised(
        Baseline.load(run),
        images,
        tmp_path,
        SupervisedSettings(batch_size=2),
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    with pytest.raises(ConfigError, match="another run"):
        classify_supervised(Baseline.load(run), dataset(np.zeros((9, 9), np.uint8)), tmp_path,
                            SupervisedSettings())  # fmt: skip


def test_an_interrupted_run_leaves_nothing_half_written(run, tmp_path):
    images = dataset(*[np.full((9, 9), i, np.uint8) for i in range(40)])
    with pytest.raises(Interrupted):
        classify_supervised(
            Baseline.load(run),
            images,
            tmp_path,
            SupervisedSettings(batch_size=2),
            lambda done, total: os.kill(os.getpid(), signal.SIGINT) if done == 2 else None,
        )
    assert not (tmp_path / "predictions.parquet").exists()


def test_two_runs_are_compared_by_one_command(run, images, tmp_path):
    (images / "ill" / "5.png").unlink()
    twin = tmp_path / "twin"
    for out in (tmp_path / "one", twin):
        done = invoke("classify", run, images, "--out", out)
        assert done.exit_code == 0, done.output
    done = invoke("evaluate", tmp_path / "one", twin, "--out", tmp_path / "cmp", "--resamples", 20)
    assert done.exit_code == 0, done.output
    assert "same decision on 100.0%" in done.stdout
    assert "McNemar p = 1" in done.stdout
    assert json.loads((tmp_path / "cmp" / "comparison.json").read_text())["n"] == 5
    alone = invoke("evaluate", tmp_path / "one", "--resamples", 20)
    assert "softmax" in alone.stdout
    assert "one evaluation each" in alone.stdout
    refused = invoke("evaluate", twin, "--calib", tmp_path / "one")
    assert refused.exit_code == 2
    shown = invoke("report", tmp_path / "one")
    assert shown.exit_code == 0, shown.output
