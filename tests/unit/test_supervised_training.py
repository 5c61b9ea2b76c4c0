"""Training of baselines: it learns, resumes bit for bit, stops in time, keeps the best F1."""

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from diffdx._interrupt import Interrupted, StopRequest
from diffdx.backbones import classifiers
from diffdx.backbones.classifiers import Baseline
from diffdx.baseline_config import (
    NO_AUGMENTATION,
    BaselineConfig,
    BaselineModelConfig,
    SupervisedTrainConfig,
)
from diffdx.cli.app import app
from diffdx.data.dataset import Record
from diffdx.training.images import ImageTable
from diffdx.training.supervised import SupervisedTrainer, class_weights, validate_supervised

SIZE = 16
CPU = torch.device("cpu")


class Small(nn.Module):
    """In the place of an 11 million parameter network: normalised and random as those are."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4 * 4, num_classes)

    def forward(self, x):
        maps = F.adaptive_avg_pool2d(F.relu(self.norm(self.conv(x))), 4)
        return self.fc(F.dropout(maps.flatten(1), 0.2, self.training))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setattr(classifiers, "build_network", lambda config, k, fetch_pretrained: Small(k))


def table(n=24, *, seed=0, share=0.5):
    """Bright lower halves are ill: a flip upside down would hide the class."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < share * n).astype(np.int64)
    stored = rng.integers(0, 120, (n, 1, SIZE, SIZE), dtype=np.uint8)
    stored[labels == 1, :, SIZE // 2 :] += np.uint8(60)
    return ImageTable(stored, labels, [Record(str(i), f"{i}.png") for i in range(n)])


def trainer(run, images=None, **train):
    run.mkdir(exist_ok=True)
    values = {"steps": 6, "batch_size": 8, "validate_every": 3, "augment": NO_AUGMENTATION} | train
    config = BaselineConfig(
        model=BaselineModelConfig(data={"image_size": SIZE}),
        train=SupervisedTrainConfig(**values),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Baseline(config.model, ("healthy", "ill"), "ill")
    return SupervisedTrainer(model, images or table(), config, run, device=CPU, precision="fp32")


def fitted(made, held_out=None, stop=None):
    images = held_out or table(seed=1)
    made.fit(
        stop=stop or StopRequest(),
        validate=lambda m: validate_supervised(m, images, batch_size=8, precision="fp32"),
    )
    return made


def weights(made):
    state = made.model.state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_the_best_checkpoint_is_loaded(tmp_path):
    made = fitted(trainer(tmp_path, steps=30, validate_every=10, learning_rate=1e-3))
    scores = [line["validation"]["f1"] for line in lines(tmp_path) if "validation" in line]
    assert max(scores) >= 0.95, "a bright half is easy"
    assert made.progress.best_score == max(scores)
    best = Baseline.load(tmp_path)
    again = validate_supervised(best, table(seed=1), batch_size=8, precision="fp32")
    assert again["f1"] == pytest.approx(max(scores))


def test_a_random_state_of_another_does_not_matter_and_is_left_alone(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = fitted(trainer(tmp_path / "a"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other = fitted(trainer(tmp_path / "b"))
    assert weights(one) == weights(other)


@pytest.mark.parametrize("augmented", [False, True])
def test_a_resumed_run_is_bit_equal(tmp_path, augmented):
    options = {"checkpoint_every": 2} | ({"augment": {}} if augmented else {})
    whole = fitted(trainer(tmp_path / "whole", **options))
    cut = trainer(tmp_path / "cut", **options)
    stop = StopRequest()
    step = cut.train_step

    def stopping(fraction=0.0):
        loss = step(fraction)
        if cut.progress.step == 4:
            stop.signal_number = 15
        return loss

    cut.train_step = stopping
    with pytest.raises(Interrupted):
        fitted(cut, stop=stop)
    resumed = trainer(tmp_path / "cut", **options)
    resumed.resume()
    assert resumed.progress.step == 4
    assert weights(fitted(resumed)) == weights(whole)
    assert [line["step"] for line in lines(tmp_path / "cut")] == [3, 6]


def test_a_run_ends_when_f1_stops_rising(tmp_path):
    made = trainer(tmp_path, steps=1000, validate_every=2, patience=3, learning_rate=1e-3)
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.6, 0.9])
    made.fit(stop=StopRequest(), validate=lambda m: {"f1": next(scores)})
    assert (made.progress.step, made.progress.best_step) == (10, 4)
    again = trainer(tmp_path, steps=1000, validate_every=2, patience=3)
    again.resume()
    again.fit(stop=StopRequest(), validate=lambda m: {"f1": 1.0})
    assert again.progress.step == 10, "what has ended does not go on"


def test_validation_leaves_the_model_in_training(tmp_path):
    made = trainer(tmp_path, steps=3)
    modes = []

    def validate(model):
        modes.append(model.training)
        return {"f1": 0.0}

    made.fit(stop=StopRequest(), validate=validate)
    assert (modes, made.model.training) == ([False], True)


def test_class_weights_average_one_over_the_images():
    labels = np.array([0] * 9 + [1] * 3)
    weight = class_weights(labels, 2)
    np.testing.assert_allclose(weight, [12 / 18, 12 / 6])
    assert weight[labels].mean() == pytest.approx(1)
    assert class_weights(labels, 3)[2] == 0


def test_a_weighted_loss_is_that_of_balanced_classes(tmp_path):
    images = table(16, share=0.25)
    plain, weighted = (
        trainer(tmp_path, images, batch_size=16, class_weighted_loss=is_weighted)
        for is_weighted in (False, True)
    )
    x, y = images.x(), torch.from_numpy(images.labels)
    generator = torch.Generator()
    for made in (plain, weighted):
        made.model.eval()
    losses = F.cross_entropy(plain.model(x), y, reduction="none")
    whole = slice(0, 16)
    assert plain._losses_of(x, y, generator)(whole).item() == pytest.approx(losses.mean().item())
    expected = 0.5 * (losses[y == 0].mean() + losses[y == 1].mean())
    found = weighted._losses_of(x, y, generator)(whole).item()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_weight_decay_reaches_adam(tmp_path):
    made = trainer(tmp_path, weight_decay=0.25)
    assert {group["weight_decay"] for group in made.optimizer.param_groups} == {0.25}


DATA = "phantoms:chest?n=42&size=28"
OPTIONS = [
    "--image-size=32",
    "--batch-size=8",
    "--device=cpu",
    "--precision=fp32",
    "--num-workers=1",
    "--set=train.validate_every=2",
]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_writes_a_run_and_goes_on_with_it(tmp_path):
    run = tmp_path / "run"
    command = ["baseline", DATA, f"--out={run}", "--steps=4", *OPTIONS, "--json"]
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    record = json.loads((run / "run.json").read_text())
    assert (record["kind"], record["architecture"], record["status"]) == (
        "baseline",
        "resnet18",
        "done",
    )
    assert record["model_sha256"] == Baseline.load(run).sha256
    assert record["best_validation_f1"] == max(
        line["validation"]["f1"] for line in lines(run) if "validation" in line
    )
    assert {"timm", "torchvision"} <= record["versions"].keys()
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml", "metrics.jsonl", "splits.csv", "model_card.md", "checkpoints",
    }  # fmt: skip
    assert "not a medical device" in (run / "model_card.md").read_text().lower()

    assert invoke(*command).exit_code == 2, "the folder is not empty"
    again = invoke(*command, "--resume")
    assert again.exit_code == 0, again.output
    assert json.loads((run / "run.json").read_text())["resumed_at_steps"] == [4]
    other = invoke(*command, "--resume", "--set=train.weight_decay=0.5")
    assert other.exit_code == 2
    assert "train.weight_decay: 0.001 -> 0.5" in " ".join(other.stderr.split())


def test_a_dry_run_prints_the_resolved_configuration_and_writes_nothing(tmp_path):
    run = tmp_path / "run"
    done = invoke("baseline", DATA, f"--out={run}", "--model=vit_small", "--dry-run", *OPTIONS[:1])
    assert done.exit_code == 0, done.output
    assert "architecture: vit_small" in done.stdout
    assert "learning_rate: 1.0e-05" in done.stdout
    assert not run.exists()
