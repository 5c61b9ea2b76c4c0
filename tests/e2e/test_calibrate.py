"""`diffdx calibrate` from end to end: from a dataset, from predictions, and what it refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from diffdx.cli.app import app

DATA = "phantoms:chest?n=240&size=28"
TINY = [
    "--image-size=16",
    "--set=model.backbone.channels=[16,32]",
    "--set=train.warmup_steps=2",
    "--set=train.validation_trials=1",
    "--set=train.validation_images=4",
    "--steps=4",
    "--batch-size=4",
    "--precision=fp32",
    "--device=cpu",
]
FEW = ["--trials=5", "--device=cpu", "--precision=fp32"]


def invoke(code, *arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(code, *arguments):
    """Return the last line that a refused command says."""
    return invoke(code, *arguments).stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("calibrate") / "run"
    invoke(0, "train", DATA, "--out", run, *TINY)
    return run


@pytest.fixture(scope="module")
def calibrated(run):
    return json.loads(invoke(0, "calibrate", run, DATA, *FEW, "--json").stdout)


@pytest.fixture
def copy(run, calibrated, tmp_path):
    """A run of its own to spoil, with the predictions of its calib images."""
    return shutil.copytree(run, tmp_path / "run")


def roles(run):
    return pd.read_csv(run / "splits.csv").set_index("image_id")["role"]


def rename(folder, names):
    """Give images of a predictions folder other ids."""
    for name in ("predictions", "errors"):
        table = pd.read_parquet(folder / f"{name}.parquet")
        table["image_id"] = table["image_id"].replace(names)
        table.to_parquet(folder / f"{name}.parquet", index=False)


def test_a_dataset_is_classified_in_its_calib_role_and_calibrated(run, calibrated):
    stored = json.loads((run / "calibration.json").read_text())
    table = pd.read_parquet(run / "calibration" / "predictions.parquet")
    assert set(table["image_id"].map(roles(run))) == {"calib"}
    assert len(table) == (roles(run) == "calib").sum() == calibrated["n"]
    entry = stored["by_stop"]["none"]
    assert calibrated == {"out": str(run / "calibration.json"), **entry}
    assert (entry["trials"], entry["prevalence"]) == (5, "calib")
    assert entry["n"] == sum(entry["per_class"].values())
    assert stored["classes"] == ["NORMAL", "OPACITY"]
    assert "medical device" in stored["notice"]
    # Nothing is classified again, and the same comes out.
    before = (run / "calibration" / "classify.json").read_bytes()
    again = json.loads(invoke(0, "calibrate", run, DATA, *FEW, "--json").stdout)
    assert again == calibrated
    assert (run / "calibration" / "classify.json").read_bytes() == before


def test_a_stopped_run_has_an_entry_of_its_own(copy):
    result = invoke(0, "calibrate", copy, copy / "calibration", "--stop=exact", "--prevalence=0.1")
    assert "Research use only" in result.stdout
    assert "prevalence: given (NORMAL 0.900, OPACITY 0.100)" in result.stdout
    stored = json.loads((copy / "calibration.json").read_text())
    assert list(stored["by_stop"]) == ["none", "exact"]
    assert stored["by_stop"]["exact"]["prevalence"] == pytest.approx(
        {"NORMAL": 0.9, "OPACITY": 0.1}
    )


def test_altered_copies_are_classified_beside_and_fitted_to(copy):
    with_copies = invoke(0, "calibrate", copy, DATA, *FEW, "--altered")
    assert "altered copies, likewise held out" in with_copies.stdout
    copies = pd.read_parquet(copy / "calibration-altered" / "predictions.parquet")
    images = pd.read_parquet(copy / "calibration" / "predictions.parquet")
    assert list(copies["image_id"]) == list(images["image_id"])
    assert not np.array_equal(copies["mean_error_NORMAL"], images["mean_error_NORMAL"])
    warnings = json.loads((copy / "calibration-altered" / "classify.json").read_text())["warnings"]
    assert any("altered copy" in warning for warning in warnings)
    entry = json.loads((copy / "calibration.json").read_text())["by_stop"]["none"]
    assert entry["probability"]["held_out_altered"]["n"] == entry["n"]
    # From the folders alone the same comes out; without the copies' folder it is said.
    again = invoke(0, "calibrate", copy, copy / "calibration", "--altered")
    assert again.stdout == with_copies.stdout
    shutil.rmtree(copy / "calibration-altered")
    says = refused(2, "calibrate", copy, copy / "calibration", "--altered")
    assert "calibration-altered/classify.json: no such file" in says


def test_trials_and_stops_that_cannot_be_replayed_are_refused(copy):
    says = refused(2, "calibrate", copy, copy / "calibration", "--trials=7")
    assert "5 trials" in says
    says = refused(2, "calibrate", copy, copy / "calibration", "--rule=mean", "--stop=exact")
    assert "exact" in says


def test_images_of_other_roles_are_refused(copy):
    folder = copy / "calibration"
    ids = pd.read_parquet(folder / "predictions.parquet")["image_id"]
    role = roles(copy)
    test_image = role.index[role == "test"][0]
    rename(folder, {ids[0]: test_image})
    says = refused(2, "calibrate", copy, folder)
    assert "column image_id" in says
    assert "(1 in test)" in says
    rename(folder, {test_image: "elsewhere.png"})
    table = pd.read_parquet(folder / "predictions.parquet")
    splits = pd.read_csv(copy / "splits.csv")
    table.loc[0, "patient_id"] = splits.loc[splits["role"] == "train", "patient_id"].iloc[0]
    table.to_parquet(folder / "predictions.parquet", index=False)
    says = refused(2, "calibrate", copy, folder)
    assert "column patient_id" in says
    assert "(1 in train)" in says
    assert table.loc[0, "patient_id"] not in says
    table.loc[0, "patient_id"] = None
    table.to_parquet(folder / "predictions.parquet", index=False)
    assert "1 images are not in" in refused(2, "calibrate", copy, folder)
    table.loc[0, "patient_id"] = "a new patient"
    table.to_parquet(folder / "predictions.parquet", index=False)
    invoke(0, "calibrate", copy, folder)


def test_what_cannot_be_calibrated_is_refused(copy):
    folder = copy / "calibration"
    whole = pd.read_parquet(folder / "predictions.parquet")

    def with_labels(labels):
        whole.assign(label=labels).to_parquet(folder / "predictions.parquet", index=False)
        return refused(2, "calibrate", copy, folder)

    assert "no labelled image" in with_labels(None)
    assert "no image of class OPACITY" in with_labels("NORMAL")
    few = np.where(np.arange(len(whole)) < 3, "OPACITY", "NORMAL")
    assert "too few patients" in with_labels(few)
    whole.to_parquet(folder / "predictions.parquet", index=False)
    assert "--alpha 1.5" in refused(2, "calibrate", copy, folder, "--alpha=1.5")
    assert "--prevalence 2" in refused(2, "calibrate", copy, folder, "--prevalence=2")
    info = json.loads((folder / "classify.json").read_text())
    (folder / "classify.json").write_text(json.dumps(info | {"model_sha256": "ab" * 32}))
    assert "model_sha256" in refused(1, "calibrate", copy, folder)
    splits = pd.read_csv(copy / "splits.csv")
    splits[splits["role"] != "calib"].to_csv(copy / "splits.csv", index=False)
    assert "'calib'" in refused(2, "calibrate", copy, DATA, *FEW)


def test_other_weights_start_a_new_file_and_small_sets_say_that_they_promise_nothing(copy):
    stored = json.loads((copy / "calibration.json").read_text())
    stored["model_sha256"] = "ab" * 32
    (copy / "calibration.json").write_text(json.dumps(stored))
    few = ["--stop=exact", "--trials=3", "--alpha=0.01"]
    assert "void" in invoke(0, "calibrate", copy, copy / "calibration", *few).stderr
    stored = json.loads((copy / "calibration.json").read_text())["by_stop"]
    assert list(stored) == ["exact"]
    assert stored["exact"]["trials"] == 3


def test_classify_uses_what_was_calibrated(copy, tmp_path):
    shown = invoke(0, "classify", copy, DATA, "--split=test", "--out", tmp_path / "p", *FEW)
    assert "not calibrated" not in shown.stderr
    table = pd.read_parquet(tmp_path / "p" / "predictions.parquet")
    prob = table[["prob_NORMAL", "prob_OPACITY"]].to_numpy()
    np.testing.assert_allclose(prob.sum(axis=1), 1)
    assert {"set", "triage", "ood", "ood_p_value", "share_low", "share_high"} <= set(table)
    given = ["--prevalence=0.01", "--out", tmp_path / "q", *FEW]
    invoke(0, "classify", copy, DATA, "--split=test", *given)
    rare = pd.read_parquet(tmp_path / "q" / "predictions.parquet")
    assert (rare["prob_OPACITY"] < table["prob_OPACITY"]).all()
    assert rare["vote_share_OPACITY"].tolist() == table["vote_share_OPACITY"].tolist()


@pytest.mark.parametrize("rule", [["--rule=weighted"], ["--rule=mean", "--space=x"]], ids=str)
@pytest.mark.parametrize("stop", ["none", "0.4"])
def test_fitted_rules_decide_and_stop_online_as_replayed(copy, tmp_path, rule, stop):
    options = ["--split=test", *FEW]
    invoke(0, "classify", copy, DATA, "--out", tmp_path / "full", *options)
    online = ["--out", tmp_path / "online", *options, *rule, "--stop", stop]
    invoke(0, "classify", copy, DATA, *online)
    fitted = json.loads((tmp_path / "full" / "calibration.json").read_text())["by_stop"]["none"]
    names = {"mean_v", "mean_eps", "mean_x", "weighted"}
    assert fitted["difference_bounds"].keys() == names
    replayed = ["--out", tmp_path / "replayed", *rule, "--stop", stop]
    invoke(0, "replay", tmp_path / "full", *replayed)
    tables = [pd.read_parquet(tmp_path / d / "predictions.parquet") for d in ("online", "replayed")]
    for column in ("prediction", "trials_used", "stopped_by"):
        assert tables[0][column].tolist() == tables[1][column].tolist()
    summary = json.loads(invoke(0, "evaluate", tmp_path / "online", "--json").stdout)
    assert (summary["rule"], summary["stop"]) == (rule[0].split("=")[1], stop)


def test_a_calibration_that_cannot_be_read_is_replaced(copy):
    path = copy / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    classify = ["classify", copy, DATA, "--out", copy / "predictions", *FEW, "--limit=2"]
    assert "run `diffdx calibrate` again" in refused(1, *classify)
    invoke(0, "calibrate", copy, copy / "calibration")
    assert list(json.loads(path.read_text())["by_stop"]) == ["none"]


def test_a_rule_that_needs_a_calibration_says_so(run, calibrated, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "calibration.json").unlink()
    for options in (["--rule=weighted"], ["--rule=mean", "--stop=0.1"]):
        said = refused(2, "classify", bare, DATA, "--out", tmp_path / "p", *FEW, *options)
        assert "diffdx calibrate" in said
    said = invoke(0, "classify", bare, DATA, "--out", tmp_path / "p", *FEW, "--prevalence=0.2")
    assert "is not calibrated" in said.stderr
