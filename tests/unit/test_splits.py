"""Splits: by patient, in the documented proportions, saved and checked."""

from pathlib import Path

import pandas as pd
import pytest

from diffdx.data import (
    ROLES,
    Dataset,
    Record,
    align_splits,
    check_splits,
    load_splits,
    make_splits,
    open_dataset,
    save_splits,
)
from diffdx.data.dataset import FileSource
from diffdx.errors import DataError

CHEST_XRAY = Path(__file__).parents[3] / "shared/data/chest-xray"


def dataset_of(records):
    classes = tuple(sorted({record.label for record in records if record.label}))
    known = all(record.patient_id for record in records)
    return Dataset("toy", records, classes, None, known, [], FileSource())


def patients(count, *, label="a", role=None, images=1, prefix=""):
    name = f"{prefix}{label}-{role}"
    return [
        Record(f"{name}-{p}-{i}", "", label, f"{name}-{p}", role)
        for p in range(count)
        for i in range(images)
    ]


def shares(splits):
    return splits["role"].value_counts(normalize=True).to_dict()


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ([], {"train": 0.60, "val": 0.10, "calib": 0.15, "test": 0.15}),
        (["test"], {"train": 0.70, "val": 0.10, "calib": 0.20}),
        (["val"], {"train": 0.70, "calib": 0.15, "test": 0.15}),
        (["val", "test"], {"train": 0.80, "calib": 0.20}),
        (["val", "calib", "test"], {"train": 1.0}),
    ],
)
def test_proportions_of_what_the_publishers_left(published, expected):
    records = [r for label in "ab" for r in patients(200, label=label, role="train")]
    records += [r for role in published for r in patients(30, role=role)]
    records += [r for role in published for r in patients(20, label="b", role=role)]
    splits = make_splits(dataset_of(records))
    rest = splits[~splits["role"].isin(published)]
    # Dealing to the role furthest behind leaves each within one patient of its share, per class.
    assert shares(rest) == pytest.approx(expected, abs=2 / 400)
    for role in published:
        kept = set(splits.loc[splits["role"] == role, "image_id"])
        assert kept == {r.image_id for r in records if r.role == role}


def test_classes_keep_their_prevalence_in_every_role():
    records = patients(300, label="a") + patients(100, label="b", images=2)
    splits = make_splits(dataset_of(records))
    for _, role in splits.groupby("role"):
        # 40 % of the images are of class b; one patient more or less is 2 of at least 50 images.
        assert (role["label"] == "b").mean() == pytest.approx(0.4, abs=0.04)


def test_a_patient_with_several_labels_stays_together():
    mixed = [
        Record(f"{p}-{i}", "", "ab"[(p + i) % 3 == 0], f"p{p}") for p in range(40) for i in range(3)
    ]
    splits = make_splits(dataset_of(mixed))
    assert (splits.groupby("patient_id")["role"].nunique() == 1).all()
    assert check_splits(splits) == []


def test_without_patients_it_warns_loudly_and_splits_by_image(tmp_path):
    records = [Record(f"{label}{i}", "", label) for label in "ab" for i in range(40)]
    dataset = dataset_of(records)
    splits = make_splits(dataset)
    make_splits(dataset)
    assert [w for w in dataset.warnings if "NO PATIENT COLUMN" in w] == dataset.warnings
    assert len(dataset.warnings) == 1
    assert check_splits(splits) == dataset.warnings


def test_a_class_with_fewer_patients_than_roles_is_refused():
    records = patients(40) + patients(3, label="b", images=5)
    with pytest.raises(DataError, match=r"class 'b' has 3 patients .* fewer than the 4 roles"):
        make_splits(dataset_of(records))


def test_unlabelled_images_and_test_sets_alone_are_refused():
    with pytest.raises(DataError, match="blank label"):
        make_splits(dataset_of([*patients(9), Record("x", "", None, "p")]))
    records = patients(9, role="test") + patients(9, label="b", role="test")
    with pytest.raises(DataError, match="no image is left for training"):
        make_splits(dataset_of(records))


def test_a_leak_is_refused_with_counts_and_hashes_but_no_name():
    records = [r for label in "ab" for r in patients(40, label=label)]
    leaking = [Record(f"t{p}", "", "a", f"a-None-{p}", "test") for p in range(5)]
    splits = make_splits(dataset_of(records + leaking))
    with pytest.raises(DataError, match="5 patients are in more than one role") as caught:
        check_splits(splits)
    assert "--allow-leak" in str(caught.value)
    assert "a-None" not in str(caught.value)
    assert str(caught.value).count(" and test") >= 1
    (warning,) = check_splits(splits, allow_leak=True)
    assert warning.startswith("PATIENT LEAK")
    assert "a-None" not in warning


def test_saving_and_loading_keeps_every_cell(tmp_path):
    records = [
        Record(f"{label}/{i} ü,\"'\n\udcff.png", f"/x/{i}", label, f"{i:03d}")
        for label in ("NA", "1")
        for i in range(8)
    ]
    splits = make_splits(dataset_of(records))
    save_splits(splits, tmp_path / "run" / "splits.csv")
    loaded = load_splits(tmp_path / "run" / "splits.csv")
    pd.testing.assert_frame_equal(align_splits(loaded, dataset_of(records)), splits)
    assert loaded["path"].isna().all(), "where the images lie on one machine is not written"
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["splits.csv"]


def test_blank_patients_come_back_as_none_and_several_files_are_joined(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,role\n1,train\n")
    (tmp_path / "b.csv").write_text("image_id,role,patient_id\n2,test,\n")
    splits = load_splits([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert splits["image_id"].tolist() == ["1", "2"]
    assert splits["patient_id"].tolist() == [None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,label\n1,a\n", "no column 'role'; found 'image_id', 'label'"),
        ("image_id,role\n1,train\n2,dev\n", "row 3, column 'role' holds 'dev'; use train"),
        ("image_id,role\n1,train\n1,test\n", "lists '1' twice"),
        ("", "not a readable table"),
    ],
)
def test_a_faulty_splits_file_is_refused(tmp_path, text, message):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_splits(path)


@pytest.mark.skipif(not CHEST_XRAY.is_dir(), reason="the chest-xray images are not on this machine")
def test_the_real_chest_xrays_are_split_by_patient_as_published():
    dataset = open_dataset(CHEST_XRAY)
    assert (len(dataset), dataset.positive) == (5840, "PNEUMONIA")
    splits = make_splits(dataset)
    assert check_splits(splits) == []
    assert splits["role"].isin(ROLES).all()
    test = splits[splits["role"] == "test"]
    assert len(test) == 624
    assert test["image_id"].str.startswith("test/").all()
    assert (splits.groupby("patient_id")["role"].nunique() == 1).all()
    rest = splits[splits["role"] != "test"]
    expected = {"train": 0.7, "val": 0.1, "calib": 0.2}
    assert len(rest) == 5216
    assert shares(rest) == pytest.approx(expected, abs=0.015)
    for _, role in rest.groupby("role"):
        assert (role["label"] == "PNEUMONIA").mean() == pytest.approx(0.743, abs=0.015)
