"""Planted leaks, duplicates and shortcuts are found, and a clean set raises no alarm."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffdx.data import make_splits, open_dataset
from diffdx.data.audit import read_audit
from diffdx.data.audit.duplicates import find_duplicates
from diffdx.data.audit.looks import look_at_all
from diffdx.data.audit.run import Pass, run_audit
from diffdx.data.audit.sheet import write_audit
from diffdx.data.audit.subject import subject_of_dataset
from diffdx.data.dataset import Dataset

DATA = Path(__file__).parents[3] / "shared/data"
NAMES = (
    "patient_overlap",
    "exact_duplicates",
    "near_duplicates",
    "label_conflicts",
    "filename_rule",
    "source_rule",
    "pixel_rule",
    "metadata_rule",
    "prevalence",
)
needs_images = pytest.mark.skipif(
    not DATA.is_dir(), reason="the public image sets are not on this machine"
)


@pytest.fixture(scope="module")
def drawn():
    """Ninety dermoscopy phantoms: label, patient, pixels."""
    dataset = open_dataset("phantoms:lesion?n=90&size=40&difficulty=0.3")
    return [(r.label, r.patient_id, dataset.pixels(r)) for r in dataset.records]


def write_set(folder, rows, **columns):
    """Write (name, label, patient, pixels or bytes) as files with a table; return the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["path", "label", "patient_id", *columns]
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for i, (name, label, patient, pixels) in enumerate(rows):
            if isinstance(pixels, Image.Image):
                pixels.save(folder / name)
            else:
                Image.fromarray(pixels).save(folder / name)
            writer.writerow([name, label, patient, *(column[i] for column in columns.values())])
    return open_dataset(folder, positive="MELANOMA")


def clean_rows(drawn):
    order = np.random.default_rng(0).permutation(len(drawn))
    return [(f"{number:03d}.png", *drawn[i]) for number, i in enumerate(order)]


def audit(dataset, splits=None, **reading):
    splits = make_splits(dataset) if splits is None else splits
    subject = subject_of_dataset(dataset, splits)
    return run_audit(subject, Pass(**reading)), subject


def verdicts(found):
    return {check.name: check.verdict for check in found.checks}


def named(found, name):
    return next(check for check in found.checks if check.name == name)


def test_a_clean_set_raises_no_alarm(drawn, tmp_path):
    rng = np.random.default_rng(1)
    ages = [str(age) for age in rng.integers(20, 90, 90)]
    found, _ = audit(write_set(tmp_path / "clean", clean_rows(drawn), age=ages))
    assert [check.name for check in found.checks] == list(NAMES)
    assert found.verdict == "pass"
    assert verdicts(found) == dict.fromkeys(NAMES, "pass") | {"source_rule": "untestable"}
    assert (found.n, found.patients, sum(found.roles.values())) == (90, 60, 90)
    assert found.line() == "pass (untestable: source_rule)"


def test_a_patient_in_two_roles_is_counted_and_never_named(drawn, tmp_path):
    dataset = write_set(tmp_path / "leak", clean_rows(drawn))
    splits = make_splits(dataset)
    of = splits.groupby("patient_id")["role"]
    twice = [p for p, roles in of if len(roles) == 2 and set(roles) == {"train"}][:3]
    for patient in twice:
        splits.loc[splits.index[splits.patient_id == patient][0], "role"] = "test"
    found, _ = audit(dataset, splits)
    check = named(found, "patient_overlap")
    assert (check.verdict, check.value) == ("fail", 3)
    in_test = splits.patient_id[splits.role == "test"].nunique()
    assert check.detail.startswith(f"3 of {in_test} patients of test are also in train;")
    assert [check.name for check in found.leaks] == ["patient_overlap"]
    assert not any(patient in json.dumps(found.as_json()) for patient in twice)


def test_a_lesion_in_two_roles_is_a_leak_too(drawn, tmp_path):
    rows = clean_rows(drawn)
    dataset = write_set(tmp_path, rows, lesion_id=[f"L{i}" for i in range(88)] + ["L0", "L1"])
    splits = make_splits(dataset)
    splits["role"] = ["train"] * 60 + ["test"] * 30
    splits["patient_id"] = [f"p{i}" for i in range(90)]
    check = named(audit(dataset, splits)[0], "patient_overlap")
    assert (check.verdict, check.value) == ("fail", 0)
    assert check.detail.startswith("2 of 30 lesions of test are also in train;")


def test_patients_that_are_unknown_or_made_up_cannot_be_tested(drawn, tmp_path):
    rows = [(name, label, "", pixels) for name, label, _, pixels in clean_rows(drawn)]
    check = named(audit(write_set(tmp_path / "a", rows))[0], "patient_overlap")
    assert (check.verdict, check.detail) == ("untestable", "no image names its patient")
    rows = [(name, label, f"P{name[:3]}", pixels) for name, label, _, pixels in rows]
    check = named(audit(write_set(tmp_path / "b", rows))[0], "patient_overlap")
    assert (check.verdict, check.value) == ("untestable", None)
    assert "repeat the image's number" in check.detail


@pytest.fixture
def copied(drawn, tmp_path):
    """A set with a PNG stored twice, one also as BMP, one resized, one recompressed."""
    rows = clean_rows(drawn)
    first, second, third = (Image.fromarray(rows[i][3]) for i in range(3))
    large = first.resize((120, 120), Image.Resampling.BICUBIC)
    rows.append(("copy.bmp", rows[0][1], "x1", first))
    rows.append(("large.png", rows[0][1], "x2", large))
    rows.append(("again.png", rows[1][1], "x3", second))
    third.resize((80, 80), Image.Resampling.BICUBIC).save(tmp_path / "squeezed.jpg", quality=80)
    rows.append(("jpeg.png", rows[2][1], "x4", Image.open(tmp_path / "squeezed.jpg")))
    return rows


def test_copies_are_found_whatever_their_format_size_or_quality(copied, tmp_path):
    dataset = write_set(tmp_path / "copies", copied)
    splits = make_splits(dataset)
    roles = dict.fromkeys(("000.png", "001.png", "002.png"), "train")
    roles |= {"copy.bmp": "test", "large.png": "val", "again.png": "train", "jpeg.png": "test"}
    splits["role"] = [
        roles.get(i, role) for i, role in zip(splits.image_id, splits.role, strict=True)
    ]
    found, subject = audit(dataset, splits)
    exact, near = named(found, "exact_duplicates"), named(found, "near_duplicates")
    assert (exact.verdict, exact.value) == ("fail", 2)
    assert exact.groups == [("000.png", "copy.bmp")], "the group that crosses roles is shown"
    assert (near.verdict, near.value) == ("warn", 2)
    assert sorted(near.groups) == [("000.png", "copy.bmp", "large.png"), ("002.png", "jpeg.png")]
    assert named(found, "label_conflicts").verdict == "pass"
    assert [check.name for check in found.leaks] == ["exact_duplicates"]

    files = write_audit(found, subject, tmp_path / "out")
    assert [path.name for path in files] == ["audit.json", "findings.csv", "findings.png"]
    assert read_audit(tmp_path / "out") == found.as_json()
    rows = pd.read_csv(tmp_path / "out/findings.csv")
    assert rows.image_id[rows.check == "exact_duplicates"].tolist() == ["000.png", "copy.bmp"]
    with Image.open(tmp_path / "out/findings.png") as sheet:
        assert np.asarray(sheet.convert("L")).std() > 10, "there are pictures on it"


def test_copies_within_one_role_warn_and_of_one_patient_pass(copied, tmp_path):
    dataset = write_set(tmp_path / "copies", copied)
    splits = make_splits(dataset).assign(role="train")
    assert named(audit(dataset, splits)[0], "exact_duplicates").verdict == "warn"
    found, _ = audit(dataset, splits.assign(patient_id="one"))
    check = named(found, "exact_duplicates")
    assert (check.verdict, check.value, check.groups) == ("pass", 2, [])


def test_the_same_image_with_two_labels_fails(copied, tmp_path):
    other = {"NEVUS": "MELANOMA", "MELANOMA": "NEVUS"}
    name, label, patient, pixels = copied[92]
    copied[92] = (name, other[label], patient, pixels)
    check = named(audit(write_set(tmp_path / "torn", copied))[0], "label_conflicts")
    assert (check.verdict, check.value) == ("fail", 1)
    assert check.groups == [("001.png", "again.png")]


def test_an_unreadable_or_vanished_image_does_not_end_the_audit(copied, tmp_path):
    dataset = write_set(tmp_path / "torn", copied)
    Path(dataset.records[5].path).write_bytes(b"no image")
    found, subject = audit(dataset)
    assert "among 93 of 94 images" in named(found, "exact_duplicates").detail
    for record in dataset.records[:2]:
        Path(record.path).unlink()
    write_audit(found, subject, tmp_path / "out")


@pytest.mark.parametrize(
    ("fact", "check", "verdict"),
    [
        ("name", "filename_rule", "warn"),
        ("folder", "filename_rule", "warn"),
        ("size", "pixel_rule", "fail"),
        ("format", "pixel_rule", "fail"),
        ("border", "pixel_rule", "fail"),
        ("colour", "pixel_rule", "fail"),
        ("source", "source_rule", "fail"),
        ("sex", "metadata_rule", "warn"),
    ],
)
def test_a_planted_shortcut_is_found_and_named(drawn, tmp_path, fact, check, verdict):
    """Each fact agrees with the label in nine of ten images."""
    rng = np.random.default_rng(0)
    rows, columns = [], {}
    signs = [(label == "MELANOMA") != (rng.random() < 0.1) for label, *_ in clean_labels(drawn)]
    for (name, label, patient, pixels), sign in zip(clean_rows(drawn), signs, strict=True):
        rows.append(planted(fact, sign, name, label, patient, pixels, tmp_path / "set"))
    if fact in ("source", "sex"):
        columns[fact] = ["ab"[sign] for sign in signs]
    found, _ = audit(write_set(tmp_path / "set", rows, **columns))
    shortcut = named(found, check)
    assert shortcut.verdict == verdict, shortcut.detail
    # Nine of ten, three standard errors of 90 images below.
    assert float(shortcut.detail.partition("accuracy ")[2][:5]) > 0.9 - 3 * np.sqrt(0.09 / 90)
    assert shortcut.groups
    graver = {name for name, found in verdicts(found).items() if found in ("warn", "fail")}
    assert graver == {check}, "and nothing else"


def clean_labels(drawn):
    return [(label, name) for name, label, _, _ in clean_rows(drawn)]


def planted(fact, sign, name, label, patient, pixels, folder):
    picture = Image.fromarray(pixels)
    if fact == "name":
        name = f"{'melanoma' if sign else 'ISIC'}_{name}"
    elif fact == "folder":
        name = f"{'clinic' if sign else 'practice'}/{name}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    elif fact == "size":
        picture = picture.resize((48, 48) if sign else (40, 40))
    elif fact == "format":
        name = name.replace("png", "bmp") if sign else name
    elif fact == "border" and sign:
        framed = pixels.copy()
        framed[:6], framed[-6:] = 0, 0
        picture = Image.fromarray(framed)
    elif fact == "colour" and sign:
        picture = Image.fromarray((pixels * [1.0, 0.8, 0.6]).astype(np.uint8))
    return name, label, patient, picture


def test_what_repeats_the_label_is_left_out_and_listed(drawn, tmp_path):
    rows = [
        (f"train/{label}/{name}", label, patient, pixels)
        for name, label, patient, pixels in clean_rows(drawn)
    ]
    for label in ("NEVUS", "MELANOMA"):
        (tmp_path / "set/train" / label).mkdir(parents=True)
    cause = [label.lower() for _, label, _, _ in rows]
    found, _ = audit(write_set(tmp_path / "set", rows, cause=cause, benign_malignant=cause))
    listed = ["column benign_malignant", "column cause", "folder MELANOMA", "folder NEVUS"]
    assert found.excluded == listed
    assert verdicts(found)["metadata_rule"] == "untestable"
    assert verdicts(found)["filename_rule"] == "pass"


def test_a_prior_shift_between_train_and_test_is_reported(drawn, tmp_path):
    dataset = write_set(tmp_path, clean_rows(drawn))
    splits = make_splits(dataset)
    splits["role"] = np.where(splits.label == "NEVUS", "train", "test")
    splits.loc[splits.index[splits.label == "NEVUS"][:5], "role"] = "test"
    splits.loc[splits.index[splits.label == "MELANOMA"][:5], "role"] = "train"
    check = named(audit(dataset, splits)[0], "prevalence")
    counts = Counter(zip(splits.role, splits.label, strict=True))
    share = {
        role: counts[role, "NEVUS"] / (counts[role, "NEVUS"] + counts[role, "MELANOMA"])
        for role in ("train", "test")
    }
    assert check.verdict == "warn"
    assert check.value == pytest.approx(share["train"] - share["test"])


def test_looks_are_kept_by_the_content_of_the_data(drawn, tmp_path, monkeypatch):
    dataset = write_set(tmp_path / "set", clean_rows(drawn))
    first = look_at_all(dataset, cache=tmp_path / "cache")
    again = dataset.subset(dataset.records[::-1])
    monkeypatch.setattr(type(dataset), "pixels", lambda *_: pytest.fail("read again"))
    assert (look_at_all(again, cache=tmp_path / "cache")[::-1] == first).all(), "in any order"
    assert first["seen"].all()
    monkeypatch.undo()
    Image.fromarray(np.flipud(drawn[0][2])).resize((50, 50)).save(dataset.records[0].path)
    changed = open_dataset(tmp_path / "set", positive="MELANOMA")
    assert look_at_all(changed, cache=tmp_path / "cache")["width"][0] == 50


def test_a_pass_that_is_cut_judges_by_a_sample_and_says_so(drawn, tmp_path):
    dataset = write_set(tmp_path / "set", clean_rows(drawn))
    found, _ = audit(dataset, seconds=0.0, cache=tmp_path / "cache")
    assert "among 1 of 90 images" in named(found, "exact_duplicates").detail
    assert named(found, "pixel_rule").verdict == "untestable"
    assert not any((tmp_path / "cache").glob("*")), "a part is not kept as the whole"


def test_large_jpegs_are_read_at_a_fraction_and_look_the_same(drawn, tmp_path):
    picture = Image.fromarray(drawn[0][2]).resize((1600, 1200), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "large.jpg", quality=92)
    picture.save(tmp_path / "large.png")
    looks = look_at_all(open_dataset(tmp_path))
    assert looks["width"].tolist() == [1600, 1600]
    np.testing.assert_allclose(looks["colour"][0], looks["colour"][1], atol=1.0)
    assert looks["spectrum"][0] @ looks["spectrum"][1] > 0.999


@needs_images
def test_two_hundred_real_melanomas_and_naevi():
    dataset = open_dataset(f"isic2020:{DATA / 'isic-melanoma'}")
    found, _ = audit(dataset.subset(dataset.records[::8]))
    assert verdicts(found)["source_rule"] == "pass"
    assert verdicts(found)["patient_overlap"] == "untestable"


@needs_images
@pytest.mark.slow
def test_the_real_sets_say_what_is_known_of_them():
    isic, _ = audit(open_dataset(f"isic2020:{DATA / 'isic-melanoma'}"))
    assert verdicts(isic)["source_rule"] == "pass"
    assert verdicts(isic)["patient_overlap"] == "untestable"
    assert verdicts(isic)["pixel_rule"] == "fail", "melanomas are darker"
    chest, _ = audit(open_dataset(DATA / "chest-xray"))
    assert chest.verdict == "warn"
    assert verdicts(chest)["filename_rule"] == "warn"
    assert verdicts(chest)["pixel_rule"] == "pass"
    assert named(chest, "exact_duplicates").value == 30
    assert chest.excluded == ["column cause", "folder NORMAL", "folder PNEUMONIA"]


@needs_images
@pytest.mark.slow
def test_the_same_lesions_at_two_sizes_are_found():
    """982 images of isic-melanoma are also in ham10000, smaller and compressed again."""
    large = open_dataset(f"isic2020:{DATA / 'isic-melanoma'}").records
    small = {r.image_id: r for r in open_dataset(f"ham10000:{DATA / 'ham10000'}").records}
    pairs = [(r, small[r.image_id]) for r in large if r.image_id in small]
    records = [replace(r, image_id=f"a/{r.image_id}") for r, _ in pairs]
    records += [replace(r, image_id=f"b/{r.image_id}") for _, r in pairs]
    dataset = Dataset.of_files("both", records, [])
    found = find_duplicates(dataset, look_at_all(dataset))
    sides = [tuple(dataset.records[i].image_id[2:] for i in group) for group in found.near]
    assert len(pairs) == 982
    # The median bits of two pairs differ in four places: one more than is searched for.
    assert sum(len(set(side)) == 1 for side in sides) >= 980
    assert sum(len(set(side)) > 1 for side in sides) == 0, "and no two lesions for one"
