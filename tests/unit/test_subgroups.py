"""Groups by metadata: each group's numbers are those of a folder that holds only this group."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from diffdx.errors import ConfigError
from diffdx.evaluation import read_predictions
from diffdx.evaluation.subgroups import NOT_KNOWN, evaluate_subgroups, group_names

Make = Callable[..., Path]


def test_a_group_is_scored_as_if_it_were_alone(predictions_folder: Make, mixed_labels) -> None:
    stored = read_predictions(predictions_folder([*mixed_labels, None]))
    sex = ["f" if i % 3 else "m" for i in range(41)]
    metadata = {f"i{i:03d}": {"Sex": sex[i], "site": ""} for i in range(41)}
    found = evaluate_subgroups(stored, metadata, n_resamples=30)
    assert json.loads((stored.folder / "subgroups.json").read_text()) == found
    assert [one["column"] for one in found["columns"]] == ["site", "Sex"]
    assert [one["group"] for one in found["columns"][0]["groups"]] == [NOT_KNOWN]
    known = stored.labelled()
    for one in found["columns"][1]["groups"]:
        mine = np.array(sex[:40]) == one["group"]
        y, score = known.labels[mine], known.shares[mine, 1]
        y_hat = known.own.y_hat[mine]
        assert one["n"] == mine.sum()
        assert one["patients"] == len({i // 2 for i in np.flatnonzero(mine)})
        assert one["auroc"]["value"] == pytest.approx(sk.roc_auc_score(y, score))
        assert one["balanced_accuracy"]["value"] == pytest.approx(
            sk.balanced_accuracy_score(y, y_hat)
        )
        assert one["recall"]["PNEUMONIA"]["value"] == pytest.approx(sk.recall_score(y, y_hat))
        assert one["accuracy"]["low"] <= one["accuracy"]["value"] <= one["accuracy"]["high"]
        assert one["by_class"]["NORMAL"] == (y == 0).sum()
        assert one["few"] == (min((y == 0).sum(), (y == 1).sum()) < 10)


def test_everyone_together_has_the_metrics_of_the_whole(
    predictions_folder: Make, mixed_labels
) -> None:
    stored = read_predictions(predictions_folder(mixed_labels))
    metadata = {f"i{i:03d}": {"any": "all"} for i in range(40)}
    (column,) = evaluate_subgroups(stored, metadata, ["any"], n_resamples=5)["columns"]
    (group,) = column["groups"]
    assert group["accuracy"]["value"] == np.mean(stored.own.y_hat == stored.labels)


def test_numbers_become_quarters_and_texts_groups() -> None:
    ages = [str(age) for age in range(0, 80)] + [""]
    names, order = group_names(ages, "age")
    assert order == [
        "up to 19.75",
        "above 19.75 to 39.5",
        "above 39.5 to 59.25",
        "above 59.25",
        NOT_KNOWN,
    ]
    assert [names.count(name) for name in order] == [20, 20, 20, 20, 1]
    assert group_names(["2", "1", "2"], "view") == (["2", "1", "2"], ["1", "2"])
    names, order = group_names(["1"] * 90 + ["2", "3", "4", "5"], "many alike")
    assert (order, names[0], names[-1]) == (["up to 1", "above 1"], "up to 1", "above 1")


def test_names_are_no_groups(predictions_folder: Make, mixed_labels) -> None:
    with pytest.raises(ConfigError, match="30 different texts make no groups"):
        group_names([f"patient {i}" for i in range(30)], "lesion_id")
    stored = read_predictions(predictions_folder(mixed_labels))
    with pytest.raises(ConfigError, match="--by sex: no such column; there is none"):
        evaluate_subgroups(stored, {}, ["sex"])
    assert evaluate_subgroups(stored, {})["columns"] == []
