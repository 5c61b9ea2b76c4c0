"""Two processes that train together by `torchrun`: the run of one, and all of them or none end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from diffdx.backbones.model import DiffusionModel
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.cli.app import app
from diffdx.data import open_dataset
from diffdx.errors import ConfigError, TrainingError
from diffdx.training import loop, ranks

ROOT = Path(__file__).parents[2]
STEPS = 12
DATA = "phantoms:chest?n=42&size=28"
OPTIONS = [
    "--image-size=16",
    "--set=model.backbone.channels=[8]",
    "--set=model.backbone.norm_groups=4",
    "--set=model.backbone.attention=false",
    "--set=train.checkpoint_every=5",
    "--set=train.validate_every=6",
    "--set=train.warmup_steps=2",
    # Odd, so that the ranks' shares differ.
    "--batch-size=5",
    "--device=cpu",
    "--precision=fp32",
    "--num-workers=1",
]
EVERY_STEP_LOGGED = """
from diffdx.training import loop
loop.LOG_EVERY = 1
from diffdx.cli.app import main
main()
"""


def command(out, *more, steps=STEPS):
    return ["train", DATA, f"--out={out}", f"--steps={steps}", *OPTIONS, *more]


def torchrun(folder, program, arguments):
    """Start two processes of a program."""
    script = folder / "program.py"
    script.write_text(program)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    return subprocess.Popen(
        [sys.executable, *launch, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out, errors


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run by two processes."""
    folder = tmp_path_factory.mktemp("two")
    out, errors = finished(torchrun(folder, EVERY_STEP_LOGGED, command(folder / "run")))
    assert out.count("best validation") == 1, "one process speaks"
    assert errors.count("training into") == 1
    return folder / "run"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same run by one process."""
    run = tmp_path_factory.mktemp("one") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        result = CliRunner().invoke(app, command(run))
    assert result.exit_code == 0, result.output
    return run


def lines_with(run, name):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def weights(run):
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def test_two_processes_have_the_losses_and_the_metrics_of_one(one, two):
    losses = lines_with(one, "loss")
    assert len(losses) == STEPS
    assert lines_with(two, "loss") == pytest.approx(losses, rel=1e-5)
    assert lines_with(two, "validation") == lines_with(one, "validation")
    assert lines_with(two, "images_seen") == lines_with(one, "images_seen")


def test_two_processes_make_the_predictions_of_one(one, two, tmp_path):
    settings = ClassifySettings(num_trials=5, bank_size=5, device="cpu", precision="fp32")
    tables = [
        classify_dataset(
            DiffusionModel.load(run), open_dataset(DATA), tmp_path / name, settings
        ).table
        for name, run in (("one", one), ("two", two))
    ]
    assert tables[0]["prediction"].tolist() == tables[1]["prediction"].tolist()
    for name in ("mean_error_NORMAL", "mean_error_OPACITY"):
        assert tables[1][name].tolist() == pytest.approx(tables[0][name].tolist(), rel=1e-3)


def test_the_run_folder_is_written_once_and_says_how_many_wrote(two):
    record = json.loads((two / "run.json").read_text())
    assert (record["status"], record["world_size"]) == ("done", 2)
    names = {path.name for path in (two / "checkpoints").iterdir()}
    assert {"best", "last", f"step-{STEPS}"} <= names
    assert not any(name.startswith(".") for name in names)
    assert (two / "model_card.md").is_file()


def test_it_is_resumed_by_another_number_of_processes_and_says_so(two, tmp_path):
    run = shutil.copytree(two, tmp_path / "run", symlinks=True)
    result = CliRunner().invoke(app, command(run, "--resume", "--force", steps=STEPS + 2))
    assert result.exit_code == 0, result.output
    record = json.loads((run / "run.json").read_text())
    assert (record["world_size"], record["steps"]) == (1, STEPS + 2)
    assert record["resumed_at_steps"] == [STEPS]
    (note,) = record["not_bit_exact"]
    assert note.startswith(f"from step {STEPS}: world_size 2 -> 1")


SLOW_STEPS = """
import os, time
from diffdx.training.fit import Trainer
step = Trainer.train_step
def slow(self, *fraction):
    time.sleep(0.1)
    if os.environ["RANK"] == "1" and self.progress.step == {bad_step}:
        raise ValueError("rank 1 fails")
    return step(self, *fraction)
Trainer.train_step = slow
from diffdx.cli.app import main
main()
"""


def wait_for_checkpoint(process, run):
    while process.poll() is None and not (run / "checkpoints" / "last").exists():
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_by_a_signal_it_goes_on_to_the_very_weights(two, tmp_path, number):
    run = tmp_path / "run"
    process = torchrun(tmp_path, SLOW_STEPS.format(bad_step=-1), command(run))
    wait_for_checkpoint(process, run)
    children = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split()
    process.send_signal(number)
    if number == signal.SIGKILL:
        # The launcher cannot pass this one on.
        for child in children:
            os.kill(int(child), number)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM; everything is saved" in errors
        record = json.loads((run / "run.json").read_text())
        assert record["status"] == "interrupted"
        assert (run / "checkpoints" / f"step-{record['steps']}").is_dir()
    finished(torchrun(tmp_path, EVERY_STEP_LOGGED, command(run, "--resume")))
    assert json.loads((run / "run.json").read_text())["not_bit_exact"] == []
    for name, weight in weights(two).items():
        assert torch.equal(weights(run)[name], weight)


@pytest.mark.slow
def test_one_that_fails_ends_all_within_a_minute(tmp_path):
    run = tmp_path / "run"
    process = torchrun(tmp_path, SLOW_STEPS.format(bad_step=7), command(run))
    wait_for_checkpoint(process, run)
    started = time.monotonic()
    errors = process.communicate(timeout=120)[1]
    assert time.monotonic() - started < 60
    assert process.returncode == 1
    assert "ValueError: rank 1 fails" in errors
    assert (run / "checkpoints" / "last").resolve().name == "step-6"


def test_alone_there_is_one_rank_that_does_everything():
    tensor = torch.tensor([1.0, 2.0])
    ranks.add_up([tensor])
    ranks.copy_from_main([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert (ranks.rank(), ranks.size(), ranks.is_main()) == (0, 1, True)
    assert ranks.largest(3.0, 1.0) == [3.0, 1.0]
    assert ranks.gathered([5]) == [5]
    assert ranks.share(7) == slice(0, 7)


@pytest.mark.parametrize(("count", "size"), [(5, 2), (7, 3), (8, 8), (1000, 7)])
def test_shares_are_disjoint_and_together_the_whole(monkeypatch, count, size):
    monkeypatch.setattr(ranks, "size", lambda: size)
    rows = []
    for number in range(size):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        part = range(count)[ranks.share(count)]
        assert len(part) in (count // size, -(-count // size))
        rows += part
    assert rows == list(range(count))


@pytest.fixture
def pretend(monkeypatch):
    """Let this process take itself for the main one of several."""
    monkeypatch.setattr(ranks.dist, "all_reduce", lambda *tensors: None)
    return lambda size: monkeypatch.setattr(ranks, "size", lambda: size)


def test_more_processes_than_images_in_a_batch_are_refused(pretend, tmp_path):
    pretend(6)
    result = CliRunner().invoke(app, command(tmp_path / "run"))
    assert result.exit_code == 2
    assert "train.batch_size 5 cannot be divided over 6 processes" in result.stderr


def test_a_baseline_by_several_processes_is_refused(pretend, tmp_path):
    pretend(2)
    arguments = ["baseline", DATA, f"--out={tmp_path / 'run'}", "--image-size=32", "--steps=1"]
    result = CliRunner().invoke(app, [*arguments, "--device=cpu"])
    assert result.exit_code == 2
    assert "start it without torchrun" in result.stderr


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ConfigError, match="process 1 of this machine, 1 GPUs"),
        ranks.joined(torch.device("cuda")),
    ):
        pass


def test_a_lost_process_is_told_in_one_line(monkeypatch):
    def broken(*args):
        raise RuntimeError("Connection closed by peer\nmore")

    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks.dist, "all_reduce", broken)
    with pytest.raises(TrainingError, match=r"lost the others \(Connection closed by peer\)"):
        ranks.largest(1.0)
