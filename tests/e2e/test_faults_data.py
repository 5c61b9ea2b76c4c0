"""Bad input, fault by fault: which test fires it, and one folder of them through the command.

The numbers are those of the project's list of faults: images 1 to 15, DICOM 16 to 28, tables and
splits 29 to 37.
"""

import ast
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx.cli.app import app
from diffdx.data import open_dataset
from diffdx.errors import DataError

TESTS = Path(__file__).resolve().parents[1]
IMAGES, DICOM, TABLES, SPLITS = (
    f"unit/test_{name}.py" for name in ("images", "dicom", "dataset", "splits")
)
FAULTS = {
    1: (IMAGES, "test_what_is_no_image_of_the_four_formats_is_refused"),
    2: (IMAGES, "test_a_file_cut_short_is_refused_and_never_half_read"),
    3: (IMAGES, "test_a_header_of_60000_x_60000_is_refused_without_decoding"),
    4: (IMAGES, "test_a_header_of_144_megapixels_is_refused_by_our_own_limit"),
    5: (IMAGES, "test_16_bit_grey_keeps_its_full_range"),
    6: (IMAGES, "test_cmyk_is_converted_with_a_warning"),
    7: (IMAGES, "test_exif_orientation_is_applied"),
    8: ("unit/test_pixels.py", "test_colour_becomes_its_luma"),
    9: (IMAGES, "test_sizes_that_cannot_be_resized_with_sense_are_refused"),
    10: (IMAGES, "test_a_constant_image_is_refused"),
    11: (IMAGES, "test_a_file_of_several_frames_needs_a_choice"),
    12: (IMAGES, "test_the_content_decides_not_the_name"),
    13: (IMAGES, "test_what_is_no_regular_file_is_refused_without_waiting"),
    14: (IMAGES, "test_formats_that_pillow_could_read_but_are_not_allowed_are_refused"),
    15: ("e2e/test_faults_data.py", "test_a_file_replaced_or_deleted_after_listing_fails_alone"),
    16: (DICOM, "test_pixel_data_too_short_is_told_in_numbers"),
    17: (DICOM, "test_no_preamble_and_no_dicm_are_refused_and_never_forced"),
    18: (DICOM, "test_too_few_rows_are_no_frames"),
    19: (DICOM, "test_monochrome1_equals_its_inverted_twin"),
    20: (DICOM, "test_what_leaves_the_pixels_undefined_is_refused"),
    21: (DICOM, "test_signed_12_in_16_bits_span_the_signed_range"),
    22: (DICOM, "test_a_missing_plugin_is_named_with_its_command"),
    23: (DICOM, "test_what_is_no_image_is_counted_and_left_out"),
    24: (DICOM, "test_deep_nesting_lying_lengths_and_many_tags_end_with_a_reason"),
    25: (DICOM, "test_a_program_in_the_preamble_is_warned_of"),
    26: (DICOM, "test_the_same_name_in_two_folders_and_the_same_uid_give_two_rows"),
    27: (DICOM, "test_burned_in_text_is_warned_of_and_refused_on_request"),
    28: (DICOM, "test_what_is_out_of_scope_is_flagged"),
    29: (TABLES, "test_a_faulty_table_is_refused_where_it_is_faulty"),
    30: (TABLES, "test_blank_labels_are_kept_for_prediction_and_listed_for_training"),
    31: ("unit/test_layouts.py", "test_what_uncertain_means_must_be_said"),
    32: (TABLES, "test_what_cannot_be_trained_on_is_refused"),
    33: (SPLITS, "test_a_leak_is_refused_with_counts_and_hashes_but_no_name"),
    34: ("unit/test_audit.py", "test_copies_are_found_whatever_their_format_size_or_quality"),
    35: (SPLITS, "test_without_patients_it_warns_loudly_and_splits_by_image"),
    36: ("e2e/test_cli.py", "test_classes_are_matched_by_name_not_by_position"),
    37: (TABLES, "test_a_multi_label_table_is_explained"),
}


@pytest.mark.parametrize(("file", "name"), FAULTS.values(), ids=map(str, FAULTS))
def test_every_fault_has_a_test_that_fires_it(file, name):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_model("NORMAL", "PNEUMONIA").save(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two good images and one file for each way to be bad that a folder can hold."""
    rng = np.random.default_rng(0)
    for name in ("good.png", "upper.PNG", "cut.jpg", "stack.tif", "small.png", "flat.png"):
        shape = (4, 4) if name.startswith("small") else (20, 24)
        noise = rng.integers(0, 256, shape, dtype=np.uint8) * (name != "flat.png")
        image = Image.fromarray(noise)
        more = {"save_all": True, "append_images": [image]} if name == "stack.tif" else {}
        image.save(tmp_path / name, **more)
    raw = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.png").write_text("some text")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


def classify(run, folder, out, *more):
    arguments = ["classify", str(run), str(folder), "--out", str(out), "--trials", "1", "--bank"]
    arguments += ["1", "--device", "cpu", "--quiet", *more]
    return CliRunner().invoke(app, arguments)


def test_one_folder_of_faults_is_a_row_each_and_exit_code_3(run, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "p"
    result = classify(run, folder, out)
    assert result.exit_code == 3, result.output
    table = pd.read_parquet(out / "predictions.parquet").set_index("image_id")
    reasons = {
        "cut.jpg": "damaged image",
        "empty.jpg": "not an image",
        "flat.png": "no contrast",
        "loop.png": "cannot be opened",
        "page.pdf": "not an image",
        "pipe.png": "not a regular file",
        "small.png": "too small",
        "stack.tif": "2 frames",
        "text.png": "not an image",
    }
    assert table.index[table.status == "ok"].tolist() == ["good.png", "upper.PNG"]
    assert set(table.index[table.status == "error"]) == set(reasons)
    for name, reason in reasons.items():
        assert reason in table.error[name]
        assert name in table.error[name]
        assert "\n" not in table.error[name]


def test_strict_stops_at_the_first_one(run, folder, tmp_path_factory):
    result = classify(run, folder, tmp_path_factory.mktemp("out") / "p", "--strict")
    assert result.exit_code == 1
    assert "cut.jpg" in result.output


def test_dicom_is_classified_like_images_with_its_cautions_and_without_names(run, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    source = pydicom.data.get_testdata_file("dicomdirtests/77654033/CR1/6154", download=False)
    place = tmp_path / "scans"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name, burned, view in (("a.dcm", "NO", "PA"), ("b.dcm", "YES", "PA"), ("c", "NO", "LL")):
        data = pydicom.dcmread(source)
        data.PatientName = data.PatientID = data.InstitutionName = "CANARY"
        data.BurnedInAnnotation, data.ViewPosition = burned, view
        data.Modality, data.SeriesDescription = "DX", "CANARY"
        data.Rows, data.Columns = 20, 24
        data.PixelData = rng.integers(0, 2**data.BitsStored, (20, 24), dtype=np.uint16).tobytes()
        data.save_as(place / name)
    report = pydicom.data.get_testdata_file("reportsi.dcm", download=False)
    (place / "report").write_bytes(Path(report).read_bytes())
    result = classify(run, place, tmp_path / "p")
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(tmp_path / "p" / "predictions.parquet").set_index("image_id")
    assert table.index.tolist() == ["a.dcm", "b.dcm", "c"]
    assert table.patient_id.nunique() == 1
    assert table.caution["b.dcm"] == "burned-in text: declared"
    assert table.caution["c"] == "out of scope: lateral view"
    warnings = json.loads((tmp_path / "p" / "classify.json").read_text())["warnings"]
    assert any("1 Basic Text SR Storage" in warning for warning in warnings)
    for path in (tmp_path / "p").iterdir():
        assert b"CANARY" not in path.read_bytes()
    assert "CANARY" not in result.output
    refused = classify(run, place, tmp_path / "q", "--refuse-burned-in")
    assert refused.exit_code == 3
    table = pd.read_parquet(tmp_path / "q" / "predictions.parquet").set_index("image_id")
    assert table.status.tolist() == ["ok", "error", "ok"]


def test_a_file_replaced_or_deleted_after_listing_fails_alone(folder):
    dataset = open_dataset(folder)
    by_id = {record.image_id: record for record in dataset.records}
    (folder / "good.png").unlink()
    (folder / "upper.PNG").write_text("another content")
    with pytest.raises(DataError, match="cannot be opened"):
        dataset.pixels(by_id["good.png"])
    with pytest.raises(DataError, match="not an image"):
        dataset.pixels(by_id["upper.PNG"])


def test_data_list_names_every_layout():
    result = CliRunner().invoke(app, ["data", "list", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.output)["layouts"]}
    assert {"chexpert", "isic2020", "isic2019", "isic", "ham10000", "medmnist"} <= rows.keys()
    assert all(row["licence"] and row["citation"] for row in rows.values())
    assert "20,404" in CliRunner().invoke(app, ["data", "list"]).output
