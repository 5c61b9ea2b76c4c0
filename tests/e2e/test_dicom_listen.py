"""A DICOM image from archive to node and back: into its own study, and no identifier elsewhere."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("pynetdicom", reason="needs the extra dicom")
pytest.importorskip("highdicom", reason="needs the extra dicom")
httpx = pytest.importorskip("httpx", reason="needs the extra dicom")
zarr = pytest.importorskip("zarr", reason="needs the extra explain")
import pydicom  # noqa: E402
from pydicom import uid  # noqa: E402
from pynetdicom import AE  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from diffdx._files import exclusive  # noqa: E402
from diffdx.backbones.model import DiffusionModel  # noqa: E402
from diffdx.classification.settings import ClassifySettings  # noqa: E402
from diffdx.cli.app import app  # noqa: E402
from diffdx.errors import DataError  # noqa: E402
from diffdx.explain.predicted import Predicted  # noqa: E402
from diffdx.serving.dicom_case import CaseReader  # noqa: E402

RADIOGRAPH = uid.DigitalXRayImageStorageForPresentation
REPORT, CAPTURE = uid.EnhancedSRStorage, uid.SecondaryCaptureImageStorage
ROOT = Path(__file__).parents[2]
CHEST_XRAY = ROOT.parent / "shared" / "data" / "chest-xray" / "train" / "PNEUMONIA"
PLUGINS = Path("/usr/share/orthanc/plugins")
PATIENCE = 300.0
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
FORWARD = """
function OnStoredInstance(id, tags)
  if tags['Modality'] == 'DX' then SendToModality(id, 'diffdx') end
end
"""
OF_STUDY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """A tiny model, not trained."""
    folder = tmp_path_factory.mktemp("run")
    tiny_model("NORMAL", "PNEUMONIA").save(folder)
    return folder


def until(condition, *, process=None):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        assert process is None or process.poll() is None, "the command ended"
        time.sleep(0.1)
    return found


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def files_with(secret, *folders):
    """Files below the folders that hold the text, as it is or in UTF-16."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = secret.encode(), secret.encode("utf-16-le")
    return {p for p in found if any(text in p.read_bytes() for text in texts)}


class TestCase:
    def reader(self, run, **settings):
        settings = ClassifySettings(num_trials=5, bank_size=11, device="cpu", **settings)
        return CaseReader(run, DiffusionModel.load(run), settings)

    def test_it_leaves_what_the_commands_leave_and_names_no_one(
        self, run, radiograph, tmp_path, capfd, caplog
    ):
        image = radiograph(PIXELS, tmp_path / "image.dcm")
        case = tmp_path / "case"
        objects = self.reader(run, evidence=True).read(tmp_path / "image.dcm", case)
        assert {path.name for path in objects.iterdir()} == {
            "report.dcm",
            "difference.dcm",
            "evidence.dcm",
        }
        table = pd.read_parquet(case / "predictions" / "predictions.parquet")
        explained = pd.read_parquet(case / "explanations" / "explanations.parquet")
        (row,), (edit,) = table.to_dict("records"), explained.to_dict("records")
        assert edit["prediction"] == edit["y_src"] == row["prediction"] != edit["y_cf"]
        assert edit["nfe_classify"] == 10, "the image's own trials were not run again"
        for path in objects.iterdir():
            result = pydicom.dcmread(path)
            assert result.StudyInstanceUID == image.StudyInstanceUID
            assert all(result[name].value == image[name].value for name in OF_STUDY)
        # Every other file, picture and table, and all that was said: no canary.
        assert files_with("CANARY", case) == set(objects.iterdir())
        assert not files_with(str(image.SOPInstanceUID), case) - set(objects.iterdir())
        captured = capfd.readouterr()
        assert "CANARY" not in captured.out + captured.err + caplog.text

    def test_a_reading_that_was_cut_short_is_taken_up(self, run, radiograph, tmp_path):
        radiograph(PIXELS, tmp_path / "image.dcm")
        reader, case = self.reader(run), tmp_path / "case"
        first = reader.read(tmp_path / "image.dcm", case)
        written = {p.name: pydicom.dcmread(p).SOPInstanceUID for p in first.iterdir()}
        shutil.rmtree(case / "objects")
        again = reader.read(tmp_path / "image.dcm", case)
        assert {p.name: pydicom.dcmread(p).SOPInstanceUID for p in again.iterdir()} == written

    def test_it_warns_once_that_there_are_no_probabilities(self, run, radiograph, tmp_path, caplog):
        reader = self.reader(run)
        for name in ("a", "b"):
            radiograph(PIXELS, tmp_path / f"{name}.dcm")
            reader.read(tmp_path / f"{name}.dcm", tmp_path / name)
        warned = [r for r in caplog.records if "is not calibrated" in r.getMessage()]
        assert len(warned) == 1

    def test_an_image_that_cannot_be_judged_is_refused(self, run, radiograph, tmp_path):
        radiograph(np.full((40, 40), 7, np.uint8), tmp_path / "flat.dcm")
        with pytest.raises(DataError, match="no contrast"):
            self.reader(run).read(tmp_path / "flat.dcm", tmp_path / "case")

    def test_an_image_that_cannot_be_explained_is_refused(
        self, run, radiograph, tmp_path, monkeypatch
    ):
        radiograph(PIXELS, tmp_path / "image.dcm")
        lost = DataError("evidence.zarr has no maps")
        monkeypatch.setattr(Predicted, "judged", lambda self, image_id: lost)
        with pytest.raises(DataError, match="has no maps"):
            self.reader(run, evidence=True).read(tmp_path / "image.dcm", tmp_path / "case")

    def test_an_image_of_no_study_is_refused(self, run, radiograph, tmp_path):
        radiograph(PIXELS, tmp_path / "stray.dcm", StudyInstanceUID="")
        with pytest.raises(DataError, match="has no StudyInstanceUID"):
            self.reader(run).read(tmp_path / "stray.dcm", tmp_path / "case")


@pytest.mark.parametrize("asked", [False, True])
def test_classify_writes_patients_ids_only_where_asked_for(
    asked, run, radiograph, tmp_path, caplog
):
    radiograph(PIXELS, tmp_path / "image.dcm", PatientID="=CANARY")
    out = tmp_path / "out"
    arguments = ["classify", str(run), str(tmp_path / "image.dcm"), "--out", str(out)]
    arguments += ["--trials", "5", "--device", "cpu", "--evidence"]
    result = CliRunner().invoke(app, arguments + ["--with-identifiers"] * asked)
    assert result.exit_code == 0, result.output
    (patient,) = pd.read_parquet(out / "predictions.parquet")["patient_id"]
    assert ("guard what is written here" in " ".join(result.stderr.split())) == asked
    assert "CANARY" not in result.output + caplog.text
    if asked:
        assert patient == "=CANARY"
        assert ",'=CANARY," in (out / "predictions.csv").read_text(), "no formula in a sheet"
    else:
        assert re.fullmatch("[0-9a-f]{16}", patient)
    tables = {out / "predictions.parquet", out / "predictions.csv"} if asked else set()
    assert files_with("CANARY", out) <= tables


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(app, ["dicom", "listen", *map(str, arguments)])

    def test_a_folder_in_use_is_refused(self, run, tmp_path):
        where = ("--return-to", "PACS@127.0.0.1:9", "--spool", tmp_path)
        with exclusive(tmp_path):
            result = self.invoke(run, "--allow", "PACS", *where)
        assert result.exit_code == 2
        assert "in use by another node" in " ".join(result.stderr.split())

    def test_what_trials_alone_have_is_refused_for_a_baseline(self, tmp_path):
        (tmp_path / "model.json").write_text('{"format_version": 1, "kind": "baseline"}')
        result = self.invoke(tmp_path, "--allow", "A", "--return-to", "B@h:1", "--explain")
        assert result.exit_code == 2
        assert "leave out --explain" in " ".join(result.stderr.split())


@contextmanager
def listening(run, folder, *options, port):
    """`diffdx dicom listen` as its user starts it; yields the process."""
    log = folder / "listen.log"
    start = "from diffdx.cli.app import main; main()"
    command = [sys.executable, "-c", start, "dicom", "listen", str(run), "--allow", "ORTHANC"]
    command += ["--spool", str(folder / "spool"), "--port", str(port), "--device", "cpu"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, *options],
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
    try:
        until(lambda: "results to" in log.read_text(), process=process)
        assert echo(port)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    finally:
        process.kill()
        process.wait()


def echo(port):
    entity = AE("ORTHANC")
    entity.add_requested_context("1.2.840.10008.1.1")
    link = entity.associate("127.0.0.1", port, ae_title="DIFFDX")
    if not link.is_established:
        return False
    status = link.send_c_echo().get("Status")
    link.release()
    return status == 0


@contextmanager
def orthanc(folder, node_port):
    """A real archive with DICOMweb; yields its DICOM port and a client of its REST."""
    dicom_port, web_port = free_port(), free_port()
    (folder / "orthanc").mkdir()
    (folder / "forward.lua").write_text(FORWARD)
    settings = {
        "LuaScripts": [str(folder / "forward.lua")],
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": web_port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomModalities": {"diffdx": ["DIFFDX", "127.0.0.1", node_port]},
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as sink:
        process = subprocess.Popen(
            [shutil.which("Orthanc") or "Orthanc", str(folder / "orthanc.json")],
            stdout=sink,
            stderr=sink,
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{web_port}", timeout=30)

    def answers():
        try:
            return client.get("/system").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        until(answers, process=process)
        yield dicom_port, web_port, client
    finally:
        client.close()
        process.terminate()
        process.wait(PATIENCE)


def stored(client):
    """What the archive holds, through QIDO-RS and WADO: the instances of its one study."""
    found = client.get("/dicom-web/studies", params={"PatientID": "CANARY00"}).json()
    assert len(found) <= 1, "everything is in one study"
    instances = []
    for one in client.get("/instances").json():
        content = client.get(f"/instances/{one}/file").content
        instances.append(pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)))
    return instances


def errors_of(data, folder):
    path = folder / "checked.dcm"
    data.save_as(path)
    checked = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    return {line for line in checked.stderr.splitlines() if line.startswith("Error")}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("way", "calibrated"), [("C-STORE", False), ("STOW-RS", False), ("C-STORE", True)]
)
def test_the_results_come_back_into_the_study_of_a_real_archive(
    way, calibrated, run, radiograph, tmp_path
):
    for program in ("Orthanc", "dciodvfy"):
        if shutil.which(program) is None and not Path(f"/usr/sbin/{program}").exists():
            pytest.skip(f"{program} is not there (Debian: orthanc, orthanc-dicomweb, dicom3tools)")
    real = sorted(CHEST_XRAY.glob("*.jpeg"))
    pixels = np.asarray(Image.open(real[0]).convert("L")) if real else PIXELS
    image = radiograph(pixels, tmp_path / "source.dcm")
    node_port = free_port()
    with orthanc(tmp_path, node_port) as (dicom_port, web_port, client):
        there = f"ORTHANC@127.0.0.1:{dicom_port}"
        there = there if way == "C-STORE" else f"http://127.0.0.1:{web_port}/dicom-web"
        # The reference run is calibrated for all trials of the bank.
        options = ("--return-to", there, "--explain", "--trials", "501" if calibrated else "5")
        model = ROOT / "assets" / "cxr64" if calibrated else run
        with listening(model, tmp_path, *options, port=node_port) as process:
            sender = AE("MODALITY")
            sender.add_requested_context(RADIOGRAPH)
            link = sender.associate("127.0.0.1", dicom_port, ae_title="ORTHANC")
            assert link.send_c_store(image).Status == 0
            link.release()
            until(lambda: len(client.get("/instances").json()) == 4, process=process)
            spool = tmp_path / "spool"
            until(lambda: not any(spool.glob("*/*")), process=process)
        instances = stored(client)
    kinds = sorted(str(one.SOPClassUID) for one in instances)
    assert kinds == sorted([RADIOGRAPH, REPORT, CAPTURE, CAPTURE])
    for one in instances:
        assert one.StudyInstanceUID == image.StudyInstanceUID
        assert all(one[name].value == image[name].value for name in OF_STUDY)
        if one.SOPClassUID == REPORT:
            assert ("Calibrated probability of PNEUMONIA" in str(one)) == calibrated
            assert ("In the conformal set" in str(one)) == calibrated
            assert ("not calibrated" in str(one)) != calibrated
        if one.SOPClassUID != RADIOGRAPH:
            assert one.SeriesInstanceUID != image.SeriesInstanceUID
            assert errors_of(one, tmp_path) <= errors_of(image, tmp_path)
    log = (tmp_path / "listen.log").read_text()
    assert "3 objects sent" in log
    for secret in ("CANARY", str(image.SOPInstanceUID), str(image.StudyInstanceUID)):
        assert secret not in log
        assert not files_with(secret, tmp_path / "spool")
