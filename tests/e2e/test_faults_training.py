"""Bad luck in training, fault by fault: which test fires it, and those that have no other home.

The numbers are those of the project's list of faults: training 38 to 52, model files 53 to 57.
"""

import ast
import json
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffdx._interrupt import StopRequest
from diffdx.backbones.model import DiffusionModel
from diffdx.cli.app import app
from diffdx.config import DataConfig, ModelConfig, RunConfig, TrainConfig, UNetConfig
from diffdx.data.dataset import Record
from diffdx.errors import CheckpointError
from diffdx.training import checkpoint
from diffdx.training.checkpoint import newest_whole
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable
from diffdx.training.loop import TrainingLoop

TESTS = Path(__file__).resolve().parents[1]
TRAINING, MODEL, TORCHRUN, HERE = (
    "unit/test_training.py",
    "unit/test_model.py",
    "e2e/test_torchrun.py",
    "e2e/test_faults_training.py",
)
FAULTS = {
    38: (TRAINING, "test_steps_that_stay_bad_stop_the_run_and_name_the_images"),
    39: (TRAINING, "test_an_unreadable_training_image_is_named_in_the_record"),
    40: (HERE, "test_training_has_no_worker_process_that_could_die"),
    41: (HERE, "test_training_has_no_worker_process_that_could_die"),
    42: (TRAINING, "test_out_of_memory_halves_the_batch_without_changing_the_gradient"),
    43: (HERE, "test_a_full_file_system_leaves_the_old_checkpoint"),
    44: (HERE, "test_a_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint"),
    45: (TRAINING, "test_a_terminated_run_saves_says_so_and_resumes"),
    46: (TRAINING, "test_a_resume_with_other_settings_is_refused_with_the_difference"),
    47: (HERE, "test_a_resume_on_another_machine_works_and_is_noted_as_not_bit_exact"),
    48: (TRAINING, "test_a_second_run_in_the_same_folder_is_refused"),
    49: ("unit/test_ema.py", "test_it_differs_from_the_first_and_the_last_weights_everywhere"),
    50: (TRAINING, "test_the_network_sees_the_null_label_as_often_as_configured"),
    51: (TORCHRUN, "test_two_processes_have_the_losses_and_the_metrics_of_one"),
    52: (HERE, "test_a_machine_that_knows_nothing_of_itself_will_do"),
    53: (MODEL, "test_garbage_with_a_matching_hash_is_refused_too"),
    54: ("unit/test_convert.py", "test_a_hostile_pickle_is_refused_and_not_run"),
    55: (MODEL, "test_weights_that_do_not_fit_are_listed"),
    56: (MODEL, "test_a_card_with_a_wrong_field_names_it"),
    57: (
        "unit/test_stable_diffusion.py",
        "test_a_hub_id_offline_fails_at_once_and_says_how_to_copy",
    ),
}
CONFIG = RunConfig(
    model=ModelConfig(
        data=DataConfig(image_size=16),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    ),
    train=TrainConfig(steps=4, batch_size=4, checkpoint_every=2, warmup_steps=0),
)


@pytest.mark.parametrize(("file", "name"), FAULTS.values(), ids=map(str, FAULTS))
def test_every_fault_has_a_test_that_fires_it(file, name):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def new_trainer(run):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (12, 1, 16, 16)).astype(np.uint8)
    images = ImageTable(
        stored, np.array([0, 1] * 6), [Record(f"image-{i}", f"{i}.png") for i in range(12)]
    )
    torch.manual_seed(0)
    model = DiffusionModel(CONFIG.model, ("A", "B"), "B")
    return Trainer(model, images, CONFIG, run, device=torch.device("cpu"), precision="fp32")


def to_end(trainer):
    trainer.fit(stop=StopRequest(), validate=lambda model: {"auroc": 0.5})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    trainer = new_trainer(tmp_path_factory.mktemp("run"))
    to_end(trainer)
    return trainer


class Killed(BaseException):
    """Ends a process as a signal would: no handler of errors sees it."""


def killed_at(monkeypatch, number):
    """End the process at the `number`-th file operation of a save."""
    calls = iter(range(10**6))

    def dying(operation):
        def call(*args, **kwargs):
            if next(calls) == number:
                raise Killed
            return operation(*args, **kwargs)

        return call

    for module, name in [
        (checkpoint, "save_file"), (checkpoint, "sync"), (checkpoint, "write_json"),
        (os, "replace"), (os, "symlink"), (os, "unlink"), (shutil, "rmtree"), (os, "mkdir"),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, dying(getattr(module, name)))


@pytest.mark.parametrize("step", [4, 5], ids=["saved-again", "new"])
def test_a_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint(trained, tmp_path, step):
    """Also where the only checkpoint is the one that is being replaced."""
    survived, number = False, 0
    while not survived:
        run = tmp_path / str(number)
        shutil.copytree(trained.run, run, symlinks=True)
        trainer = new_trainer(run)
        trainer.resume()
        trainer.progress.step = step
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, number)
            try:
                trainer._save(best=True)
                survived = True
            except Killed:
                number += 1
        resumed = new_trainer(run)
        resumed.resume()
        assert resumed.progress.step in (4, step)
        for raw, weight in zip(resumed.model.parameters(), trained.model.parameters(), strict=True):
            assert torch.equal(raw, weight)
        # Whatever was left behind does not keep the next save from being whole.
        resumed._save(best=True)
        names = {path.name for path in (run / "checkpoints").iterdir()}
        assert names == {"last", "best", f"step-{resumed.progress.step}"}
    assert number > 15, "a save has more file operations than were tried"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_file_system_leaves_the_old_checkpoint(trained, small_disk):
    run = small_disk / "run"
    shutil.copytree(trained.run, run, symlinks=True)
    trainer = new_trainer(run)
    trainer.resume()
    trainer.progress.step += 1
    free = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(b"x" * max(0, free - 20_000))
    with pytest.raises(CheckpointError, match=r"No space left.*previous checkpoint is intact"):
        trainer._save(best=True)
    assert newest_whole(run).name == "step-4"
    (small_disk / "other").unlink()
    trainer._save(best=True)
    assert newest_whole(run).name == "step-5"


COMMAND = [
    "train", "phantoms:chest?n=42&size=28", "--image-size=16", "--set=model.backbone.channels=[8]",
    "--set=model.backbone.norm_groups=4", "--set=model.backbone.attention=false", "--steps=2",
    "--batch-size=4", "--device=cpu", "--precision=fp32", "--num-workers=2",
]  # fmt: skip


def test_training_has_no_worker_process_that_could_die(monkeypatch, tmp_path):
    """Images are read by threads: no shared memory is too small and no worker is killed."""
    seen, step = [], TrainingLoop.train_step

    def watched(self, *fraction):
        seen.append(multiprocessing.active_children())
        return step(self, *fraction)

    monkeypatch.setattr(TrainingLoop, "train_step", watched)
    result = CliRunner().invoke(app, [*COMMAND, f"--out={tmp_path / 'run'}"])
    assert result.exit_code == 0, result.output
    assert seen == [[], []]


def test_a_resume_on_another_machine_works_and_is_noted_as_not_bit_exact(tmp_path):
    command = [*COMMAND, f"--out={tmp_path / 'run'}"]
    assert CliRunner().invoke(app, command).exit_code == 0
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    record["versions"]["torch"], record["device"] = "1.0", "cuda"
    file.write_text(json.dumps(record))
    for _ in range(2):
        result = CliRunner().invoke(app, [*command, "--resume"])
        assert result.exit_code == 0, result.output
    record = json.loads(file.read_text())
    assert record["resumed_at_steps"] == [2, 2]
    assert record["not_bit_exact"] == [
        f"from step 2: device cuda -> cpu, torch 1.0 -> {record['versions']['torch']}"
    ]


def test_a_machine_that_knows_nothing_of_itself_will_do(monkeypatch, tmp_path):
    """No HOME, a home that cannot be written, no number of CPUs, a clock that runs backwards."""
    ticks = iter(range(10**9, 0, -1000))
    monkeypatch.setattr("time.time", lambda: float(next(ticks)))
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(Path, "home", lambda: Path("/proc/nowhere"))
    for name in ("HOME", "DIFFDX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(app, [*COMMAND, f"--out={tmp_path / 'run'}"])
    assert result.exit_code == 0, result.output
    seconds = json.loads((tmp_path / "run" / "run.json").read_text())["train_seconds"]
    assert seconds >= 0
