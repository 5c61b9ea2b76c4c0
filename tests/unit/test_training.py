"""Training that is cut, poisoned, starved or resumed: nothing is lost and nothing is silent."""

import hashlib
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffdx._interrupt import Interrupted, StopRequest
from diffdx.backbones.model import DiffusionModel
from diffdx.cli.app import app
from diffdx.config import DataConfig, ModelConfig, RunConfig, TrainConfig, UNetConfig
from diffdx.data import open_dataset
from diffdx.data.dataset import Record
from diffdx.errors import CheckpointError, DataError, TrainingError
from diffdx.training import fit
from diffdx.training.checkpoint import newest_whole
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable, detect_channels, load_images
from diffdx.training.run_folder import locked
from diffdx.transforms.pixels import PixelSpec

ROOT = Path(__file__).parents[2]
STEPS = 20
DATA = "phantoms:chest?n=42&size=28"
OPTIONS = [
    "--image-size=16",
    "--set=model.backbone.channels=[8]",
    "--set=model.backbone.norm_groups=4",
    "--set=model.backbone.attention=false",
    "--set=train.checkpoint_every=7",
    "--set=train.warmup_steps=2",
    "--batch-size=4",
    "--device=cpu",
    "--precision=fp32",
    "--num-workers=1",
    "--json",
]


def command(out, *more, steps=STEPS):
    return ["train", DATA, f"--out={out}", f"--steps={steps}", *OPTIONS, *more]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def weights_hash(run):
    content = (run / "checkpoints" / "last" / "model.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()


def record_of(run):
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = invoke(*command(run))
    assert result.exit_code == 0, result.output
    return run


SLOW_DIFFDX = """
import time
from diffdx.cli.app import main
from diffdx.training.fit import Trainer

step = Trainer.train_step
Trainer.train_step = lambda *a: (time.sleep(0.05), step(*a))[1]
main()
"""
# Steps are slowed down so that a signal comes in the middle of the run on any machine.


def signalled(run, number):
    """Start a training process, send it a signal after its first checkpoint; return its end."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_DIFFDX, *command(run)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (run / "checkpoints" / "last").exists():
        time.sleep(0.0005)
    process.send_signal(number)
    errors = process.communicate(timeout=120)[1]
    return process.returncode, errors


def resume_and_compare(run, whole):
    result = invoke(*command(run, "--resume"))
    assert result.exit_code == 0, result.output
    assert weights_hash(run) == weights_hash(whole)
    record = record_of(run)
    assert record["status"] == "done"
    assert record["steps"] == STEPS
    assert record["best_step"] == STEPS
    assert len(record["resumed_at_steps"]) == 1
    assert 7 <= record["resumed_at_steps"][0] <= STEPS


def test_a_killed_run_resumes_to_the_very_weights_of_an_uninterrupted_one(tmp_path, whole):
    run = tmp_path / "run"
    code, _ = signalled(run, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert record_of(run)["status"] == "running", "the kill came too late to test anything"
    resume_and_compare(run, whole)


def test_a_terminated_run_saves_says_so_and_resumes(tmp_path, whole):
    run = tmp_path / "run"
    code, errors = signalled(run, signal.SIGTERM)
    assert code == 143, errors
    assert "stopped by SIGTERM; everything is saved" in errors
    assert "Traceback" not in errors
    record = record_of(run)
    assert record["status"] == "interrupted"
    assert newest_whole(run).name == f"step-{record['steps']}", "the step in hand was saved"
    resume_and_compare(run, whole)


def test_a_run_resumed_after_its_end_changes_nothing(whole):
    before = weights_hash(whole)
    result = invoke(*command(whole, "--resume"))
    assert result.exit_code == 0, result.output
    assert weights_hash(whole) == before
    assert json.loads(result.stdout)["best_step"] == STEPS


def test_the_metrics_of_steps_done_again_are_trimmed(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    metrics = run / "metrics.jsonl"
    good = metrics.read_text()
    metrics.write_text(good + '{"step": 25, "loss": 1}\n{"step": 2')
    assert invoke(*command(run, "--resume")).exit_code == 0
    assert metrics.read_text() == good


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--set=train.grad_clip=2"], r"train\.grad_clip: 1\.0 -> 2\.0"),
        (["--seed=5"], "seed: 0 -> 5"),
        (["--steps=24"], r"train\.steps: 20 -> 24"),
    ],
)
def test_a_resume_with_other_settings_is_refused_with_the_difference(whole, changed, named):
    before = (whole / "config.yaml").read_text()
    result = invoke(*command(whole, "--resume", *changed))
    assert result.exit_code == 2
    assert re.search(named, result.stderr), result.stderr
    assert "--force" in result.stderr
    assert (whole / "config.yaml").read_text() == before


def test_a_resume_with_other_data_or_classes_is_refused(whole):
    other = command(whole, "--resume")
    other[1] = "phantoms:chest?n=45&size=28"
    result = invoke(*other)
    assert result.exit_code == 2
    assert "data_fingerprint" in result.stderr
    other[1] = "phantoms:lesion?n=42&size=28"
    result = invoke(*other)
    assert result.exit_code == 2
    assert "classes: ['NORMAL', 'OPACITY'] -> ['MELANOMA', 'NEVUS']" in result.stderr


def test_a_resume_with_other_splits_is_refused(tmp_path, whole):
    splits = pd.read_csv(whole / "splits.csv")
    splits["role"] = splits.role.replace({"calib": "test", "test": "calib"})
    splits.to_csv(tmp_path / "splits.csv", index=False)
    result = invoke(*command(whole, "--resume", f"--splits={tmp_path / 'splits.csv'}"))
    assert result.exit_code == 2
    assert "splits: " in result.stderr
    result = invoke(*command(whole, "--resume", f"--splits={whole / 'splits.csv'}"))
    assert result.exit_code == 0, "the same roles from a file are the same run"


def test_force_goes_on_with_other_settings(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    result = invoke(*command(run, "--resume", "--force", steps=STEPS + 2))
    assert result.exit_code == 0, result.output
    assert record_of(run)["steps"] == STEPS + 2
    assert "steps: 22" in (run / "config.yaml").read_text()


def test_force_with_a_network_that_does_not_fit_leaves_the_run_as_it_was(tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    files = ("config.yaml", "run.json", "splits.csv", "metrics.jsonl")
    before = [(run / name).read_bytes() for name in files]
    result = invoke(*command(run, "--resume", "--force", "--set=model.backbone.channels=[16]"))
    assert result.exit_code == 1
    assert "does not fit this configuration" in result.stderr
    assert [(run / name).read_bytes() for name in files] == before


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_a_folder_without_a_run_cannot_be_resumed(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
        (tmp_path / "config.yaml").write_text(content)
    result = invoke(*command(tmp_path, "--resume"))
    assert result.exit_code == 1
    assert "holds no run to resume" in result.stderr


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, whole):
    with locked(whole):
        result = invoke(*command(whole, "--resume"))
        assert result.exit_code == 1
        assert "is being written by another process" in result.stderr
        result = invoke(*command(whole, "--overwrite"))
        assert result.exit_code == 1
        assert "is being written by another process" in result.stderr
        assert (whole / "checkpoints" / "last" / "model.safetensors").is_file()
    with locked(whole), pytest.raises(CheckpointError, match="another process"), locked(whole):
        pass


CONFIG = RunConfig(
    model=ModelConfig(
        data=DataConfig(image_size=16),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    ),
    train=TrainConfig(steps=6, batch_size=4, checkpoint_every=2, warmup_steps=0, max_bad_steps=3),
)


def new_trainer(run, **train):
    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update=train)})
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (12, 1, 16, 16)).astype(np.uint8)
    images = ImageTable(
        stored, np.array([0, 1] * 6), [Record(f"image-{i}", f"{i}.png") for i in range(12)]
    )
    torch.manual_seed(0)
    model = DiffusionModel(config.model, ("A", "B"), "B")
    return Trainer(model, images, config, run, device=torch.device("cpu"), precision="fp32")


def run_to_end(trainer, validate=lambda model: {"auroc": 0.5}):
    trainer.fit(stop=StopRequest(), validate=validate)


def poisoned(monkeypatch, bad_calls):
    """Let the given calls of the loss (from 0) return NaN."""
    inner, calls = fit.v_errors, iter(range(10**6))

    def v_errors(*args):
        errors = inner(*args)
        return errors * torch.nan if next(calls) in bad_calls else errors

    monkeypatch.setattr(fit, "v_errors", v_errors)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, caplog):
    poisoned(monkeypatch, {1, 2, 4})
    trainer = new_trainer(tmp_path)
    run_to_end(trainer)
    assert trainer.progress.bad_steps == 3
    assert trainer.progress.step == 6
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert int(trainer.ema.step) == 3, "a skipped step does not enter the average"
    assert [r.message for r in caplog.records] == [
        f"step {n} skipped: loss or gradient is not finite" for n in (2, 3, 5)
    ]


def test_steps_that_stay_bad_stop_the_run_and_name_the_images(tmp_path, monkeypatch):
    poisoned(monkeypatch, range(2, 100))
    trainer = new_trainer(tmp_path)
    with pytest.raises(TrainingError, match=r"3 steps in a row, up to step 5.*bad_batch\.json"):
        run_to_end(trainer)
    dumped = json.loads((tmp_path / "bad_batch.json").read_text())
    assert dumped["step"] == 5
    batch = trainer.order.batch(4)
    assert dumped["image_ids"] == [f"image-{i}" for i in batch]
    kept = newest_whole(tmp_path)
    assert kept.name == "step-4"
    assert DiffusionModel.load(kept)


def short_of_memory(monkeypatch, fits, error):
    """Let the loss of more than `fits` images run out of memory."""
    inner = fit.v_errors

    def v_errors(predict_v, x, *args):
        if len(x) > fits:
            raise error
        return inner(predict_v, x, *args)

    monkeypatch.setattr(fit, "v_errors", v_errors)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError()],
)
def test_out_of_memory_halves_the_batch_without_changing_the_gradient(
    tmp_path, monkeypatch, caplog, error
):
    full, starved = (new_trainer(tmp_path / name, batch_size=5) for name in ("full", "starved"))
    full_loss = full.train_step(0.0)
    short_of_memory(monkeypatch, 2, error)
    assert starved.train_step(0.0) == pytest.approx(full_loss, rel=1e-5)
    assert starved.micro_batch == 2
    assert [r.message for r in caplog.records] == [
        f"out of memory: the batch is now done in parts of {n} images" for n in (3, 2)
    ]
    pairs = zip(full.model.parameters(), starved.model.parameters(), strict=True)
    for expected, found in pairs:
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_out_of_memory_with_one_image_is_an_error_that_advises(tmp_path, monkeypatch):
    short_of_memory(monkeypatch, 0, MemoryError())
    with pytest.raises(TrainingError, match="single image; choose a smaller --image-size"):
        run_to_end(new_trainer(tmp_path))


def test_another_fault_is_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    short_of_memory(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_to_end(new_trainer(tmp_path))


@pytest.mark.parametrize("probability", [0.1, 0.0])
def test_the_network_sees_the_null_label_as_often_as_configured(tmp_path, monkeypatch, probability):
    trainer = new_trainer(
        tmp_path, label_dropout=probability, batch_size=32, steps=40, checkpoint_every=1000
    )
    seen = []
    inner = trainer.model.forward
    monkeypatch.setattr(
        trainer.model,
        "forward",
        lambda z_t, logsnr, y: (seen.append(y.clone()), inner(z_t, logsnr, y))[1],
    )
    for _ in range(40):
        trainer.train_step(0.0)
    labels = torch.cat(seen)
    assert len(labels) == 40 * 32
    share = float((labels == trainer.model.null_label).float().mean())
    # Four standard errors of a share among 1,280; none at all where none may be dropped.
    assert abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / 1280)
    for k in (0, 1):
        assert (labels == k).any()


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path):
    trainer = new_trainer(tmp_path)
    run_to_end(trainer)
    kept = newest_whole(tmp_path)
    trainer.progress.step += 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system itself refuses to let a file grow, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"could not write .*previous checkpoint is intact"
        ):
            trainer._save(best=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert newest_whole(tmp_path) == kept
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "best",
        "last",
        kept.name,
    ]
    trainer._save(best=False)
    assert newest_whole(tmp_path).name == "step-7"


def test_a_damaged_newest_checkpoint_falls_back_to_an_older_whole_one(tmp_path):
    auroc = iter([0.9, 0.1])
    trainer = new_trainer(tmp_path, validate_every=3)
    run_to_end(trainer, validate=lambda model: {"auroc": next(auroc)})
    checkpoints = tmp_path / "checkpoints"
    assert (checkpoints / "best").resolve().name == "step-3"
    assert (checkpoints / "last").resolve().name == "step-6"
    state = checkpoints / "step-6" / "training.safetensors"
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    resumed = new_trainer(tmp_path)
    resumed.resume()
    assert resumed.progress.step == 3
    assert resumed.progress.best_score == 0.9
    for folder in ("step-3", "step-6"):
        (checkpoints / folder / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="2 checkpoints, all damaged"):
        new_trainer(tmp_path).resume()


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        new_trainer(tmp_path).resume()


def test_a_run_stopped_at_its_last_step_is_still_scored_on_resume(tmp_path):
    trainer, stop = new_trainer(tmp_path), StopRequest()

    def ask_at_the_end(report):
        stop.signal_number = signal.SIGINT if report.step == 6 else None

    with pytest.raises(Interrupted, match="SIGINT") as caught:
        trainer.fit(stop=stop, validate=lambda model: {"auroc": 0.5}, on_step=ask_at_the_end)
    assert caught.value.exit_code == 130
    resumed = new_trainer(tmp_path)
    resumed.resume()
    run_to_end(resumed)
    assert (resumed.progress.step, resumed.progress.best_step) == (6, 6)
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-6"


def test_of_equal_scores_the_later_checkpoint_is_best(tmp_path):
    scores = iter([0.7, 0.9, 0.9, 0.8])
    trainer = new_trainer(tmp_path, steps=8, validate_every=2)
    run_to_end(trainer, validate=lambda model: {"auroc": next(scores)})
    assert trainer.progress.best_step == 6
    assert {p.name for p in (tmp_path / "checkpoints").glob("step-*")} == {"step-6", "step-8"}


@pytest.mark.parametrize(("weight", "best_step"), [(0.0, 2), (0.1, 4)])
def test_a_contrastive_model_is_chosen_by_the_mean_of_v(tmp_path, weight, best_step):
    """Its votes become unanimous and rank worse, while the mean still ranks better."""
    scores = iter([{"auroc": 0.9, "auroc_mean_v": 0.8}, {"auroc": 0.7, "auroc_mean_v": 0.95}])
    options = {"steps": 4, "validate_every": 2, "contrastive_weight": weight}
    trainer = new_trainer(tmp_path, **options)
    run_to_end(trainer, validate=lambda model: next(scores))
    assert trainer.progress.best_step == best_step
    assert (tmp_path / "checkpoints" / "best").resolve().name == f"step-{best_step}"


@pytest.fixture
def folder(tmp_path):
    """Sixteen readable images of two classes, and one that is cut short."""
    rng = np.random.default_rng(0)
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    bad = tmp_path / "data" / "NORMAL" / "7.png"
    bad.write_bytes(bad.read_bytes()[:150])
    return tmp_path / "data"


def test_an_unreadable_training_image_is_named_in_the_record(folder, tmp_path):
    arguments = command(tmp_path / "run", steps=2)
    arguments[1] = folder
    result = invoke(*arguments)
    assert result.exit_code == 3, result.output
    assert "1 images could not be read" in result.stderr
    record = record_of(tmp_path / "run")
    assert len(record["unreadable"]) == 1
    assert "NORMAL/7.png" in record["unreadable"][0]
    arguments[2] = f"--out={tmp_path / 'strict'}"
    result = invoke(*arguments, "--strict")
    assert result.exit_code == 1
    assert "7.png" in result.stderr
    assert "Traceback" not in result.output


def test_images_are_loaded_in_order_with_their_labels(folder):
    dataset = open_dataset(folder)
    seen = []
    images = load_images(
        dataset, dataset.records, PixelSpec(16), num_workers=3, progress=seen.append
    )
    assert seen == list(range(1, 17))
    assert len(images) == 15
    assert [r.label for r in images.records] == [dataset.classes[k] for k in images.labels]
    for stored, record in zip(images.stored, images.records, strict=True):
        np.testing.assert_array_equal(stored[0], dataset.pixels(record))


def test_a_class_without_a_readable_image_is_named(folder):
    dataset = open_dataset(folder)
    only_bad = [r for r in dataset.records if r.label != "NORMAL" or r.path.endswith("7.png")]
    with pytest.raises(DataError, match=r"class 'NORMAL' has no readable image.*7\.png"):
        load_images(dataset, only_bad, PixelSpec(16), num_workers=1)
    with pytest.raises(DataError, match=r"7\.png"):
        load_images(dataset, only_bad, PixelSpec(16), num_workers=1, strict=True)


def test_mixed_depths_keep_their_model_range(tmp_path):
    rng = np.random.default_rng(0)
    eight = rng.integers(0, 256, (16, 16)).astype(np.uint8)
    for name, pixels in (("A", eight), ("B", eight.astype(np.uint16) * np.uint16(257))):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    dataset = open_dataset(tmp_path)
    images = load_images(dataset, dataset.records, PixelSpec(16), num_workers=1)
    assert images.stored.dtype == np.uint16
    x = images.x()
    torch.testing.assert_close(x[0], x[1], atol=1e-6, rtol=0)


def test_colour_is_detected_by_content(folder, tmp_path):
    assert detect_channels(open_dataset(folder)) == 1
    assert detect_channels(open_dataset("phantoms:lesion?n=6&size=28")) == 3
    grey = np.asarray(Image.open(folder / "NORMAL" / "0.png"))
    (tmp_path / "rgb").mkdir()
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "rgb" / "0.png")
    assert detect_channels(open_dataset(tmp_path / "rgb")) == 1
