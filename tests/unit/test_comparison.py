"""Two runs on the same images: differences, tests, fusion; and refusals of what is not the same."""

import html
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn import metrics as sk

from diffdx.classification.predictions import softmax_table, write_predictions
from diffdx.data.dataset import Record
from diffdx.errors import ConfigError, DataError
from diffdx.evaluation import compare_predictions, evaluate_predictions, read_predictions
from diffdx.evaluation.fusion import centred_log_scores, equal_weights, fit_fusion
from diffdx.report import gather_facts, write_report

Make = Callable[..., Path]
CLASSES = ["NORMAL", "PNEUMONIA"]


def baseline_folder(folder: Path, table: pd.DataFrame, scores: np.ndarray, **settings) -> Path:
    """A baseline's predictions of the same images."""
    columns = table[["image_id", "path", "label", "patient_id"]].astype(object)
    rows = columns.where(columns.notna(), None).to_dict("records")
    records = [Record(**{str(name): value for name, value in row.items()}) for row in rows]
    made = softmax_table(records, CLASSES, [r.image_id for r in records], scores, {})
    folder.mkdir()
    write_predictions(made, folder)
    info = {
        "kind": "baseline",
        "classes": CLASSES,
        "positive": "PNEUMONIA",
        "rule": "softmax",
        **dict.fromkeys(("space", "trials", "bank", "stop", "seed", "ties")),
        "model_sha256": "cd" * 32,
    }
    (folder / "classify.json").write_text(json.dumps(info | settings))
    return folder


def softmax(labels: list[str], *, effect: float = 1.5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = np.array(labels) == "PNEUMONIA"
    prob = expit(effect * np.where(y, 1, -1) + rng.standard_normal(len(y)))
    return np.stack([1 - prob, prob], axis=1)


@pytest.fixture
def pair(predictions_folder: Make, mixed_labels: list[str], tmp_path: Path) -> list[Path]:
    """A diffusion model's folder and a baseline's, on the same 40 images of 20 patients."""
    first = predictions_folder(mixed_labels)
    table = pd.read_parquet(first / "predictions.parquet")
    return [first, baseline_folder(tmp_path / "cnn", table, softmax(mixed_labels))]


def test_a_baseline_is_scored_by_its_softmax(
    pair: list[Path], mixed_labels: list[str], tmp_path: Path
) -> None:
    summary = evaluate_predictions(pair[1], n_resamples=30)
    y, score = np.array(mixed_labels) == "PNEUMONIA", softmax(mixed_labels)[:, 1]
    found = [summary[name]["value"] for name in ("accuracy", "balanced_accuracy", "f1", "auroc")]
    assert found == pytest.approx(
        [
            sk.accuracy_score(y, score > 0.5),
            sk.balanced_accuracy_score(y, score > 0.5),
            sk.f1_score(y, score > 0.5),
            sk.roc_auc_score(y, score),
        ]
    )
    assert (summary["kind"], summary["rule"], summary["by_rule"]) == ("baseline", "softmax", {})
    assert summary["nfe"] == {"mean": 1.0, "median": 1.0, "p95": 1.0, "full": 1}
    assert summary["warnings"] == []
    page = write_report(gather_facts([pair[1]]), tmp_path / "page.html").read_text()
    assert page.count("<svg") == 5, "no figures of trials"
    assert "All rules" not in page


def test_the_comparison_holds_differences_and_tests(pair: list[Path], tmp_path: Path) -> None:
    found = compare_predictions(pair, tmp_path, n_resamples=100)
    assert json.loads((tmp_path / "comparison.json").read_text()) == found
    a, b = (read_predictions(folder) for folder in pair)
    y = a.labels
    right = [stored.own.y_hat == y for stored in (a, b)]
    only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    (one,) = found["pairs"]
    assert (one["a"], one["b"]) == ("out", "cnn")
    assert [one["mcnemar"]["only_a"], one["mcnemar"]["only_b"]] == only
    assert one["mcnemar"]["p_value"] == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    area = {name: found["runs"][name]["auroc"]["value"] for name in ("out", "cnn")}
    assert one["delong"]["difference"] == pytest.approx(area["out"] - area["cnn"])
    for name, difference in one["differences"].items():
        expected = found["runs"]["out"][name]["value"] - found["runs"]["cnn"][name]["value"]
        assert difference["value"] == pytest.approx(expected)
        assert difference["low"] <= difference["value"] <= difference["high"]
    assert (found["n"], found["patients"], found["n_left_out"]) == (40, 20, 0)
    assert (
        found["runs"]["out"]["accuracy"]
        == evaluate_predictions(pair[0], n_resamples=100)["accuracy"]
    )


def test_a_run_against_itself_differs_in_nothing(pair: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(pair[0], twin)
    found = compare_predictions([pair[0], twin], tmp_path / "cmp", n_resamples=20)
    (one,) = found["pairs"]
    assert one["agreement"] == 1
    assert one["mcnemar"] == {"only_a": 0, "only_b": 0, "p_value": 1.0}
    assert one["delong"]["p_value"] is None
    assert {tuple(d.values()) for d in one["differences"].values()} == {(0.0, 0.0, 0.0)}
    assert found["fusion"] == [], "two of a kind are not fused"


def test_paired_intervals_are_narrower_than_unpaired_ones(
    predictions_folder: Make, tmp_path: Path
) -> None:
    labels = ["NORMAL", "PNEUMONIA"] * 100
    first = predictions_folder(labels, patient_ids=[str(i) for i in range(200)])
    table = pd.read_parquet(first / "predictions.parquet")
    base = logit(softmax(labels)[:, 1])
    noisy = expit(base + 0.1 * np.random.default_rng(1).standard_normal(200))
    folders = [
        baseline_folder(tmp_path / name, table, np.stack([1 - p, p], axis=1))
        for name, p in (("one", expit(base)), ("other", noisy))
    ]
    found = compare_predictions(folders, tmp_path, n_resamples=300)
    width = {
        name: value["high"] - value["low"]
        for name, value in (
            ("paired", found["pairs"][0]["differences"]["auroc"]),
            ("alone", found["runs"]["one"]["auroc"]),
        )
    }
    assert width["paired"] < 0.5 * width["alone"]


def test_the_fusion_is_the_mean_of_the_scaled_log_odds(
    pair: list[Path], tmp_path: Path, mixed_labels: list[str]
) -> None:
    found = compare_predictions(pair, tmp_path, n_resamples=20)
    a, b = (read_predictions(folder) for folder in pair)
    votes = a.table["vote_share_PNEUMONIA"].to_numpy() * 21
    odds = [np.log((votes + 0.5) / (21 - votes + 0.5)), logit(softmax(mixed_labels)[:, 1])]
    # Half the log odds, by its root mean square: the half cancels.
    scaled = [one / np.sqrt((one**2).mean()) for one in odds]
    fused = equal_weights(a, b).decide(a, b)
    np.testing.assert_allclose(fused.scores[:, 1], 0.5 * (scaled[0] + scaled[1]))
    np.testing.assert_allclose(fused.scores.sum(axis=1), 0, atol=1e-12)
    y = np.array(mixed_labels) == "PNEUMONIA"
    (one,) = found["fusion"]
    assert one["auroc"]["value"] == pytest.approx(sk.roc_auc_score(y, scaled[0] + scaled[1]))
    assert one["accuracy"]["value"] == pytest.approx(
        sk.accuracy_score(y, scaled[0] + scaled[1] > 0)
    )
    assert (one["fitted_on"], one["weights"]) == (0, {"a": 0.5, "b": 0.5})


def test_the_disagreements_are_listed(pair: list[Path], tmp_path: Path) -> None:
    (one,) = compare_predictions(pair, tmp_path, n_resamples=20)["fusion"]
    listed = pd.read_csv(tmp_path / one["disagreements"]["file"])
    a, b = (read_predictions(folder) for folder in pair)
    apart = a.own.y_hat != b.own.y_hat
    assert listed["image_id"].tolist() == a.table["image_id"][apart].tolist()
    assert (listed["prediction_a"] != listed["prediction_b"]).all()
    counts = one["disagreements"]
    assert counts["n"] == len(listed) == counts["a_right"] + counts["b_right"]
    assert counts["fused_right"] == (listed["prediction_fused"] == listed["label"]).sum()
    assert "patient_id" not in listed


def with_ids(folder: Path, prefix: str) -> Path:
    """Give a folder's images and patients other names, as if they were others."""
    for name in ("predictions.parquet", "errors.parquet"):
        path = folder / name
        if path.exists():
            table = pd.read_parquet(path)
            for column in {"image_id", "patient_id"} & set(table):
                table[column] = prefix + table[column].astype(str)
            table.to_parquet(path, index=False)
    return folder


def copies(folders: list[Path], where: Path, prefix: str = "calib ") -> list[Path]:
    made = [where / f"calib-{folder.name}" for folder in folders]
    for source, target in zip(folders, made, strict=True):
        shutil.copytree(source, target)
        with_ids(target, prefix)
    return made


def test_a_fitted_fusion_leaves_out_a_reader_that_knows_nothing(
    predictions_folder: Make, tmp_path: Path
) -> None:
    labels = ["NORMAL", "PNEUMONIA"] * 100
    first = predictions_folder(labels, patient_ids=[str(i) for i in range(200)])
    table = pd.read_parquet(first / "predictions.parquet")
    second = baseline_folder(tmp_path / "cnn", table, softmax(labels, effect=0))
    calib = copies([first, second], tmp_path)
    found = compare_predictions([first, second], tmp_path, calib=calib, n_resamples=20)
    (one,) = found["fusion"]
    assert one["fitted_on"] == 200
    assert one["weights"]["a"] > 10 * one["weights"]["b"]
    assert sum(one["biases"].values()) == pytest.approx(0)
    assert one["auroc"]["value"] > found["runs"]["cnn"]["auroc"]["value"] + 0.2


def test_the_fit_is_the_likeliest_one(pair: list[Path]) -> None:
    a, b = (read_predictions(folder).labelled() for folder in pair)
    best = fit_fusion(a, b)

    def loss(fusion) -> float:
        logits = fusion.decide(a, b).scores
        own = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        penalty = sum(w**2 for w in fusion.weights) + sum(c**2 for c in fusion.biases)
        return float(1e-3 * penalty - own[np.arange(40), a.labels].mean())

    for step in (-0.05, 0.05):
        weights = (best.weights[0] + step, best.weights[1])
        assert loss(best) <= loss(replace(best, weights=weights)) + 1e-7
        biases = (best.biases[0] + step, best.biases[1] - step)
        assert loss(best) <= loss(replace(best, biases=biases)) + 1e-7


def test_a_mean_rule_brings_its_own_score(predictions_folder: Make, mixed_labels) -> None:
    stored = read_predictions(predictions_folder(mixed_labels, rule="mean"))
    score = stored.own.scores
    expected = score - score.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred_log_scores(stored), expected)


def test_failed_and_unlabelled_images_are_left_out_of_all(pair: list[Path], tmp_path: Path) -> None:
    path = pair[1] / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "status"] = "error"
    table.loc[1, "label"] = None
    table.to_parquet(path, index=False)
    found = compare_predictions(pair, tmp_path, n_resamples=20)
    assert (found["n"], found["n_left_out"]) == (38, 2)
    assert any("2 images failed" in text for text in found["warnings"])


def test_what_is_not_the_same_is_refused(pair: list[Path], tmp_path: Path) -> None:
    def refused(change: Callable[[Path], object], message: str) -> None:
        copy = tmp_path / "changed"
        shutil.copytree(pair[1], copy)
        change(copy)
        with pytest.raises(DataError, match=message):
            compare_predictions([pair[0], copy], tmp_path)
        shutil.rmtree(copy)

    def edit(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
        def apply(folder: Path) -> None:
            path = folder / "predictions.parquet"
            change(pd.read_parquet(path)).to_parquet(path, index=False)

        return apply

    def settings(**values) -> Callable[[Path], object]:
        def apply(folder: Path) -> None:
            path = folder / "classify.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | values))

        return apply

    swapped = {"NORMAL": "PNEUMONIA", "PNEUMONIA": "NORMAL"}
    refused(edit(lambda t: t.iloc[1:]), "1 values of image_id are not in both")
    refused(edit(lambda t: t.assign(label=t["label"].map(swapped))), "column label differs")
    refused(edit(lambda t: t.assign(label=None)), "no image is labelled and classified")
    refused(settings(positive="NORMAL"), "compare runs of one task")


def test_a_fusion_is_not_fitted_to_its_own_test(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 images and 20 patients are in"):
        compare_predictions(pair, tmp_path, calib=pair)
    calib = copies(pair, tmp_path)
    with pytest.raises(ConfigError, match="1 folders for 2 runs"):
        compare_predictions(pair, tmp_path, calib=calib[:1])
    with pytest.raises(DataError, match="in the order of the runs"):
        compare_predictions(pair, tmp_path, calib=calib[::-1])


def test_the_report_shows_the_comparison_as_it_stands(pair: list[Path], tmp_path: Path) -> None:
    evaluate_predictions(pair[0], n_resamples=20)
    apart = tmp_path / "apart"
    apart.mkdir()
    found = compare_predictions(pair, apart, n_resamples=20)
    alone = write_report(gather_facts([apart]), apart / "report.html").read_text()
    beside = write_report(gather_facts([pair[0], apart]), apart / "both.html").read_text()
    for page in (alone, beside):
        marked = re.findall(
            r'<span data-file="comparison.json" data-key="([^"]*)">([^<]*)</span>', page
        )
        assert len(marked) > 40
        for place, text in marked:
            value = found
            for key in json.loads(html.unescape(place)):
                value = value[key]
            if isinstance(value, str):
                assert text == value
            else:
                shown = float(text.replace(",", ""))
                assert shown == pytest.approx(value, rel=0.06, abs=6e-4)
    assert "Data and audit" not in alone
