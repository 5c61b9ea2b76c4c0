"""The fair comparison's table: means over seeds, paired differences, from lines alone."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffdx.classification.rules import Decisions
from diffdx.metrics import accuracy, auroc, balanced_accuracy, mcnemar

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
fair_table = pytest.importorskip("fair_table")
fair = pytest.importorskip("fair")
sys.path.pop(0)

N = 60


def line(network, seed, *, rules=("softmax",), skill=1.0, dataset="chest-xray"):
    rng = np.random.default_rng([seed, len(network)])
    labels = np.arange(N) % 2
    score = labels * skill + rng.standard_normal(N)
    made = {"y_hat": (score > skill / 2).astype(int).tolist(), "score": score.tolist()}
    return {
        "network": network, "dataset": dataset, "seed": seed, "steps": 9, "parameters": 5,
        "calls_per_image": 1.0, "seconds_per_image": 0.1, "n": N, "labels": labels.tolist(),
        "patients": (np.arange(N) // 2).tolist(), "prob": (1 / (1 + np.exp(-score))).tolist(),
        "decisions": dict.fromkeys(rules, made),
    }  # fmt: skip


def test_a_row_is_the_mean_over_the_seeds():
    lines = [line("resnet18", seed) for seed in (0, 1, 2)]
    (row,) = fair_table.pool(lines, n_resamples=100)["sets"]["chest-xray"]["rows"]
    y = np.array(lines[0]["labels"])
    by_seed = [accuracy(y, np.array(c["decisions"]["softmax"]["y_hat"])) for c in lines]
    assert row["accuracy"]["value"] == pytest.approx(np.mean(by_seed))
    assert row["accuracy"]["spread"] == pytest.approx(np.std(by_seed))
    assert row["accuracy"]["low"] < row["accuracy"]["value"] < row["accuracy"]["high"]
    scores = np.array(lines[0]["decisions"]["softmax"]["score"])
    alone = fair_table.pool(lines[:1], n_resamples=100)["sets"]["chest-xray"]["rows"][0]["auroc"]
    assert alone["value"] == pytest.approx(auroc(y, np.stack([-scores, scores], 1), positive=1))
    assert row["seeds"] == [0, 1, 2]


def test_a_model_does_not_differ_from_itself():
    lines = [line("small", seed, rules=("vote", "mean_v", "mean_x")) for seed in (0, 1)]
    found = fair_table.pool(lines, n_resamples=100)["sets"]["chest-xray"]
    assert [row["rule"] for row in found["rows"]] == ["vote", "mean_v", "mean_x"]
    compared = [(pair["a"], pair["b"]) for pair in found["pairs"]]
    assert compared == [("small, vote", "small, mean_v"), ("small, vote", "small, mean_x")]
    for pair in found["pairs"]:
        for difference in pair["differences"].values():
            assert difference == {"value": 0, "low": 0, "high": 0}
        assert [test["mcnemar"]["p_value"] for test in pair["tests"]] == [1, 1]
        assert pair["tests"][0]["delong_p"] is None, "no difference has no standard error"


def test_pairs_are_tested_on_the_same_seed():
    strong = [line("resnet18", seed, skill=3.0) for seed in (0, 1)]
    weak = [line("vit_small", 1, skill=0.0)]
    (pair,) = fair_table.pool([*strong, *weak], n_resamples=100)["sets"]["chest-xray"]["pairs"]
    assert [test["seed"] for test in pair["tests"]] == [1]
    y = np.array(weak[0]["labels"])
    right = [np.array(c["decisions"]["softmax"]["y_hat"]) == y for c in (strong[1], weak[0])]
    assert pair["tests"][0]["mcnemar"] == vars(mcnemar(*right))
    # Skill 3 against none: AUROC .98 against .5; the difference is far from 0 by any interval.
    assert pair["differences"]["auroc"]["low"] > 0.2


def test_cells_of_other_images_are_refused():
    other = line("vit_small", 0) | {"patients": list(range(N))}
    with pytest.raises(ValueError, match="hold other images"):
        fair_table.pool([line("resnet18", 0), other])


def test_the_markdown_has_a_row_for_every_reader_and_pair():
    lines = [line("small", 0, rules=("vote", "mean_v")), line("resnet18", 0, skill=3.0)]
    found = fair_table.pool(lines, n_resamples=100)
    text = fair_table.markdown(found)
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| ")]
    assert len({len(row) for row in rows[:6]}) == 1
    named = [row[0].removeprefix("| ") for row in rows]
    readers = ["small, vote", "small, mean_v", "resnet18"]
    both = "small + resnet18"
    compared = [readers[:2], readers[::2], readers[1:], (both, readers[0]), (both, readers[2])]
    pairs = [f"{a} less {b}" for a, b in compared]
    assert named == ["reader", "---", *readers, both, "difference", "---", *pairs]
    auroc_of = {row["name"]: row["auroc"]["value"] for row in found["sets"]["chest-xray"]["rows"]}
    assert rows[4][4].startswith(f"{auroc_of['resnet18']:.3f} [")
    assert "Research use only" in text


def test_two_readers_together_are_one_with_the_mean_of_their_log_odds():
    a, b = line("small", 0, rules=("vote",)), line("resnet18", 0)
    y = np.array(a["labels"])
    odds = [np.log(p / (1 - p)) for p in (np.array(cell["prob"]) for cell in (a, b))]
    scores = (odds[0] + odds[1]) / 2
    found = fair_table.pool([a, b], n_resamples=100)["sets"]["chest-xray"]
    both = found["rows"][-1]
    assert both["name"] == "small + resnet18"
    expected = auroc(y, np.stack([-scores, scores], 1), positive=1)
    assert both["auroc"]["value"] == pytest.approx(expected)
    assert both["accuracy"]["value"] == pytest.approx(accuracy(y, (scores > 0).astype(int)))
    assert (both["calls_per_image"], both["parameters"]) == (2, 10)


def test_two_readers_with_fitted_rules_are_read_together_by_these():
    a = line("small", 0, rules=("vote", "mean_v_fitted"))
    b = line("resnet18", 0, rules=("softmax", "softmax_fitted"), skill=3.0)
    y, p = np.array(a["labels"]), np.array(a["decisions"]["mean_v_fitted"]["score"])
    scores = (p + np.array(b["decisions"]["softmax_fitted"]["score"])) / 2
    found = fair_table.pool([a, b], n_resamples=100)["sets"]["chest-xray"]
    expected = auroc(y, np.stack([-scores, scores], 1), positive=1)
    assert found["rows"][-1]["auroc"]["value"] == pytest.approx(expected)
    compared = [(pair["a"], pair["b"]) for pair in found["pairs"]]
    parts = ["small, mean_v_fitted", "resnet18, softmax_fitted"]
    assert compared[-2:] == [("small + resnet18", part) for part in parts]
    assert tuple(parts) in compared, "fitted rules are compared among them"


def test_the_fitted_score_is_above_zero_where_the_best_threshold_is(monkeypatch):
    class Stored:
        positive, labels = 1, np.array([0, 0, 0, 1, 1, 1])

        def __init__(self, folder):
            assert folder.name in ("calib", "copies")

        def labelled(self):
            return self

        def decide(self, rule):
            score = np.array([-3.0, -2.0, 1.0, 0.5, 0.6, 5.0])
            return Decisions(np.stack([-score, score], 1), np.zeros(6, int), np.zeros(6, bool))

    monkeypatch.setattr(fair, "read_predictions", Stored)
    log_odds = fair.fitted_score(Path("run"), "mean_v")(np.array([-2.1, -1.9, 0.9, 1.1, 4.0]))
    # Between -2 and .5, in the middle, one healthy image is called sick; nothing is better.
    np.testing.assert_array_equal(log_odds > 0, [False, False, True, True, True])
    assert (np.diff(log_odds) > 0).all()
    assert log_odds[1] / log_odds[2] == pytest.approx((-1.9 + 0.75) / (0.9 + 0.75))


def test_differences_over_all_sets_are_the_means_of_the_sets():
    lines = [
        line(network, 0, skill=skill, dataset=dataset)
        for dataset in ("chest-xray", "isic-melanoma")
        for network, skill in (("resnet18", 2.0), ("vit_small", 0.5))
    ]
    found = fair_table.pool(lines, n_resamples=200)
    (pooled,) = found["over_all_sets"]
    each = [table["pairs"][0]["differences"]["auroc"] for table in found["sets"].values()]
    value = np.mean([one["value"] for one in each])
    assert pooled["differences"]["auroc"]["value"] == pytest.approx(value)
    width = [one["high"] - one["low"] for one in (*each, pooled["differences"]["auroc"])]
    assert width[2] < min(width[:2])
    assert fair_table.pool(lines[:2], n_resamples=100)["over_all_sets"] == []


def test_more_than_two_classes_are_read_by_macro_scores():
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    prob = rng.dirichlet(np.ones(3), size=N)
    made = {"y_hat": prob.argmax(1).tolist(), "score": prob.tolist()}
    cell = line("small", 0) | {
        "labels": labels.tolist(), "prob": prob.tolist(), "decisions": {"vote": made},
    }  # fmt: skip
    other = cell | {"network": "resnet18", "decisions": {"softmax": made}}
    found = fair_table.pool([cell, other], n_resamples=100)["sets"]["chest-xray"]
    expected = balanced_accuracy(labels, prob.argmax(1), num_classes=3)
    assert [row["balanced_accuracy"]["value"] for row in found["rows"]] == [expected] * 3
    assert found["rows"][2]["auroc"]["value"] == pytest.approx(auroc(labels, prob, positive=None))
    assert found["pairs"][0]["tests"][0]["delong_p"] is None


def test_a_share_of_the_patients_is_part_of_every_larger_one(tmp_path):
    roles = np.array(["train"] * 300 + ["val", "calib", "test"] * 20)
    table = pd.DataFrame({"image_id": [f"{i}.png" for i in range(360)], "role": roles})
    table["patient_id"] = [None if i % 7 == 0 else f"P{i // 3}" for i in range(360)]
    whole = tmp_path / "chest-xray-splits.csv"
    table.to_csv(whole, index=False)
    assert fair.splits_of(tmp_path, fair.SETS["chest-xray-128px"]) == whole
    before = set()
    for percent in (5, 10, 25, 50):
        images = fair.SETS[f"chest-xray-{percent}pc"]
        part = pd.read_csv(fair.splits_of(tmp_path, images))
        left_out = table[~table["image_id"].isin(part["image_id"])]
        assert set(left_out["role"]) == {"train"}
        train = part[part["role"] == "train"]
        assert not set(train["patient_id"].dropna()) & set(left_out["patient_id"].dropna())
        owners = set(train["patient_id"].fillna(train["image_id"]))
        everyone = table[roles == "train"]
        everyone = set(everyone["patient_id"].fillna(everyone["image_id"]))
        assert len(owners) == round(percent / 100 * len(everyone))
        assert before < owners
        before = owners
