"""The command line from end to end: what it writes, what it prints, how it ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx.cli.app import app, repeat_names
from diffdx.data import open_dataset

DATA = "phantoms:chest?n=48&size=28"
CLASSES = ("NORMAL", "OPACITY")
TINY = [
    "--image-size=16",
    "--set=model.backbone.channels=[16,32]",
    "--set=train.warmup_steps=2",
    "--steps=4",
    "--batch-size=4",
    "--precision=fp32",
    "--device=cpu",
]
FEW = ["--trials=3", "--bank=5", "--device=cpu", "--precision=fp32"]


def invoke(*arguments):
    """Run a command in this process; an exception other than an exit is a failure here."""
    result = CliRunner().invoke(app, repeat_names([str(a) for a in arguments]))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(code, *arguments):
    """Return the one line that a failing command says; nothing may be on standard output."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert "Traceback" not in result.stderr
    return lines[-1]


def everything_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "run"
    result = ok("train", DATA, "--out", run, *TINY, "--json")
    record = json.loads(result.stdout)
    assert record == json.loads((run / "run.json").read_text())
    return run


@pytest.fixture(scope="module")
def predictions(run):
    """Classified and evaluated test images, with the JSON that both commands printed."""
    folder = run.parent / "predictions"
    classified = ok("classify", run, DATA, "--split=test", "--out", folder, *FEW, "--json")
    evaluated = ok("evaluate", folder, "--resamples=50", "--json")
    return folder, json.loads(classified.stdout), json.loads(evaluated.stdout)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The phantoms as PNG files with a table."""
    folder = tmp_path_factory.mktemp("images")
    dataset = open_dataset("phantoms:chest?n=36&size=28")
    rows = []
    for i, record in enumerate(dataset.records):
        Image.fromarray(dataset.pixels(record)).save(folder / f"{i}.png")
        rows.append((f"{i}.png", record.label, record.patient_id))
    table = pd.DataFrame(rows, columns=["path", "label", "patient_id"])
    table.to_csv(folder / "metadata.csv", index=False)
    return folder


def with_table(images, folder, **columns):
    """Return a table elsewhere that names the same images, with other columns."""
    table = pd.read_csv(images / "metadata.csv").assign(**columns)
    table["path"] = [os.path.relpath(images / name, folder) for name in table["path"]]
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def test_help_and_version_name_every_verb():
    text = ok("--help").output
    for verb in ("demo", "train", "sample", "classify", "evaluate", "report", "export", "doctor"):
        assert verb in text
    assert "not a medical device" in " ".join(text.split())
    assert ok("--version").output.startswith("diffdx ")


def test_import_is_silent_light_and_leaves_nothing_behind(tmp_path):
    code = (
        "import sys, diffdx, diffdx.cli.app\n"
        "heavy = {'torch', 'diffusers', 'pandas', 'scipy', 'sklearn', 'matplotlib'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | home | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert everything_below(tmp_path) == []


def test_several_values_after_one_name_are_repeated():
    assert repeat_names(["train", "D", "--splits", "A", "B", "C", "--seed", "1", "E"]) == [
        *("train", "D", "--splits", "A", "--splits", "B", "--splits", "C", "--seed", "1", "E")
    ]
    assert repeat_names(["--splits", "A", "--splits", "B"]) == ["--splits", "A", "--splits", "B"]


def test_a_run_folder_holds_what_the_contract_says(run):
    names = everything_below(run)
    for name in ("config.yaml", "run.json", "metrics.jsonl", "splits.csv", "model_card.md"):
        assert name in names
    for name in ("checkpoints/step-4", "checkpoints/last", "checkpoints/best"):
        assert f"{name}/model.safetensors" in names or (run / name).is_symlink()
    assert "samples/step-4.png" in names
    record = json.loads((run / "run.json").read_text())
    known = "versions device world_size seed data_fingerprint arguments model_sha256 warnings"
    assert record.keys() >= set(known.split())
    assert "not a medical device" in record["research_use_only"].lower()
    assert "Not a medical device" in (run / "model_card.md").read_text()
    splits = pd.read_csv(run / "splits.csv")
    assert set(splits.role) == {"train", "val", "calib", "test"}
    assert (splits.groupby("patient_id").role.nunique() == 1).all()


def test_predictions_hold_the_columns_and_the_summary_the_keys(run, predictions):
    folder, classified, summary = predictions
    table = pd.read_parquet(folder / "predictions.parquet")
    per_class = [
        f"{prefix}_{name}" for prefix in ("votes", "vote_share", "mean_error") for name in CLASSES
    ]
    expected = ["image_id", "path", "patient_id", "label", "prediction", *per_class]
    expected += ["entropy_bits", "trials_used", "nfe", "stopped_by", "status", "error"]
    assert list(table.columns) == expected
    assert list(pd.read_csv(folder / "predictions.csv").columns) == expected
    splits = pd.read_csv(run / "splits.csv")
    assert set(table.image_id) == set(splits.image_id[splits.role == "test"])
    assert (table.nfe == 3 * len(CLASSES)).all()
    errors = pd.read_parquet(folder / "errors.parquet")
    errors_of = ["error_NORMAL", "error_OPACITY"]
    assert list(errors.columns) == ["image_id", "trial", "logsnr", *errors_of, "stopped_by"]
    assert len(errors) == 3 * len(table)
    keys = "n n_failed classes positive rule space trials bank stop seed accuracy auroc f1"
    keys += " balanced_accuracy by_rule nfe seconds images_per_second device precision model_sha256"
    assert summary.keys() >= set(keys.split())
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["accuracy"]["value"] == pytest.approx((table.label == table.prediction).mean())
    assert summary["by_rule"].keys() >= {"vote", "mean_v", "mean_eps", "mean_x"}
    assert (summary["n"], summary["positive"]) == (len(table), "OPACITY")
    record = json.loads((run / "run.json").read_text())
    assert classified["model_sha256"] == summary["model_sha256"] == record["model_sha256"]


@pytest.mark.parametrize("trials", [1, 2, 5])
@pytest.mark.parametrize("stop", ["exact", "0.3", "share:0.9"])
def test_a_run_may_stop_early_however_few_trials_it_has(run, tmp_path, trials, stop):
    options = ["--split=test", *FEW, f"--trials={trials}", "--json"]
    stopped = json.loads(
        ok("classify", run, DATA, "--out", tmp_path / "s", *options, "--stop", stop).stdout
    )
    ok("classify", run, DATA, "--out", tmp_path / "f", *options)
    replayed = tmp_path / "r"
    summary = json.loads(
        ok("replay", tmp_path / "f", "--out", replayed, "--stop", stop, "--json").stdout
    )
    tables = [pd.read_parquet(tmp_path / name / "predictions.parquet") for name in "sfr"]
    assert tables[0].trials_used.tolist() == tables[2].trials_used.tolist()
    assert (tables[0].trials_used <= trials).all()
    assert stopped["stop"] == summary["stop"] == stop
    assert stopped["calls"] >= tables[0].nfe.sum()
    if stop == "exact":
        assert tables[0].prediction.tolist() == tables[1].prediction.tolist()


def test_a_budget_shorter_than_one_call_runs_one_trial_an_image(run, images, tmp_path):
    ok("classify", run, images, "--out", tmp_path, "--budget=1e-9", *FEW)
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert (table.trials_used == 1).all()
    assert (table.stopped_by == "budget").all()


def test_the_text_output_says_research_use_only(run, predictions, tmp_path):
    folder, _, _ = predictions
    shown = ok("classify", run, DATA, "--split=test", "--out", folder, *FEW).stdout
    assert "Research use only. Not a medical device." in shown
    assert "Research use only" in ok("evaluate", folder, "--resamples=20").stdout


def test_report_is_one_page_that_needs_nothing_else(predictions):
    folder, _, _ = predictions
    pages = json.loads(ok("report", folder, "--json").stdout)["pages"]
    assert pages == [str(folder / "report.html")]
    text = Path(pages[0]).read_text()
    assert "research use only" in text.lower()
    assert 'src="http' not in text
    assert 'href="http' not in text


def test_samples_are_one_file_each_and_follow_the_seed(run, tmp_path):
    def sample(name, *more):
        options = ["--class=OPACITY", "--n=2", "--steps=2", "--device=cpu", "--json", *more]
        ok("sample", run, "--out", tmp_path / name, *options)
        return [np.asarray(Image.open(p)) for p in sorted((tmp_path / name).glob("OPACITY-*.png"))]

    a, b, c = sample("a"), sample("b"), sample("c", "--seed=1")
    assert [image.shape for image in a] == [(16, 16)] * 2
    grid = np.asarray(Image.open(tmp_path / "a" / "grid.png"))
    np.testing.assert_array_equal(grid, np.concatenate(a, axis=1))
    np.testing.assert_array_equal(a, b)
    assert (a[0] != a[1]).any()
    assert (np.array(a) != np.array(c)).any()
    line = refused(2, "sample", run, "--class=COVID", "--out", tmp_path / "d")
    assert "the model knows NORMAL, OPACITY" in line


def test_an_export_is_half_the_size_and_classifies_nearly_alike(run, predictions, tmp_path):
    folder, _, _ = predictions
    out = tmp_path / "export"
    digest = json.loads(ok("export", run, out, "--with-splits", "--json").stdout)["sha256"]
    weights = "checkpoints/best/model.safetensors"
    assert (out / weights).stat().st_size < 0.6 * (run / weights).stat().st_size
    assert not list(out.rglob("training.safetensors"))
    ok("classify", out, DATA, "--split=test", "--out", tmp_path / "p", *FEW)
    exact, near = (
        pd.read_parquet(f / "errors.parquet").filter(like="error_")
        for f in (folder, tmp_path / "p")
    )
    # A weight moves by up to 1 part in 256, an error by a few times that.
    np.testing.assert_allclose(near, exact, rtol=0.05)
    assert (near.to_numpy() != exact.to_numpy()).any()
    info = json.loads((tmp_path / "p" / "classify.json").read_text())
    assert info["model_sha256"] == digest
    assert "patient" not in (out / "splits.csv").read_text().splitlines()[1]
    ok("export", run, tmp_path / "same", "--dtype=float32")
    assert not (tmp_path / "same" / "splits.csv").exists(), "file names leave only on request"
    assert (tmp_path / "same" / weights).read_bytes() == (run / weights).read_bytes()


def test_output_is_never_replaced_by_accident(run, predictions, tmp_path):
    folder, _, _ = predictions
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    commands = [
        ("train", DATA, "--out", taken, *TINY),
        ("sample", run, "--class=NORMAL", "--n=1", "--steps=1", "--out", taken),
        ("export", run, taken),
        ("demo", "--out", taken),
    ]
    for command in commands:
        assert "add --overwrite to replace it" in refused(2, *command)
    assert (taken / "mine.txt").read_text() == "keep"
    ok(*commands[2], "--overwrite")
    assert not (taken / "mine.txt").exists()
    before = (folder / "errors.parquet").read_bytes()
    line = refused(2, "classify", run, DATA, "--split=test", "--out", folder, *FEW, "--seed=9")
    assert "--overwrite" in line
    assert (folder / "errors.parquet").read_bytes() == before


def test_overwrite_never_deletes_what_the_command_reads(run, images, tmp_path):
    copy = shutil.copytree(images, tmp_path / "data")
    line = refused(2, "train", copy, "--out", copy, *TINY, "--positive=OPACITY", "--overwrite")
    assert "holds the input" in line
    line = refused(2, "export", run, run, "--overwrite")
    assert "holds the input" in line
    line = refused(2, "sample", run, "--class=NORMAL", "--out", run.parent, "--overwrite")
    assert "holds the input" in line
    assert everything_below(copy) == everything_below(images)
    assert (run / "checkpoints" / "best" / "model.json").is_file()


def test_a_dry_run_tells_and_writes_nothing(tmp_path):
    shown = ok("train", DATA, "--out", tmp_path / "run", *TINY, "--dry-run").stdout
    assert "image_size: 16" in shown
    assert "train/NORMAL" in shown
    told = json.loads(ok("train", DATA, "--out", tmp_path, *TINY, "--dry-run", "--json").stdout)
    assert told["config"]["model"]["backbone"]["channels"] == [16, 32]
    assert sum(told["counts"].values()) == 48
    assert everything_below(tmp_path) == []


def test_given_splits_are_used_from_one_file_or_several(run, tmp_path):
    splits = pd.read_csv(run / "splits.csv")
    held_out = splits.role == "test"
    splits[~held_out].to_csv(tmp_path / "a.csv", index=False)
    splits[held_out].to_csv(tmp_path / "b.csv", index=False)
    options = ["--out", tmp_path / "run", *TINY, "--dry-run", "--json"]
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    told = json.loads(ok("train", DATA, "--splits", *files, *options).stdout)
    counts = splits.groupby(["role", "label"]).size()
    assert told["counts"] == {f"{role}/{label}": n for (role, label), n in counts.items()}
    line = refused(2, "train", DATA, "--splits", tmp_path / "absent.csv", *options)
    assert "absent.csv" in line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--set", "train.colour=red"], "train.colour"),
        (["--preset", "huge"], "unknown preset 'huge'"),
        (["--minutes", "1"], "exactly one of --steps"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--positive", "COVID"], "COVID"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_wrong_configuration_ends_with_2_before_any_work(tmp_path, options, named):
    assert named in refused(2, "train", DATA, "--out", tmp_path / "run", *TINY, *options)
    assert everything_below(tmp_path) == []


def test_wrong_usage_ends_with_2(run, tmp_path):
    assert invoke("train", DATA).exit_code == 2
    assert invoke("fly").exit_code == 2
    assert invoke("classify", run, DATA, "--trials=0").exit_code == 2
    for options, named in [
        (["--batch-size=none"], "--batch-size none"),
        (["--shard=3/2"], "--shard 3/2"),
        (["--shard=2"], "--shard 2"),
        (["--trials=9", "--bank=5"], "9"),
        (["--stop=soon"], "--stop soon"),
        (["--stop=1"], "--stop 1"),
        (["--stop=0"], "--stop 0"),
        (["--stop=nan"], "--stop nan"),
        (["--stop=share:2"], "share:2"),
        (["--stop=exact", "--rule=mean"], "--rule mean"),
        (["--stop=0.01", "--rule=mean"], "diffdx calibrate"),
        (["--stop=0.01", "--eliminate"], "--eliminate with --stop"),
        (["--budget=0"], "--budget 0"),
        (["--budget=1", "--deterministic"], "never deterministic"),
    ]:
        line = refused(2, "classify", run, DATA, "--out", tmp_path / "p", *options)
        assert named in line
    assert everything_below(tmp_path) == []


def test_wrong_data_ends_with_2(images, tmp_path):
    options = ["--out", tmp_path / "run", *TINY, "--positive=OPACITY"]

    def says(data):
        return refused(2, "train", data, *options)

    assert "no such file or folder" in says(tmp_path / "absent")
    for name in CLASSES:
        (tmp_path / "empty" / name).mkdir(parents=True)
    assert "the class folder is empty" in says(tmp_path / "empty")
    table = with_table(images, tmp_path)
    pd.read_csv(table).rename(columns={"path": "file"}).to_csv(table, index=False)
    assert "no column 'path'; found 'file', 'label', 'patient_id'" in says(table)
    pd.read_csv(with_table(images, tmp_path)).drop(columns="label").to_csv(table, index=False)
    assert "no image has a label" in refused(2, "train", table, *options[:-1])
    assert "only one class" in says(with_table(images, tmp_path, label="OPACITY"))
    line = refused(2, "train", images, "--out", tmp_path / "run", *TINY)
    assert "Say so with --positive CLASS" in line
    assert not (tmp_path / "run").exists()


def test_a_patient_in_two_splits_is_refused_or_written_down(images, tmp_path):
    patients = pd.read_csv(images / "metadata.csv").patient_id
    roles = np.where(patients.str[-1].isin(["1", "2"]), "test", "train").astype(object)
    shared = patients == patients[0]
    roles[np.flatnonzero(shared)[0]] = "test"
    assert shared.sum() > 1
    table = with_table(images, tmp_path, split=roles)
    options = ["--out", tmp_path / "run", *TINY, "--positive=OPACITY"]
    line = refused(2, "train", table, *options)
    assert "1 patients are in more than one role (1 in train and test)" in line
    assert patients[0] not in line
    result = ok("train", table, *options, "--allow-leak")
    assert "PATIENT LEAK allowed" in result.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any("PATIENT LEAK allowed" in text for text in record["warnings"])
    assert "PATIENT LEAK allowed" in (tmp_path / "run" / "model_card.md").read_text()


@pytest.fixture
def mixed(images, tmp_path):
    """One good image among a text, a cut JPEG and a single pixel, and one of 16 bits."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = Image.open(images / "0.png")
    good.save(folder / "good.png")
    deep = np.asarray(good).astype(np.uint16) * np.uint16(257)
    Image.fromarray(deep).save(folder / "deep.png")
    good.resize((64, 64)).save(folder / "cut.jpg", quality=95)
    content = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("not an image")
    Image.new("L", (1, 1)).save(folder / "pixel.png")
    return folder


def test_bad_files_are_rows_and_the_others_are_classified(run, mixed, tmp_path):
    result = invoke("classify", run, mixed, "--out", tmp_path / "p", *FEW, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["n_failed"] == 3
    assert "3 of 5 images failed" in result.stderr
    table = pd.read_csv(tmp_path / "p" / "predictions.csv").set_index("image_id")
    for name, reason in {
        "cut.jpg": "damaged image",
        "text.png": "not an image of a known format",
        "pixel.png": "1 x 1 pixels are too small",
    }.items():
        assert table.status[name] == "error"
        assert reason in table.error[name]
        assert "\n" not in table.error[name]
        assert pd.isna(table.prediction[name])
    assert (table.status[["good.png", "deep.png"]] == "ok").all()
    again = invoke("classify", run, mixed, "--out", tmp_path / "p", *FEW)
    assert again.exit_code == 3
    assert "error: " in again.stdout


def test_strict_stops_at_the_first_bad_file(run, mixed, tmp_path):
    line = refused(1, "classify", run, mixed, "--out", tmp_path / "p", *FEW, "--strict")
    assert "cut.jpg" in line


def test_a_damaged_checkpoint_is_one_clear_line(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    weights = copy / "checkpoints" / "best" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    commands = [
        ("classify", copy, DATA, "--out", tmp_path / "p", *FEW),
        ("sample", copy, "--class=NORMAL", "--out", tmp_path / "s"),
        ("export", copy, tmp_path / "e"),
    ]
    for command in commands:
        line = refused(1, *command)
        assert "model.safetensors is damaged" in line
        assert "copy the checkpoint again" in line
    line = refused(1, "classify", tmp_path / "absent", DATA, *FEW)
    assert "holds no model" in line
    assert everything_below(tmp_path) == sorted(
        ["run", *(f"run/{n}" for n in everything_below(copy))]
    )


def test_labels_that_the_model_does_not_know_are_listed(run, images, tmp_path):
    table = with_table(images, tmp_path, label="COVID")
    line = refused(2, "classify", run, table, "--out", tmp_path / "p", *FEW)
    assert "labels 'COVID' are not classes of the model (NORMAL, OPACITY)" in line
    assert not (tmp_path / "p").exists()


def test_classes_are_matched_by_name_not_by_position(run, images, tmp_path):
    """In a table of OPACITY alone it is class 0, in the model class 1: nothing may move."""
    both, one = tmp_path / "both", tmp_path / "one"
    ok("classify", run, images, "--out", both, *FEW, "--deterministic")
    labels = pd.read_csv(images / "metadata.csv").label
    table = pd.read_csv(with_table(images, tmp_path))
    table[labels == "OPACITY"].to_csv(tmp_path / "table.csv", index=False)
    ok("classify", run, tmp_path / "table.csv", "--out", one, *FEW, "--deterministic")
    whole = pd.read_parquet(both / "predictions.parquet")
    part = pd.read_parquet(one / "predictions.parquet")
    expected = whole[whole.label == "OPACITY"].reset_index(drop=True)
    same = [name for name in whole if name not in ("image_id", "path")]
    pd.testing.assert_frame_equal(part[same], expected[same])
    assert part.prediction.isin(CLASSES).all()


def test_shards_together_are_the_whole_and_limit_takes_a_seeded_few(run, images, tmp_path):
    def classified(name, *options):
        ok("classify", run, images, "--out", tmp_path / name, *FEW, "--deterministic", *options)
        return pd.read_parquet(tmp_path / name / "predictions.parquet")

    whole = classified("whole")
    for i in (1, 2):
        first = ok("classify", run, images, "--out", tmp_path / "shards", *FEW, "--deterministic",
                   f"--shard={i}/3")  # fmt: skip
        assert "left to other shards" in first.stdout
    pd.testing.assert_frame_equal(classified("shards", "--shard=3/3"), whole)
    few = classified("few", "--limit=5")
    assert len(few) == 5
    pd.testing.assert_frame_equal(
        few, whole[whole.image_id.isin(few.image_id)].reset_index(drop=True)
    )
    other = classified("other", "--limit=5", "--seed=1")
    assert set(other.image_id) != set(few.image_id)
    assert len(classified("all", "--limit=500")) == len(whole)


def test_several_inputs_are_one_dataset(run, images, tmp_path):
    files = [images / "0.png", images / "1.png", images / "0.png"]
    result = ok("classify", run, *files, "--out", tmp_path / "p", *FEW)
    assert len(pd.read_parquet(tmp_path / "p" / "predictions.parquet")) == 2
    assert "named more than once" in result.stderr


def test_a_role_that_is_not_there_is_refused(run, images, tmp_path):
    line = refused(2, "classify", run, images, "--split=test", "--out", tmp_path / "p", *FEW)
    assert "not in the dataset" in line
    checkpoint = run / "checkpoints" / "best"
    line = refused(2, "classify", checkpoint, images, "--split=test", *FEW)
    assert "has no image in the role 'test'; leave out --split" in line


def test_evaluate_and_report_refuse_a_folder_without_predictions(tmp_path):
    for verb in ("evaluate", "report"):
        assert "`diffdx classify --out`" in refused(2, verb, tmp_path)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, run):
    (tmp_path / "file").write_text("")
    line = refused(1, "train", DATA, "--out", tmp_path / "file" / "run", *TINY)
    assert "file" in line
    assert line.startswith("error: ")


def test_doctor_finds_a_sound_installation():
    assert "this installation is sound" in ok("doctor").stdout
    told = json.loads(ok("doctor", "--json").stdout)
    assert told["ok"] is True
    assert {"python", "torch", "devices", "codec jpg"} <= told["checks"].keys()


def test_doctor_names_what_is_broken(monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: name != "libtiff")
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "FAIL codec libtiff: RuntimeError: Pillow was built without libtiff" in result.stdout
    assert "broken: codec libtiff" in result.stdout


def test_the_demo_goes_the_whole_path(tmp_path, monkeypatch):
    from diffdx.cli import demo

    monkeypatch.setattr(demo, "PHANTOMS", "phantoms:chest?n=36&size=28")
    options = ["--steps=2", "--trials=3", "--device=cpu", "--precision=fp32", "--json"]
    told = json.loads(ok("demo", "--out", tmp_path / "demo", *options).stdout)
    page = Path(told["page"]).read_text()
    assert "not a medical device" in told["notice"].lower()
    assert told["classes"] == list(CLASSES)
    assert 0 <= told["accuracy"]["value"] <= 1
    assert "counterfactual" in page.lower()
    assert (tmp_path / "demo" / "run" / "checkpoints" / "best" / "model.json").is_file()
    assert (tmp_path / "demo" / "predictions" / "summary.json").is_file()
