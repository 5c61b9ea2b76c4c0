"""`diffdx reproduce` on small drawings in the layouts of the real sets: cells, table, figures."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx.cli import reproduce as verb
from diffdx.cli.app import app
from diffdx.data import open_dataset

TINY = ["--steps=1", "--trials=3", "--limit=6", "--device=cpu"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Phantoms under the names of the real sets."""
    root = tmp_path_factory.mktemp("sets")
    chest = open_dataset("phantoms:chest?n=48&size=32")
    for i, record in enumerate(chest.records):
        name = {"OPACITY": "PNEUMONIA"}.get(record.label, "NORMAL")
        folder = root / "chest-xray" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.squeeze(chest.pixels(record))).save(folder / f"{i}.png")
    lesions = open_dataset("phantoms:lesion?n=48&size=32")
    (root / "isic-melanoma" / "train").mkdir(parents=True)
    rows = ["image_name,patient_id,target"]
    for i, record in enumerate(lesions.records):
        rows.append(f"ISIC_{i:07d},IP_{i},{int(record.label == 'MELANOMA')}")
        file = root / "isic-melanoma" / "train" / f"ISIC_{i:07d}.png"
        Image.fromarray(lesions.pixels(record)).save(file)
    (root / "isic-melanoma" / "train.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def in_process(monkeypatch):
    """Steps run in this process, without the seconds that a new one takes; returns the verbs."""
    given = []

    def executing(stop):
        def execute(step, log):
            given.append(step.arguments[0])
            if step.program == "prepare":
                from diffdx.paper import prepare
                from diffdx.paper.small_pipeline import Size

                monkeypatch.setattr(prepare, "SMALL", Size())
                prepare.main(step.command())
                return 0
            result = CliRunner().invoke(app, [*step.command(), "-q"])
            log.write_text(result.output)
            return result.exit_code

        return execute

    monkeypatch.setattr(verb, "_executing", executing)
    return given


def test_a_dry_run_prints_every_command_and_what_is_missing(tmp_path):
    out = tmp_path / "out"
    asked = ["--root", tmp_path, "--out", out, "--dry-run", "--json"]
    plan = json.loads(invoke("table1", *asked, "--scale=full").stdout)
    assert len(plan["cells"]) == 22
    assert plan["cells"]["unet/isic"]["absent"] == f"no data at {tmp_path / 'isic'}"
    assert plan["cells"]["unet/isic"]["commands"][0].startswith("diffdx train ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fig1"], "cannot reproduce fig1; known: table1, fig2"),
        (["table1"], "needs --root"),
        (["table1", "--root=.", "--only=vgg"], "--only vgg: no such cell"),
    ],
)
def test_what_cannot_be_done_is_said_first(arguments, named):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert named in " ".join(result.stderr.split())


def test_figures_need_their_cells(tmp_path):
    result = invoke("fig2", "--out", tmp_path)
    assert result.exit_code == 1
    assert "reproduce table1 --root DATASETS" in " ".join(result.stderr.split())
    several = invoke("fig2", "fig9", "--out", tmp_path)
    assert several.exit_code == 3
    assert "2 failed: fig2, fig9" in several.stderr


def test_absent_data_leave_a_table_of_published_values(tmp_path, in_process):
    result = invoke("table1", "--root", tmp_path, "--out", tmp_path / "out", "--scale=full")
    assert result.exit_code == 0, result.output
    assert in_process == []
    found = json.loads((tmp_path / "out" / "table1.json").read_text())
    assert {row["status"] for row in found["rows"]} == {"absent"}
    assert "no data at" in (tmp_path / "out" / "table1.html").read_text()


def test_a_cell_is_made_once_and_stands_in_the_table(tmp_path, root, in_process):
    asked = ["table1", "--root", root, "--out", tmp_path, *TINY, "--only=resnet18/chexpert"]
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert in_process == ["baseline", "classify"]
    assert "resnet18/chexpert: done; 1 of 1 done" in result.stderr
    table = json.loads((tmp_path / "table1.json").read_text())
    row = next(r for r in table["rows"] if r["value"] is not None)
    summary = tmp_path / "cells" / "resnet18" / "chexpert" / "predictions" / "summary.json"
    accuracy = json.loads(summary.read_text())["accuracy"]
    assert {k: row[k] for k in accuracy} == accuracy
    assert (row["method"], row["dataset"], row["status"], row["n"]) == (
        "resnet18", "chexpert", "smoke", 6)  # fmt: skip
    before = (tmp_path / "table1.html").read_text()
    assert invoke(*asked).exit_code == 0
    assert in_process == ["baseline", "classify"], "nothing is done twice"
    assert (tmp_path / "table1.html").read_text() == before
    other = invoke(*asked, "--recipe=release")
    assert other.exit_code == 2
    assert "another recipe than asked for" in " ".join(other.stderr.split())


@pytest.mark.slow
def test_diffusion_rows_and_every_figure(tmp_path, root, in_process, monkeypatch):
    from diffdx.paper import figures

    pytest.importorskip("transformers", reason="the extra 'sd' is not installed")
    # One step teaches nothing: the images called sick may be none, so all of them are explained.
    monkeypatch.setattr(figures, "_surest", lambda predictions, sick, count: _files(root, count))
    monkeypatch.setattr(figures, "SAMPLES", 2)
    asked = ["--root", root, "--out", tmp_path, *TINY]
    only = [f"--only={method}" for method in ("unet", "dit", "sd-tuned", "sd-zero")]
    result = invoke("table1", *(f"fig{i}" for i in range(2, 12)), *asked, *only)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "table1.json").read_text())
    assert sum(row["status"] == "smoke" for row in found["rows"]) == 8 * 3
    for i in range(2, 12):
        for suffix in ("pdf", "png"):
            assert (tmp_path / "figures" / f"fig{i}.{suffix}").stat().st_size > 1000
    count = len(in_process)
    assert invoke("all", *asked, *only).exit_code == 0
    assert len(in_process) == count, "nothing is done twice"


def _files(root, count):
    return [str(path) for path in sorted((root / "chest-xray" / "PNEUMONIA").glob("*"))[:count]]


@pytest.mark.slow
def test_a_signal_is_handed_on_and_the_same_command_goes_on(tmp_path, root):
    asked = ["table1", "--root", root, "--out", tmp_path, "--steps=100000", "--limit=6"]
    asked += ["--trials=3", "--device=cpu", "--only", "resnet18/chexpert"]
    command = [sys.executable, "-m", "diffdx", "reproduce", *map(str, asked)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "cells" / "resnet18" / "chexpert" / "run"
    deadline = time.monotonic() + 240
    while not (run / "metrics.jsonl").is_file():
        assert time.monotonic() < deadline
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert (run / "checkpoints" / "last").exists()
