"""Published lists: images, labels, patients and roles from tables alone."""

import gzip

import pandas as pd
import pytest

from diffdx.data import Record, align_splits, load_splits
from diffdx.data.dataset import Dataset, FileSource
from diffdx.data.lists import image_key, path_endings, read_list, read_lists
from diffdx.errors import DataError

CHEXPERT = "CheXpert-v1.0-small/train/patient{p}/study1/view1_frontal.jpg"


def written(path, text):
    path.write_text(text)
    return path


def test_a_list_of_chexpert(tmp_path):
    rows = "".join(f"{CHEXPERT.format(p=p)},{p % 2}.0,{1 - p % 2}.0,true\n" for p in (11, 12, 13))
    header = "Path,Pleural Effusion,No Finding,healthy_or_sick\n"
    frame = read_list(written(tmp_path / "chexpert-valid.csv", header + rows))
    assert frame["image_id"].tolist() == [CHEXPERT.format(p=p) for p in (11, 12, 13)]
    assert frame["label"].tolist() == ["Pleural Effusion", "No Finding", "Pleural Effusion"]
    assert frame["patient_id"].tolist() == ["patient11", "patient12", "patient13"]
    assert frame["role"].tolist() == ["val"] * 3
    assert frame["healthy_or_sick"].tolist() == ["true"] * 3


def test_a_list_of_isic_packed_with_gzip(tmp_path):
    with gzip.open(tmp_path / "isic-test.csv.gz", "wt") as file:
        file.write("image_name,target\nISIC_0013936_downsampled,1\nISIC_2691209,0\n")
    frame = read_list(tmp_path / "isic-test.csv.gz")
    assert frame["label"].tolist() == ["1", "0"]
    assert frame["patient_id"].isna().all()
    assert set(frame["role"]) == {"test"}


def test_columns_that_are_not_one_hot_are_no_label(tmp_path):
    frame = read_list(written(tmp_path / "train.csv", "path,a,b\nx.png,1,1\ny.png,0,1\n"))
    assert frame["label"].isna().all()


def test_three_lists_without_a_role_are_train_val_and_test(tmp_path):
    paths = [written(tmp_path / f"{name}.csv", f"image_id\n{name}\n") for name in "abc"]
    assert read_lists(paths)["role"].tolist() == ["train", "val", "test"]
    with pytest.raises(DataError, match=r"no column 'role'.*my-train\.csv"):
        read_lists(paths[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\nx,1\n", "no column names the images; found 'name', 'label'"),
        ("", "not a readable table"),
        ("image_id,split\nx,train\ny,\n", "row 3, column 'role' holds None"),
    ],
)
def test_a_faulty_list_is_refused(tmp_path, text, message):
    path = written(tmp_path / "list.csv", text)
    with pytest.raises(DataError, match=message):
        read_lists([path])
    with pytest.raises(DataError, match="not a readable table"):
        read_list(tmp_path / "absent.csv")


def test_an_image_is_known_by_the_end_of_its_path():
    assert image_key("a/b.c/ISIC_1.JPG") == "ISIC_1"
    assert image_key("a/1.2.840") == "1.2.840", "what follows the last dot is no file type"
    assert path_endings("a/b/c.png") == ["a/b/c", "b/c", "c"]


def test_lists_are_aligned_by_the_end_of_the_path(tmp_path):
    records = [
        Record(f"train/patient{p}/study1/view1_frontal.jpg", f"/r/{p}", "AB"[p % 2], f"patient{p}")
        for p in (11, 12, 13)
    ]
    records.append(Record("other/ISIC_0000001.jpg", "/r/i", "A", "q"))
    dataset = Dataset("toy", records, ("A", "B"), None, True, [], FileSource())
    paths = [
        written(tmp_path / "train.csv", f"Path\n{CHEXPERT.format(p=11)}\nISIC_0000001\n"),
        written(tmp_path / "test.csv", f"Path\n{CHEXPERT.format(p=12)}\n"),
    ]
    frame = align_splits(load_splits(paths), dataset)
    assert frame["image_id"].tolist() == [records[i].image_id for i in (0, 3, 1)]
    assert frame["role"].tolist() == ["train", "train", "test"]
    assert frame["label"].tolist() == ["B", "A", "A"], "the dataset's own labels"
    ambiguous = pd.DataFrame({"image_id": ["view1_frontal.jpg"], "role": ["test"]})
    with pytest.raises(DataError, match="1 of 1 image ids are not in the dataset"):
        align_splits(ambiguous, dataset)
