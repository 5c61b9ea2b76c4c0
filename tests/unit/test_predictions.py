"""The prediction table against the voting rules, and its two files."""

import numpy as np
import pandas as pd
import pytest

from diffdx.classification.predictions import (
    PREDICTIONS_CSV,
    prediction_table,
    read_predictions,
    write_predictions,
)
from diffdx.data.dataset import Record
from diffdx.errors import CheckpointError

CLASSES = ("NORMAL", "SICK")
RECORDS = [
    Record("a.png", "in/a.png", "SICK", "p1"),
    Record("=cmd.png", "=in/cmd.png", "NORMAL", "-2"),
    Record("c.png", "in/c.png", None, None),
]
# Image a: 2 of 3 votes for SICK, but NORMAL has the smaller mean; image c: stopped after 2 trials.
ERRORS = np.array([[[2, 2, 1], [1, 1, 9]], [[1, 1, np.nan], [2, 1, np.nan]]], np.float32)
LOGSNR = np.zeros((2, 3), np.float32)


def table_of(**options):
    stored = (["a.png", "c.png"], ERRORS, LOGSNR)
    return prediction_table(
        RECORDS, CLASSES, stored, {"=cmd.png": "=cmd.png: cut short"}, **options
    )


def test_the_columns_are_the_documented_ones_in_order():
    assert list(table_of().columns) == [
        *("image_id", "path", "patient_id", "label", "prediction"),
        *("votes_NORMAL", "votes_SICK", "vote_share_NORMAL", "vote_share_SICK"),
        *("mean_error_NORMAL", "mean_error_SICK", "entropy_bits"),
        *("trials_used", "nfe", "stopped_by", "status", "error"),
    ]


def test_rows_hold_votes_means_and_costs():
    table = table_of().set_index("image_id")
    a, c = table.loc["a.png"], table.loc["c.png"]
    assert (a["votes_NORMAL"], a["votes_SICK"], a["vote_share_SICK"]) == (
        1,
        2,
        pytest.approx(2 / 3),
    )
    assert a["mean_error_SICK"] == pytest.approx(11 / 3)
    assert a["entropy_bits"] == pytest.approx(np.log2(3) - 2 / 3)
    assert (a["trials_used"], a["nfe"], a["status"]) == (3, 6, "ok")
    assert (c["votes_NORMAL"], c["votes_SICK"], c["trials_used"], c["nfe"]) == (1.5, 0.5, 2, 4)
    assert pd.isna(c["label"])
    assert pd.isna(c["error"])


def test_an_eliminated_class_costs_no_evaluations():
    errors = ERRORS.copy()
    errors[0, 1, 1:] = np.inf
    stored = (["a.png", "c.png"], errors, LOGSNR)
    table = prediction_table(RECORDS, CLASSES, stored, {"=cmd.png": "bad"})
    assert table["nfe"].tolist() == [4, 0, 4]
    assert table["trials_used"].tolist() == [3, 0, 2]


def test_rule_space_and_ties_decide():
    assert table_of()["prediction"].tolist()[0] == "SICK"
    assert table_of(rule="mean")["prediction"].tolist()[0] == "NORMAL"
    assert table_of(space="eps")["mean_error_SICK"][0] == pytest.approx(11 / 6)
    assert table_of(ties="lowest")["votes_NORMAL"][2] == 2


def test_a_failed_image_keeps_its_row_with_the_reason():
    row = table_of().iloc[1]
    assert (row["status"], row["error"], row["nfe"]) == ("error", "=cmd.png: cut short", 0)
    assert row[["prediction", "votes_SICK", "entropy_bits"]].isna().all()


def test_every_image_may_have_failed():
    nothing = ([], np.empty((0, 2, 0), np.float32), np.empty((0, 0), np.float32))
    table = prediction_table(RECORDS, CLASSES, nothing, {r.image_id: "bad" for r in RECORDS})
    assert table["status"].tolist() == ["error"] * 3


def test_both_files_are_written_and_the_csv_cannot_run_formulas(tmp_path):
    table = table_of()
    write_predictions(table, tmp_path)
    pd.testing.assert_frame_equal(read_predictions(tmp_path), table)
    text = pd.read_csv(tmp_path / PREDICTIONS_CSV, dtype="string")
    assert text["image_id"].tolist() == ["a.png", "'=cmd.png", "c.png"]
    assert text["patient_id"][1] == "'-2"
    assert text["error"][1] == "'=cmd.png: cut short"
    # Numbers stay numbers.
    assert text["vote_share_SICK"][0] == str(2 / 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.csv", "predictions.parquet"]


def test_a_missing_or_damaged_table_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="diffdx classify"):
        read_predictions(tmp_path)
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(CheckpointError, match=r"predictions\.parquet"):
        read_predictions(tmp_path)
