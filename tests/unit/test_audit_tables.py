"""The audit of tables alone, the paper's lists among them, and its verdict in one line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffdx.data.audit import Audit, Check, audit_line
from diffdx.data.audit.run import run_audit
from diffdx.data.audit.subject import subject_of_lists
from diffdx.errors import DataError

DATA = Path(__file__).parents[3] / "shared/data"
needs_images = pytest.mark.skipif(
    not DATA.is_dir(), reason="the public image sets are not on this machine"
)


def named(found, name):
    return next(check for check in found.checks if check.name == name)


def verdicts(found):
    return {check.name: check.verdict for check in found.checks}


def test_an_audit_in_one_line():
    checks = [
        Check("patient_overlap", "pass", 0, ""),
        Check("source_rule", "fail", 0.93829, ""),
        Check("filename_rule", "warn", 1.0, ""),
        Check("metadata_rule", "untestable", None, ""),
    ]
    found = Audit("x", 4, None, {}, [], "f", checks)
    line = "fail (fail: source_rule 0.938; warn: filename_rule 1.000; untestable: metadata_rule)"
    assert found.line() == line
    assert audit_line(["something else", found.warning()]) == line
    assert audit_line(["something else"]) is None
    assert replace(found, checks=checks[:1]).line() == "pass"


def test_tables_alone(tmp_path):
    rng = np.random.default_rng(0)
    tables = {}
    for role, start, n in (("train", 0, 300), ("valid", 300, 40), ("test", 340, 60)):
        labels = rng.integers(0, 2, n)
        tables[role] = tmp_path / f"my-{role}.csv"
        names = [f"img{i}" for i in range(start, start + n)]
        pd.DataFrame({"image_name": names, "target": labels}).to_csv(tables[role], index=False)
    everyone = pd.concat(map(pd.read_csv, tables.values()))
    listed = everyone[(everyone.target == 0) | (rng.random(400) < 0.2)].image_name
    table = pd.DataFrame(
        {"image_name": listed, "patient_id": [f"P{i // 2}" for i in range(len(listed))]}
    )
    table.to_csv(tmp_path / "truth.csv.gz", index=False)
    subject = subject_of_lists(list(tables.values()), tmp_path / "truth.csv.gz")
    found = run_audit(subject)
    source = named(found, "source_rule")
    assert source.verdict == "fail"
    assert source.detail.startswith("listed in truth: accuracy 0.")
    in_test = everyone.image_name.iloc[340:].isin(listed)
    right = ((everyone.target.iloc[340:] == 1) == ~in_test).mean()
    assert source.value == pytest.approx(right)
    of = dict(zip(table.image_name, table.patient_id, strict=True))
    sides = [
        {of[name] for name in pd.read_csv(tables[role]).image_name if name in of}
        for role in ("train", "test")
    ]
    assert named(found, "patient_overlap").value == len(sides[0] & sides[1])
    untestable = ("exact_duplicates", "near_duplicates", "label_conflicts", "pixel_rule")
    assert {verdicts(found)[name] for name in untestable} == {"untestable"}


def test_an_image_listed_twice_is_found_without_pixels(tmp_path):
    (tmp_path / "train.csv").write_text("image_id,label\na,0\nb,1\nc,1\n")
    (tmp_path / "test.csv").write_text("image_id,label\na,0\nb,0\nd,1\n")
    found = run_audit(subject_of_lists([tmp_path / "train.csv", tmp_path / "test.csv"]))
    assert named(found, "exact_duplicates").verdict == "fail"
    assert named(found, "exact_duplicates").groups == [("a", "b")]
    assert named(found, "label_conflicts").groups == [("b",)]


def test_a_table_of_other_images_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("image_id,label\na,0\nb,1\n")
    (tmp_path / "table.csv").write_text("image_id,age\nx,40\n")
    with pytest.raises(DataError, match="lists none of the 2 images, such as 'a'"):
        subject_of_lists([tmp_path / "train.csv"], tmp_path / "table.csv")


@needs_images
def test_the_papers_isic_lists_are_confounded_and_leak():
    """Spec section 7: membership in ISIC 2020 alone scores .938; 406 of 469 patients are shared."""
    lists = [DATA / f"paper-splits/isic-{role}.csv" for role in ("train", "valid", "test")]
    table = DATA / "paper-splits/ISIC_2020_Training_GroundTruth.csv.gz"
    found = run_audit(subject_of_lists(lists, table))
    assert named(found, "source_rule").verdict == "fail"
    assert named(found, "source_rule").value == pytest.approx(0.938, abs=0.002)
    overlap = named(found, "patient_overlap")
    assert overlap.value == 406
    assert overlap.detail.startswith("406 of 469 patients of test are also in train;")
    assert verdicts(found)["filename_rule"] == "warn"


@needs_images
def test_the_papers_chexpert_lists_are_patient_disjoint():
    lists = [DATA / f"paper-splits/chexpert-{role}.csv" for role in ("train", "valid", "test")]
    found = run_audit(subject_of_lists(lists))
    assert (found.n, found.patients, found.verdict) == (20404, 20404, "pass")
    assert verdicts(found)["patient_overlap"] == "pass"
