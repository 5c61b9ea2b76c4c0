"""DICOM out: what the objects say, whose study they are in, and no identifier anywhere else."""

import json
import logging
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

hd = pytest.importorskip("highdicom", reason="needs the extra dicom")
import pydicom  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from diffdx.cli.app import app  # noqa: E402
from diffdx.data import dicom  # noqa: E402
from diffdx.errors import ConfigError, DataError  # noqa: E402
from diffdx.report.dicom_capture import secondary_capture, with_legend  # noqa: E402
from diffdx.report.dicom_folder import write_objects  # noqa: E402
from diffdx.report.dicom_source import identifiers_kept, read_source, write_object  # noqa: E402
from diffdx.report.dicom_sr import structured_report  # noqa: E402

SHA = "ab" * 32
PIXELS = np.random.default_rng(0).integers(0, 256, (96, 81), dtype=np.uint8)
SETTINGS = {
    "classes": ["NORMAL", "PNEUMONIA"],
    "rule": "vote",
    "space": "v",
    "trials": 501,
    "stop": "none",
    "seed": 0,
    "seconds": 1.5,
    "model_sha256": SHA,
}
ROW = {
    "prediction": "PNEUMONIA",
    "vote_share_NORMAL": 0.25,
    "vote_share_PNEUMONIA": 0.75,
    "entropy_bits": 0.8112781,
    "trials_used": 501,
}
CALIBRATED = ROW | {
    "prob_NORMAL": 0.125,
    "prob_PNEUMONIA": 0.875,
    "share_low": 0.7,
    "share_high": 0.8,
    "set": "{PNEUMONIA}",
    "triage": "rule-in",
    "ood": np.False_,
    "ood_p_value": 0.5,
    "caution": "out of scope: lateral view",
}
PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@pytest.fixture
def source(radiograph, tmp_path):
    """A radiograph's path and its tags as results see them."""
    path = tmp_path / "image.dcm"
    radiograph(PIXELS, path)
    return path, read_source(path)


def read_back(report, tmp_path):
    """The report's measurements and evaluations by name, after a round trip through a file."""
    write_object(tmp_path / "report.dcm", report)
    parsed = hd.sr.srread(tmp_path / "report.dcm")
    (group,) = parsed.content.get_image_measurement_groups()
    numbers = {m.name.meaning: m.value for m in group.get_measurements()}
    words = {}
    for said in group.get_qualitative_evaluations():
        words.setdefault(said.name.meaning, []).append(said.value.meaning)
    return parsed, group, numbers, words


def canaries(data):
    return {
        str(one.value)
        for one in data.iterall()
        if one.VR not in ("SQ", "OB", "OW") and "CANARY" in str(one.value)
    }


class TestReport:
    def test_it_says_what_the_row_says(self, source, tmp_path):
        said = {**SETTINGS, "alpha": 0.1, "prevalence": "NORMAL 0.257 (calib)"}
        report = structured_report(*source, CALIBRATED, said)
        parsed, group, numbers, words = read_back(report, tmp_path)
        assert numbers == {
            "Vote share of NORMAL": 0.25,
            "Vote share of PNEUMONIA": 0.75,
            "Calibrated probability of NORMAL": 0.125,
            "Calibrated probability of PNEUMONIA": 0.875,
            "Vote share of PNEUMONIA, lower 95% bound": 0.7,
            "Vote share of PNEUMONIA, upper 95% bound": 0.8,
            "Entropy over the classes": 0.811278,
            "p value of being like the calibration images": 0.5,
            "Trials": 501,
        }
        assert words == {
            "Intended use": ["Research use only. Not a medical device."],
            "Predicted class": ["PNEUMONIA"],
            "In the conformal set": ["PNEUMONIA"],
            "Triage": ["rule-in"],
            "Out of distribution": ["No"],
            "Caution": ["out of scope: lateral view"],
        }
        texts = [str(item.value) for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        assert {"diffdx", "alpha = 0.1", f"model_sha256 = {SHA}", "trials = 501"} <= set(texts)
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == source[1].SOPInstanceUID
        assert parsed.content[0].template_id == "1500"
        assert parsed.SOPClassUID == pydicom.uid.EnhancedSRStorage
        assert (parsed.PreliminaryFlag, parsed.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
        assert "research use only" in parsed.SeriesDescription

    def test_without_calibration_it_gives_no_probability_and_says_so(self, source, tmp_path):
        row = ROW | {"prob_NORMAL": float("nan"), "triage": pd.NA}
        _, _, numbers, words = read_back(structured_report(*source, row, SETTINGS), tmp_path)
        assert not any("probability" in name for name in numbers)
        assert words["Probability"] == ["not calibrated: scores are no probabilities"]
        assert "Triage" not in words

    def test_an_empty_set_and_a_foreign_image_are_told(self, source, tmp_path):
        row = CALIBRATED | {"set": "{}", "ood": True, "triage": "refer"}
        words = read_back(structured_report(*source, row, SETTINGS), tmp_path)[3]
        assert words["In the conformal set"] == ["no class: refer"]
        assert words["Out of distribution"] == ["Yes"]

    def test_a_baseline_has_scores_and_no_trials(self, source, tmp_path):
        row = {"prediction": "NORMAL", "score_NORMAL": 0.9, "score_PNEUMONIA": 0.1}
        said = SETTINGS | {"trials": None, "stop": None, "rule": "softmax"}
        report = structured_report(*source, row | {"trials_used": 0}, said)
        numbers = read_back(report, tmp_path)[2]
        assert numbers == {"Softmax score of NORMAL": 0.9, "Softmax score of PNEUMONIA": 0.1}

    def test_the_same_result_is_one_object_and_another_is_another(self, source):
        first, again, other, foreign = (
            structured_report(*source, row, settings)
            for row, settings in (
                (CALIBRATED, SETTINGS),
                (CALIBRATED, SETTINGS | {"seconds": 9.0}),
                (CALIBRATED | {"triage": "refer"}, SETTINGS),
                (CALIBRATED, SETTINGS | {"model_sha256": "cd" * 32}),
            )
        )
        assert first.SOPInstanceUID == again.SOPInstanceUID
        assert first.SeriesInstanceUID == again.SeriesInstanceUID != source[1].SeriesInstanceUID
        assert len({one.SOPInstanceUID for one in (first, other, foreign)}) == 3
        assert all(pydicom.uid.UID(uid).is_valid for uid in (first.SOPInstanceUID,))


class TestCapture:
    def test_it_shows_the_map_above_its_legend(self, source, tmp_path):
        drawn = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        write_object(tmp_path / "map.dcm", secondary_capture(*source, drawn, "Difference.", 1, SHA))
        capture = pydicom.dcmread(tmp_path / "map.dcm")
        shown = capture.pixel_array
        np.testing.assert_array_equal(shown[:768:48, :768:48], drawn)
        assert len(shown) > 768
        assert shown[768:].any()
        assert capture.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert capture.PhotometricInterpretation == "RGB"
        assert "Research use only" in capture.DerivationDescription
        (made_of,) = capture.SourceImageSequence
        assert made_of.ReferencedSOPInstanceUID == source[1].SOPInstanceUID
        purpose = codes.DCM.SourceImageForImageProcessingOperation
        assert made_of.PurposeOfReferenceCodeSequence[0].CodeValue == purpose.value
        assert list(capture.PatientOrientation) == ["L", "F"]
        assert capture.BurnedInAnnotation == "NO"

    def test_a_side_that_is_not_known_is_said_to_be_unknown(self, source):
        path, tags = source
        del tags.BodyPartExamined
        capture = secondary_capture(path, tags, np.zeros((8, 8, 3), np.uint8), "Map.", 1, SHA)
        assert capture.Laterality == ""

    def test_a_large_map_is_not_enlarged(self):
        assert with_legend(np.zeros((900, 800, 3), np.uint8), "A legend.").shape[1] == 800


class TestStudy:
    def objects(self, source):
        drawn = np.zeros((16, 16, 3), np.uint8)
        return (
            structured_report(*source, CALIBRATED, SETTINGS),
            secondary_capture(*source, drawn, "Map.", 1, SHA),
        )

    def test_patient_and_study_are_those_of_the_source(self, source, tmp_path):
        path = source[0]
        image = pydicom.dcmread(path)
        for result in self.objects(source):
            write_object(tmp_path / "result.dcm", result)
            stored = pydicom.dcmread(tmp_path / "result.dcm")
            for name in PATIENT_AND_STUDY:
                assert str(stored[name].value) == str(image[name].value), name
            # The other canaries of the source, of 32 text tags and a private block, stay there.
            allowed = {str(image[name].value) for name in PATIENT_AND_STUDY}
            assert canaries(stored) <= allowed
            assert len(canaries(image) - allowed) > 20

    def test_another_character_set_gives_the_same_name(self, radiograph, tmp_path):
        path = tmp_path / "latin.dcm"
        radiograph(PIXELS, path, SpecificCharacterSet="ISO_IR 100")
        for result in self.objects((path, read_source(path))):
            write_object(tmp_path / "result.dcm", result)
            assert pydicom.dcmread(tmp_path / "result.dcm").PatientName == "CANARY^Zoë^^Dr"

    def test_values_that_break_the_rules_are_copied_in_silence(
        self, radiograph, tmp_path, capfd, caplog
    ):
        path = tmp_path / "odd.dcm"
        with identifiers_kept(path):
            long = {"PatientID": "CANARY" * 20, "AccessionNumber": "CANARY" * 9}
            radiograph(PIXELS, path, **long, PatientSex="CANARY", PatientBirthDate="CANARY")
        with caplog.at_level(logging.DEBUG):
            for result in self.objects((path, read_source(path))):
                write_object(tmp_path / "result.dcm", result)
                with identifiers_kept(path):
                    stored = pydicom.dcmread(tmp_path / "result.dcm")
                    stored.decode()
                assert stored.PatientID == "CANARY" * 20
                assert (stored.PatientSex, stored["PatientBirthDate"].value) == ("CANARY",) * 2
        captured = capfd.readouterr()
        assert "CANARY" not in captured.out + captured.err + caplog.text

    def test_tags_that_the_source_lacks_are_empty_or_absent(self, radiograph, tmp_path):
        path = tmp_path / "bare.dcm"
        radiograph(PIXELS, path)
        image = pydicom.dcmread(path)
        for name in PATIENT_AND_STUDY:
            if name != "StudyInstanceUID":
                delattr(image, name)
        image.save_as(path)
        for result in self.objects((path, read_source(path))):
            assert result.PatientName == ""
            assert "PatientAge" not in result

    def test_an_image_of_no_study_is_refused(self, radiograph, tmp_path):
        path = tmp_path / "stray.dcm"
        radiograph(PIXELS, path, StudyInstanceUID="")
        with pytest.raises(DataError, match="has no StudyInstanceUID"):
            read_source(path)

    def test_an_error_tells_its_kind_and_not_what_it_read(self, tmp_path):
        with pytest.raises(DataError, match="ValueError") as caught, identifiers_kept(tmp_path):
            raise ValueError("the name CANARY is not allowed")
        assert "CANARY" not in str(caught.value)
        assert caught.value.__suppress_context__

    def test_an_error_of_the_disk_stays_one(self, tmp_path):
        with pytest.raises(OSError, match="No space"), identifiers_kept(tmp_path):
            raise OSError(28, "No space left on device")

    def test_dciodvfy_finds_no_errors(self, source, tmp_path):
        if shutil.which("dciodvfy") is None:
            pytest.skip("dciodvfy is not there (Debian: dicom3tools)")
        for result in self.objects(source):
            write_object(tmp_path / "result.dcm", result)
            checked = subprocess.run(
                ["dciodvfy", "-new", str(tmp_path / "result.dcm")], capture_output=True, text=True
            )
            errors = [line for line in checked.stderr.splitlines() if line.startswith("Error")]
            assert errors == []


@pytest.fixture
def folders(radiograph, predictions_folder, tmp_path):
    """Predictions of two radiographs, a picture and a failure; an explanation of the first."""
    folder = predictions_folder(["NORMAL", "PNEUMONIA", None], failed=1, model_sha256=SHA)
    paths = [tmp_path / "CANARY_a.dcm", tmp_path / "b.dcm", tmp_path / "c.png"]
    for path in paths[:2]:
        radiograph(PIXELS, path)
    paths[2].write_bytes(b"no DICOM")
    table = pd.read_parquet(folder / "predictions.parquet")
    table["path"] = [*map(str, paths), "gone.dcm"]
    table.to_parquet(folder / "predictions.parquet")
    (folder / "classify.json").touch()
    explanations = tmp_path / "explanations"
    (explanations / "0000").mkdir(parents=True)
    row = {"path": str(paths[0]), "folder": "0000", "y_src": "NORMAL", "y_cf": "PNEUMONIA"}
    pd.DataFrame([row | {"status": "ok"}]).to_parquet(explanations / "explanations.parquet")
    x = np.zeros((1, 16, 16), np.float32)
    brighter = x.copy()
    brighter[0, 4, 4] = 1
    arrays = {"x": x, "x_factual": x, "x_cf": brighter, "evidence": np.ones((16, 16, 4), "f4")}
    np.savez(explanations / "0000" / "arrays.npz", **arrays)
    return folder, explanations, paths


def run_write(*arguments):
    return CliRunner().invoke(app, ["dicom", "write", *map(str, arguments)])


class TestFolder:
    def test_each_radiograph_gets_a_report_and_an_explained_one_its_maps(self, folders, tmp_path):
        folder, explanations, _ = folders
        arguments = folder, "--out", tmp_path / "results", "--explanations", explanations, "--json"
        result = run_write(*arguments)
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert told == {"out": str(tmp_path / "results"), "objects": 4, "n_other": 2, "n_failed": 0}
        found = sorted(path.name for path in (tmp_path / "results").rglob("*.dcm"))
        assert found == ["difference.dcm", "evidence.dcm", "report.dcm", "report.dcm"]
        assert "CANARY" not in str(sorted((tmp_path / "results").rglob("*")))
        (difference,) = (tmp_path / "results").rglob("difference.dcm")
        pixels = pydicom.dcmread(difference).pixel_array.astype(int)
        red = pixels[4 * 48 + 1, 4 * 48 + 1]
        assert red[0] > red[2], "brighter as the other class is red"
        unchanged = pixels[1, 1]
        assert (unchanged == 128).all(), "and no change shows the image as it is"

    def test_an_image_explained_as_its_own_class_has_no_difference(self, folders, tmp_path):
        folder, explanations, _ = folders
        table = pd.read_parquet(explanations / "explanations.parquet").assign(y_cf="NORMAL")
        table.to_parquet(explanations / "explanations.parquet")
        written = write_objects(folder, tmp_path / "results", explanations)
        assert [p.name for p in written.objects] == ["report.dcm", "evidence.dcm", "report.dcm"]
        said = pydicom.dcmread(written.objects[1]).DerivationDescription
        assert "better as NORMAL, blue as any other class" in said

    def test_a_calibrated_folder_tells_alpha_and_prevalence(self, folders, tmp_path):
        folder, _, _ = folders
        entry = {"conformal": {"alpha": 0.1}}
        deployed = {"source": "given", "shares": {"NORMAL": 0.9, "PNEUMONIA": 0.1}}
        stored = {"by_stop": {"none": entry}, "deployed": deployed}
        (folder / "calibration.json").write_text(json.dumps(stored))
        report = hd.sr.srread(write_objects(folder, tmp_path / "results").objects[0])
        texts = [str(e.value) for e in report.iterall() if e.keyword == "TextValue"]
        assert "prevalence = NORMAL 0.900, PNEUMONIA 0.100 (given)" in texts
        assert "alpha = 0.1" in texts

    def test_an_image_changed_since_is_refused(self, folders, tmp_path, radiograph):
        folder, _, paths = folders
        radiograph(PIXELS, paths[1])
        later = (folder / "classify.json").stat().st_mtime + 10
        os.utime(paths[1], (later, later))
        result = run_write(folder, "--out", tmp_path / "results")
        assert result.exit_code == 3
        assert "changed after it was classified" in result.stderr.replace("\n", " ")
        assert len(list((tmp_path / "results").rglob("*.dcm"))) == 1

    def test_explanations_that_are_none_are_refused(self, folders, tmp_path):
        folder, _, _ = folders
        with pytest.raises(DataError, match="no such file"):
            write_objects(folder, tmp_path / "results", tmp_path)

    def test_a_missing_library_names_the_extra(self, monkeypatch):
        monkeypatch.setattr(dicom, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install 'diffdx\[dicom\]'"):
            dicom.require_dicom("highdicom")
