"""Predictions folders: scikit-learn's numbers on the same errors; refusals of what cannot be."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from diffdx.classification.predictions import prediction_table, write_predictions
from diffdx.classification.rules import RULES, apply_rule
from diffdx.classification.store import ErrorStore, read_errors
from diffdx.data.dataset import Record
from diffdx.errors import CheckpointError, DataError
from diffdx.evaluation import (
    by_trials,
    evaluate_predictions,
    read_predictions,
    true_share_by_logsnr,
)

Make = Callable[..., Path]


def _edit(folder: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(folder / name)).to_parquet(folder / name, index=False)


def test_every_rule_equals_scikit_learn_on_the_stored_errors(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels)
    summary = evaluate_predictions(folder, n_resamples=50)
    stored = pd.read_parquet(folder / "errors.parquet")
    alpha2 = 1 / (1 + np.exp(-stored["logsnr"].astype(float)))
    gap = stored["error_NORMAL"].astype(float) - stored["error_PNEUMONIA"]
    y = np.array(mixed_labels) == "PNEUMONIA"
    scores = {
        "vote": (gap > 0).groupby(stored["image_id"]).mean().to_numpy() - 0.5,
        "mean_v": gap.groupby(stored["image_id"]).mean().to_numpy(),
        "mean_eps": (gap * alpha2).groupby(stored["image_id"]).mean().to_numpy(),
        "mean_x": (gap * (1 - alpha2)).groupby(stored["image_id"]).mean().to_numpy(),
    }
    assert set(summary["by_rule"]) == set(scores)
    for rule, score in scores.items():
        found = {name: metric["value"] for name, metric in summary["by_rule"][rule].items()}
        assert found == pytest.approx(
            {
                "accuracy": sk.accuracy_score(y, score > 0),
                "balanced_accuracy": sk.balanced_accuracy_score(y, score > 0),
                "f1": sk.f1_score(y, score > 0),
                "auroc": sk.roc_auc_score(y, score),
            }
        )


def test_summary_has_the_fields_of_the_contract(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels, failed=3, rule="mean", space="eps")
    summary = evaluate_predictions(folder, n_resamples=50)
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (summary["n"], summary["n_failed"], summary["n_unlabelled"]) == (43, 3, 0)
    for metric in ("accuracy", "balanced_accuracy", "f1", "auroc"):
        assert summary[metric] == summary["by_rule"]["mean_eps"][metric]
        assert summary[metric]["low"] <= summary[metric]["value"] <= summary[metric]["high"]
    assert summary["nfe"] == {"mean": 42.0, "median": 42.0, "p95": 42.0, "full": 42}
    assert (summary["classes"], summary["positive"]) == (["NORMAL", "PNEUMONIA"], "PNEUMONIA")
    assert summary["model_sha256"] == "ab" * 32
    assert "not a medical device" in summary["research_use_only"].lower()
    assert sorted(path.name for path in folder.iterdir()) == [
        "classify.json", "errors.parquet", "predictions.parquet", "summary.json",
    ]  # fmt: skip


def test_confusion_and_recall_agree_with_the_metrics(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    summary = evaluate_predictions(predictions_folder(mixed_labels), n_resamples=50)
    table = summary["confusion"]
    assert sum(sum(row.values()) for row in table.values()) == 40
    recalls = [table[name][name] / sum(table[name].values()) for name in summary["classes"]]
    assert [summary["recall"][name]["value"] for name in summary["classes"]] == pytest.approx(
        recalls
    )
    assert summary["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))


def test_order_of_the_rows_does_not_matter(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels)
    before = evaluate_predictions(folder, n_resamples=50)
    _edit(folder, "predictions.parquet", lambda table: table.sample(frac=1, random_state=1))
    assert evaluate_predictions(folder, n_resamples=50) == before


def test_unlabelled_images_count_but_do_not_score(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels)
    before = evaluate_predictions(folder, n_resamples=50)
    _edit(folder, "predictions.parquet", lambda t: t.assign(label=[None, "", *t["label"][2:]]))
    after = evaluate_predictions(folder, n_resamples=50)
    assert (after["n"], after["n_unlabelled"]) == (40, 2)
    assert (
        sum(after["confusion"]["NORMAL"].values())
        == sum(before["confusion"]["NORMAL"].values()) - 2
    )


def test_no_labels_leave_null_metrics_and_a_reason(predictions_folder: Make) -> None:
    summary = evaluate_predictions(predictions_folder([None] * 4), n_resamples=10)
    assert summary["n_unlabelled"] == 4
    assert summary["auroc"] is None
    assert summary["by_rule"]["mean_x"]["accuracy"] is None
    assert summary["confusion"] is None
    assert any("no metrics" in text for text in summary["warnings"])


def test_one_class_leaves_accuracy_only(predictions_folder: Make) -> None:
    summary = evaluate_predictions(predictions_folder(["NORMAL"] * 6), n_resamples=10)
    assert summary["accuracy"]["value"] >= 0
    assert summary["auroc"] is None
    assert summary["balanced_accuracy"] is None
    assert any("No image of class PNEUMONIA" in text for text in summary["warnings"])


def test_every_image_failed(predictions_folder: Make) -> None:
    folder = predictions_folder([None] * 2)
    _edit(folder, "predictions.parquet", lambda table: table.assign(status="error"))
    _edit(folder, "errors.parquet", lambda table: table.iloc[:0])
    summary = evaluate_predictions(folder, n_resamples=10)
    assert (summary["n"], summary["n_failed"], summary["nfe"]["mean"]) == (2, 2, None)


def test_images_without_a_patient_stand_for_themselves(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    summary = evaluate_predictions(
        predictions_folder(mixed_labels, patient_ids=[None] * 40), n_resamples=10
    )
    assert any("40 images have no patient" in text for text in summary["warnings"])


def test_intervals_of_one_patient_have_no_width(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    summary = evaluate_predictions(
        predictions_folder(mixed_labels, patient_ids=["same"] * 40), n_resamples=10
    )
    assert summary["accuracy"]["low"] == summary["accuracy"]["value"] == summary["accuracy"]["high"]


def test_ties_are_counted(predictions_folder: Make) -> None:
    values = np.ones((2, 2, 4), np.float32)
    values[0, 1, 0] = (
        0.5  # one vote for PNEUMONIA, three ties; the other image: four ties, hence no decision
    )
    folder = predictions_folder(
        ["PNEUMONIA", "NORMAL"], errors=(values, np.zeros((2, 4), np.float32))
    )
    summary = evaluate_predictions(folder, n_resamples=10)
    assert (summary["n_ties"], summary["n_tied_trials"]) == (1, 7)
    assert any(
        "1 decisions from" in text for text in summary["warnings"]
    )  # the folder took argmin's first class


def test_several_classes_are_averaged(predictions_folder: Make) -> None:
    labels = ["a", "b", "c"] * 10
    folder = predictions_folder(labels, classes=("a", "b", "c"))
    summary = evaluate_predictions(folder, n_resamples=20)
    stored = read_predictions(folder)
    made = apply_rule("vote", stored.errors, stored.logsnr)
    expected = sk.roc_auc_score(np.array(labels), made.scores, multi_class="ovr", average="macro")
    assert summary["auroc"]["value"] == pytest.approx(expected)
    assert summary["f1"]["value"] == pytest.approx(
        sk.f1_score(stored.labels, made.y_hat, average="macro")
    )
    for rule in RULES:
        scores = apply_rule(rule, stored.errors, stored.logsnr)
        np.testing.assert_array_equal(scores.scores.argmax(axis=1), scores.y_hat)


def test_first_trials_equal_a_shorter_run(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    stored = read_predictions(predictions_folder(mixed_labels)).labelled()
    counts, accuracies, areas = by_trials(stored, "mean_v", points=5)
    assert (counts[0], counts[-1]) == (1, 21)
    assert (counts % 2 == 1).all()
    gap = (stored.errors[:, 0] - stored.errors[:, 1]).astype(float)
    for n, found_accuracy, found_area in zip(counts.astype(int), accuracies, areas, strict=True):
        score = gap[:, :n].mean(axis=1)
        assert found_accuracy == pytest.approx(np.mean((score > 0) == (stored.labels == 1)))
        assert found_area == pytest.approx(sk.roc_auc_score(stored.labels, score))


def test_true_share_finds_the_noise_levels_that_tell_the_classes_apart(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    y = (np.array(mixed_labels) == "PNEUMONIA").astype(int)
    logsnr = np.tile(np.linspace(-7.5, 7.5, 16, dtype=np.float32), (40, 1))
    values = np.ones((40, 2, 16), np.float32)
    values[np.arange(40), y, 8:] = (
        0.5  # clean trials: always right; noisy ones: always a tie, half a vote each
    )
    stored = read_predictions(predictions_folder(mixed_labels, errors=(values, logsnr))).labelled()
    centres, shares = true_share_by_logsnr(stored, bins=4)
    np.testing.assert_allclose(centres, [-5.625, -1.875, 1.875, 5.625])
    np.testing.assert_allclose(shares, [[0.5, 0.5, 1, 1]] * 2)


@pytest.mark.parametrize("name", ["classify.json", "predictions.parquet", "errors.parquet"])
def test_a_missing_file_is_named(
    predictions_folder: Make, mixed_labels: list[str], name: str
) -> None:
    folder = predictions_folder(mixed_labels)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        evaluate_predictions(folder)


@pytest.mark.parametrize("name", ["predictions.parquet", "errors.parquet"])
def test_a_damaged_table_is_named(
    predictions_folder: Make, mixed_labels: list[str], name: str
) -> None:
    folder = predictions_folder(mixed_labels)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=name):
        evaluate_predictions(folder)


def test_files_that_contradict_each_other_are_refused(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels)
    whole = pd.read_parquet(folder / "predictions.parquet")
    settings = json.loads((folder / "classify.json").read_text())

    def refused(match: str, table: pd.DataFrame = whole, **changed: object) -> None:
        table.to_parquet(folder / "predictions.parquet", index=False)
        (folder / "classify.json").write_text(json.dumps(settings | changed))
        with pytest.raises(DataError, match=match):
            evaluate_predictions(folder)

    refused("different images .*; 1 of them", whole.iloc[1:])
    refused("image_id repeats", pd.concat([whole, whole.iloc[:1]]))
    refused("no column vote_share_PNEUMONIA", whole.drop(columns="vote_share_PNEUMONIA"))
    refused("no column vote_share_OTHER", classes=["NORMAL", "PNEUMONIA", "OTHER"])
    refused(
        "label holds 'Normal '.*map the labels", whole.assign(label=["Normal ", *mixed_labels[1:]])
    )
    refused("positive 'melanoma' is none", positive="melanoma")
    refused("rule 'weighted' cannot be recomputed", rule="weighted")
    (folder / "classify.json").write_text("{}")
    with pytest.raises(DataError, match="no classes, positive"):
        evaluate_predictions(folder)
    (folder / "classify.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        evaluate_predictions(folder)


def test_the_writers_of_classify_make_the_same_folder(
    predictions_folder: Make, mixed_labels: list[str]
) -> None:
    folder = predictions_folder(mixed_labels, failed=1)
    before = evaluate_predictions(folder, n_resamples=50)
    image_ids, errors, logsnr = read_errors(folder / "errors.parquet")
    patients = pd.read_parquet(folder / "predictions.parquet")["patient_id"]
    records = [
        Record(image_id, f"{image_id}.png", label, patient)
        for image_id, label, patient in zip(image_ids, mixed_labels, patients, strict=False)
    ]
    failed = Record("f0", "f0.png", None, None)
    (folder / "errors.parquet").unlink()
    store = ErrorStore(folder, before["classes"], {"seed": 0})
    for row in np.random.default_rng(0).permutation(40):
        store.add(image_ids[row], errors[row], logsnr[row])
    stored = read_errors(store.merge(image_ids), before["classes"])
    table = prediction_table([failed, *records], before["classes"], stored, {"f0": "cut short"})
    write_predictions(table, folder)
    assert evaluate_predictions(folder, n_resamples=50) == before


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'median' is none of vote"):
        apply_rule("median", np.ones((1, 2, 3)), np.zeros((1, 3)))


def test_result_side_loads_no_torch() -> None:
    packages = "diffdx.evaluation, diffdx.report, diffdx.uncertainty"
    code = f"import sys, {packages}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
