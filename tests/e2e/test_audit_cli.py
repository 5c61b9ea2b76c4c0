"""`diffdx audit` from end to end, and its verdict beside what is trained afterwards."""

import csv
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx.cli.app import app, repeat_names
from diffdx.data import open_dataset

TINY = [
    "--image-size=16",
    "--set=model.backbone.channels=[16,32]",
    "--set=train.warmup_steps=2",
    "--steps=2",
    "--batch-size=4",
    "--precision=fp32",
    "--device=cpu",
]


def invoke(*arguments):
    result = CliRunner().invoke(app, repeat_names([str(a) for a in arguments]))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty phantoms as files, in the order of their patients, with a table."""
    root = tmp_path_factory.mktemp("set")
    dataset = open_dataset("phantoms:chest?n=60&size=32")
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient_id"])
        for record in dataset.records:
            Image.fromarray(dataset.pixels(record)).save(root / f"{record.image_id}.png")
            writer.writerow([f"{record.image_id}.png", record.label, record.patient_id])
    return root


def with_copy_in_test(folder, root):
    """Return splits of the folder, to which one training image has been added in test."""
    (root / "set").mkdir()
    for path in folder.iterdir():
        (root / "set" / path.name).write_bytes(path.read_bytes())
    rows = list(csv.reader((folder / "metadata.csv").open()))[1:]
    (root / "set" / "copy.png").write_bytes((folder / rows[0][0]).read_bytes())
    rows.append(["copy.png", rows[0][1], "someone else"])
    roles = ["train"] * 30 + ["val"] * 9 + ["calib"] * 9 + ["test"] * 13
    with (root / "set/metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "patient_id"], *rows])
    with (root / "splits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "role"])
        writer.writerows([row[0], role] for row, role in zip(rows, roles, strict=True))
    return root / "set", root / "splits.csv"


def test_a_clean_folder_passes_as_text_and_as_json(folder, tmp_path):
    result = invoke("audit", folder)
    assert result.exit_code == 0, result.output
    assert "verdict: pass (untestable: source_rule, metadata_rule)" in result.stdout
    assert "Not a medical device" in result.stdout
    told = json.loads(invoke("audit", folder, "--json", f"--out={tmp_path / 'out'}").stdout)
    assert told == json.loads((tmp_path / "out/audit.json").read_text())
    assert {"n", "patients", "checks"} <= told.keys()
    assert all(check.keys() == {"name", "verdict", "value", "detail"} for check in told["checks"])


def test_a_copy_in_the_test_set_ends_with_4_and_stops_training(folder, tmp_path):
    data, splits = with_copy_in_test(folder, tmp_path)
    result = invoke("audit", data, "--splits", splits, f"--out={tmp_path / 'out'}")
    assert result.exit_code == 4
    assert "FAIL       exact_duplicates 1" in result.stdout
    assert (tmp_path / "out/findings.png").is_file()

    train = ["train", data, f"--splits={splits}", f"--out={tmp_path / 'run'}", *TINY]
    train += ["--positive=OPACITY"]
    refused = invoke(*train)
    assert refused.exit_code == 2
    last = refused.stderr.strip().splitlines()[-1]
    assert "the audit found exact_duplicates" in last
    assert "--allow-leak" in last
    assert not (tmp_path / "run").exists(), "nothing was begun"

    assert invoke(*train, "--allow-leak").exit_code == 0
    audit = json.loads((tmp_path / "run/audit.json").read_text())
    assert audit["verdict"] == "fail"
    record = json.loads((tmp_path / "run/run.json").read_text())
    line = f"Audit before training: {audit['line']}"
    assert line in record["warnings"]
    assert line in (tmp_path / "run/model_card.md").read_text()


def test_the_verdict_stands_beside_every_later_result(folder, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    assert invoke("train", folder, f"--out={run}", "--positive=OPACITY", *TINY).exit_code == 0
    line = json.loads((run / "audit.json").read_text())["line"]
    resumed = [word.replace("--steps=2", "--steps=3") for word in TINY]
    (run / "audit.json").write_text(json.dumps({"line": "kept"}))
    args = ["train", folder, f"--out={run}", "--positive=OPACITY", *resumed, "--resume", "--force"]
    assert invoke(*args).exit_code == 0
    kept = json.loads((run / "audit.json").read_text())
    assert kept == {"line": "kept"}, "a resumed run keeps the audit it began with"

    few = ["--trials=3", "--bank=5", "--device=cpu", "--precision=fp32", "--split=test"]
    assert invoke("classify", run, folder, f"--out={out}", *few).exit_code == 0
    assert line == "pass (untestable: source_rule, metadata_rule)"
    evaluated = invoke("evaluate", out, "--resamples=5")
    assert "Audit before training: kept" in evaluated.stderr
    assert json.loads((out / "summary.json").read_text())["audit"] == "kept"
    assert invoke("report", out).exit_code == 0
    assert "Audit before training: kept" in (out / "report.html").read_text()


def test_tables_alone_in_one_command(tmp_path):
    for role, first in (("train", 0), ("valid", 60), ("test", 80)):
        rows = "".join(f"img{i},{i % 2},P{i % 70}\n" for i in range(first, first + 60))
        (tmp_path / f"{role}.csv").write_text("image_id,label,patient_id\n" + rows)
    files = [tmp_path / f"{role}.csv" for role in ("train", "valid", "test")]
    result = invoke("audit", "--splits", *files, "--json")
    assert result.exit_code == 4
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    # Patients 10 to 69 are in test, 0 to 59 in training.
    assert checks["patient_overlap"]["value"] == 50
    assert checks["pixel_rule"]["verdict"] == "untestable"


def test_nothing_to_audit_is_a_usage_error():
    result = invoke("audit")
    assert result.exit_code == 2
    assert "give DATA, or --splits" in result.stderr


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFDX_CACHE", str(tmp_path / "file"))
    assert invoke("audit", folder).exit_code == 0
