"""Calibrated columns: what they are computed from, when there are none, what evaluation says."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from diffdx.errors import CheckpointError, DataError
from diffdx.evaluation import evaluate_predictions, read_predictions
from diffdx.uncertainty.annotate import annotate
from diffdx.uncertainty.calibration import CalibrationFile
from diffdx.uncertainty.deployment import read_deployment
from diffdx.uncertainty.fit import CalibrationImages, fit_calibration
from diffdx.uncertainty.reliability import brier_score, claim, reliability

SHA = "ab" * 32
CLASSES = ("NORMAL", "PNEUMONIA")
LABELS = (["NORMAL"] * 2 + ["PNEUMONIA"] * 4) * 12
COLUMNS = ["prob_NORMAL", "prob_PNEUMONIA", "entropy_bits", "share_low", "share_high", "set"]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = np.array([CLASSES.index(name) for name in LABELS])
    logsnr = rng.uniform(-8, 8, (len(y), 21)).astype(np.float32)
    errors = 1 + 0.02 * (rng.normal(size=(len(y), 2, 21)) - 0.3 * np.eye(2)[y][:, :, None])
    patients = [f"p{i // 2}" for i in range(len(y))]
    return CalibrationImages(errors.astype(np.float32), logsnr, y, patients, CLASSES, "PNEUMONIA")


@pytest.fixture(scope="module")
def entry(images):
    return fit_calibration(images, stop="none")


@pytest.fixture
def folder(predictions_folder, images):
    made = predictions_folder(LABELS, errors=(images.errors, images.logsnr))
    table = pd.read_parquet(made / "predictions.parquet")
    table.insert(7, "entropy_bits", 0.5)
    table.to_parquet(made / "predictions.parquet", index=False)
    return made


@pytest.fixture
def run(entry, tmp_path):
    CalibrationFile(SHA, CLASSES, "PNEUMONIA", {"none": entry}).write(tmp_path / "run")
    return tmp_path / "run"


def probabilities(folder):
    return pd.read_parquet(folder / "predictions.parquet")[COLUMNS[:2]].to_numpy()


def rewrite(folder, **changed):
    path = folder / "classify.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_columns_follow_the_entry_and_the_contracts_order(folder, run, entry):
    assert annotate(folder, run) == []
    table = pd.read_parquet(folder / "predictions.parquet")
    names = list(table)
    at = names.index("prob_NORMAL")
    assert names[at : at + 9] == [*COLUMNS, "triage", "ood_p_value", "ood"]
    assert names[at + 9 :] == ["nfe", "status"]
    stored = read_predictions(folder)
    own = entry.probability.probabilities(stored.errors, stored.logsnr)
    np.testing.assert_allclose(probabilities(folder), own)
    shares = table[[f"vote_share_{name}" for name in CLASSES]].to_numpy()
    sets = entry.conformal.sets(shares)
    for row, inside in zip(table["set"], sets, strict=True):
        assert [name in row for name in CLASSES] == inside.tolist()
    flags = entry.gate.flags(stored.errors, stored.logsnr)
    assert table["ood"].astype(bool).tolist() == flags.tolist()
    assert table["triage"].tolist() == entry.triage.decide(shares, refer=flags)
    share = table[[f"vote_share_{name}" for name in CLASSES]].max(axis=1)
    assert (table["share_low"] <= share).all()
    assert (share <= table["share_high"]).all()
    assert "prob_PNEUMONIA" in (folder / "predictions.csv").read_text().splitlines()[0]
    before = (folder / "predictions.parquet").read_bytes()
    annotate(folder, run)
    assert (folder / "predictions.parquet").read_bytes() == before


def test_prevalence_moves_the_odds_but_neither_sets_nor_triage(folder, run, entry):
    annotate(folder, run)
    before = pd.read_parquet(folder / "predictions.parquet")
    annotate(folder, run, prevalence="0.2")
    after = pd.read_parquet(folder / "predictions.parquet")
    odds = [t["prob_PNEUMONIA"] / t["prob_NORMAL"] for t in (before, after)]
    expected = (0.2 / 0.8) / (entry.prior["PNEUMONIA"] / entry.prior["NORMAL"])
    np.testing.assert_allclose(odds[1] / odds[0], expected, rtol=1e-6)
    for column in ("set", "triage", "ood"):
        assert before[column].tolist() == after[column].tolist()
    deployed = read_deployment(folder)
    assert (deployed.source, deployed.shares["PNEUMONIA"]) == ("given", 0.2)


def test_em_reads_the_images_or_says_that_they_are_too_few(folder, run, entry, tmp_path):
    CalibrationFile(SHA, CLASSES, "PNEUMONIA", {"none": replace(entry, prevalence="em")}).write(run)
    assert annotate(folder, run) == []
    assert read_deployment(folder).source == "em"
    kept = pd.read_parquet(folder / "predictions.parquet")["image_id"][:49].tolist()
    for name in ("predictions", "errors"):
        table = pd.read_parquet(folder / f"{name}.parquet")
        table[table["image_id"].isin(kept)].to_parquet(folder / f"{name}.parquet", index=False)
    (warning,) = annotate(folder, run, prevalence="em")
    assert "em needs at least 50 images, there are 49" in warning
    assert read_deployment(folder).source == "calib"


def test_no_entry_that_fits_means_no_columns_and_a_command(folder, run, tmp_path):
    annotate(folder, run)

    def refused(where, says, **changed):
        rewrite(folder, **({"stop": "none", "rule": "vote", "model_sha256": SHA} | changed))
        (warning,) = annotate(folder, where)
        assert says in warning
        assert not set(COLUMNS[:2]) & set(pd.read_parquet(folder / "predictions.parquet"))
        assert not (folder / "calibration.json").exists()
        return warning

    warning = refused(tmp_path / "other", "is not calibrated")
    assert f"`diffdx calibrate {tmp_path / 'other'} DATA --trials 21 --stop none`" in warning
    assert "entropy_bits" in pd.read_parquet(folder / "predictions.parquet")
    refused(run, "is of another model", model_sha256="cd" * 32)
    warning = refused(run, "by_stop has none with 21 trials, but not 0.01 with 21", stop="0.01")
    assert "--stop 0.01`" in warning
    warning = refused(run, "but not 0.01 mean_v", stop="0.01", rule="mean")
    assert "--rule mean --space v`" in warning
    refused(run, "--eliminate or --budget", eliminate=True)
    rewrite(folder, eliminate=False)
    refused(run, "--eliminate or --budget", budget_seconds=1.0)


def test_a_stopped_image_gets_the_interval_of_its_full_run(folder, run, entry):
    errors = pd.read_parquet(folder / "errors.parquet")
    errors.loc[errors["trial"] >= 9, [f"error_{name}" for name in CLASSES]] = np.nan
    errors.to_parquet(folder / "errors.parquet", index=False)
    both = {"none": entry, "exact": replace(entry, stop="exact")}
    CalibrationFile(SHA, CLASSES, "PNEUMONIA", both).write(run)
    rewrite(folder, stop="exact")
    annotate(folder, run)
    table = pd.read_parquet(folder / "predictions.parquet")
    # Of 21 votes 9 are known, so a share in steps of 1/21 with 12 open votes at most.
    for bound in ("share_low", "share_high"):
        steps = table[bound] * 21
        np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    assert (table["share_high"] - table["share_low"] <= 12 / 21 + 1e-9).all()


def test_evaluation_scores_the_columns(folder, run, entry):
    assert evaluate_predictions(folder, n_resamples=50)["calibration"] is None
    annotate(folder, run, prevalence="0.5")
    summary = evaluate_predictions(folder, n_resamples=50)
    found, prob = summary["calibration"], probabilities(folder)
    y = np.array([CLASSES.index(name) for name in LABELS])
    assert found["ece"] == pytest.approx(reliability(claim(prob, y, 1)).error)
    assert found["ece_uncorrected"] != found["ece"]
    assert found["brier"]["value"] == pytest.approx(brier_score(prob, y))
    assert found["brier"]["low"] <= found["brier"]["value"] <= found["brier"]["high"]
    assert found["prevalence"]["deployed"] == {"NORMAL": 0.5, "PNEUMONIA": 0.5}
    assert found["prevalence"]["labels"]["PNEUMONIA"] == pytest.approx(2 / 3)
    sets = pd.read_parquet(folder / "predictions.parquet")["set"]
    covered = [name in text for name, text in zip(LABELS, sets, strict=True)]
    assert found["coverage"]["marginal"] == pytest.approx(np.mean(covered))
    assert found["alpha"] == 0.1
    assert set(found["triage"]) >= {"npv", "ppv", "answered"}
    assert set(found["selective"]) >= {"auroc_error", "accuracy_at", "aurc"}
    assert summary["by_rule"]["weighted"]["auroc"]["value"] > 0.5
    assert any("exchangeable" in warning for warning in summary["warnings"])
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_a_calibration_that_does_not_explain_the_columns_is_refused(folder, run):
    annotate(folder, run)
    whole = pd.read_parquet(folder / "predictions.parquet")
    whole.drop(columns="prob_NORMAL").to_parquet(folder / "predictions.parquet", index=False)
    with pytest.raises(DataError, match="is not what made this folder's predictions"):
        read_predictions(folder)
    whole.to_parquet(folder / "predictions.parquet", index=False)
    rewrite(folder, model_sha256="cd" * 32)
    with pytest.raises(DataError, match="is not what made this folder's predictions"):
        read_predictions(folder)
    with pytest.raises(CheckpointError, match=r"no entry 'deployed' \(KeyError"):
        read_deployment(run)
