"""Options of the training loop that a recipe or a large network asks for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffdx._interrupt import StopRequest
from diffdx.backbones.model import DiffusionModel
from diffdx.config import (
    ConditionalUNetConfig,
    DataConfig,
    DiTConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    UNetConfig,
)
from diffdx.data.dataset import Record
from diffdx.diffusion.loss import v_errors
from diffdx.training.budget import Budget
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable

BACKBONES = [
    UNetConfig(channels=(8, 16), norm_groups=4, attention_head_dim=8),
    ConditionalUNetConfig(
        channels=(8, 16), class_level=1, class_width=8, attention_heads=2, norm_groups=4
    ),
    DiTConfig(layers=2, heads=2, head_dim=8, patch_px=2),
]
EVERY = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)


def trainer(backbone, run=Path(), precision="fp32", **train):
    config = RunConfig(
        model=ModelConfig(data=DataConfig(image_size=16), backbone=backbone),
        train=TrainConfig(**({"steps": 40, "batch_size": 4, "warmup_steps": 0} | train)),
    )
    torch.manual_seed(0)
    model = DiffusionModel(config.model, ("A", "B"), "B")
    grey = np.array([40, 200], np.uint8)[np.arange(12) % 2, None, None, None]
    noise = np.random.default_rng(0).integers(0, 40, (12, 1, 16, 16)).astype(np.uint8)
    images = ImageTable(grey + noise, np.arange(12) % 2, [Record(str(i), "") for i in range(12)])
    return Trainer(model, images, config, run, device=torch.device("cpu"), precision=precision)


def gradients_and_kept(backbone, **train):
    """Gradients of one batch, and the bytes that autograd keeps of it."""
    made, kept = trainer(backbone, **train), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = made.images.x(np.arange(4))
    part_loss = made._losses_of(x, torch.tensor([0, 1, 0, 1]), torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = part_loss(slice(0, 4))
    weights = {w.untyped_storage().data_ptr() for w in made.model.parameters()}
    loss.backward()
    total = sum(size for pointer, size in kept.items() if pointer not in weights)
    return {n: p.grad for n, p in made.model.named_parameters() if p.grad is not None}, total


@EVERY
def test_checkpointed_gradients_are_the_same_and_keep_less(backbone):
    plain, plain_kept = gradients_and_kept(backbone)
    checkpointed, kept = gradients_and_kept(backbone, gradient_checkpointing=True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-7, rtol=1e-5)
    assert kept < 0.7 * plain_kept


@EVERY
@pytest.mark.parametrize("label_dropout", [0.0, 0.5])
def test_the_contrastive_term_compares_the_classes_of_labelled_images(backbone, label_dropout):
    def losses(y, **options):
        made = trainer(backbone, weighting="uniform", label_dropout=label_dropout, **options)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in made.model.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
            part_loss = made._losses_of(
                made.images.x(np.arange(8)), y, torch.Generator().manual_seed(0)
            )
            return torch.stack([8 * part_loss(slice(i, i + 1)) for i in range(8)])

    y = torch.tensor([0, 1] * 4)
    right, wrong, both = losses(y), losses(1 - y), losses(y, contrastive_weight=2.0)
    told = right != wrong
    assert told.all() if label_dropout == 0 else 0 < told.sum() < 8
    clear = (right.log() - wrong.log()) / 0.05
    expected = right + 2 * told * torch.nn.functional.softplus(clear)
    torch.testing.assert_close(both, expected)


def test_the_contrastive_term_separates_the_classes():
    def log_ratio(**options):
        made = trainer(BACKBONES[0], learning_rate=3e-3, steps=3, **options)
        for _ in range(3):
            made.train_step()
        x, y = made.images.x(np.arange(12)), torch.arange(12) % 2
        eps = torch.randn(12, *made.model.shape, generator=torch.Generator().manual_seed(1))
        z, logsnr = made._encoded(x), torch.zeros(12)
        with torch.no_grad():
            right, wrong = (v_errors(made._predict_v, z, k, logsnr, eps) for k in (y, 1 - y))
        return (wrong / right).log().mean().item()

    assert log_ratio(contrastive_weight=0.1) > 1.5 * log_ratio() > 0


@EVERY
def test_half_precision_training_keeps_full_weights_and_learns(backbone):
    made = trainer(backbone, precision="bf16", learning_rate=3e-3)
    losses = [made.train_step() for _ in range(40)]
    assert all(weight.dtype == torch.float32 for weight in made.model.parameters())
    assert made.progress.bad_steps == 0
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@EVERY
@pytest.mark.parametrize("averaged", [True, False])
def test_label_tables_are_averaged_or_raw_as_asked(backbone, averaged):
    made = trainer(backbone, learning_rate=3e-3, ema={"class_embedding": averaged})
    for _ in range(5):
        made.train_step()
    raw, average = made.model.denoiser, made.ema.ema_model.denoiser
    tables = {
        f"{name}.weight" for name, m in raw.named_modules() if isinstance(m, torch.nn.Embedding)
    }
    assert tables
    for name, weight in raw.named_parameters():
        if weight.grad is not None and weight.grad.abs().sum() > 0:
            same = torch.equal(weight, average.get_parameter(name))
            assert same == (name in tables and not averaged), name


def test_a_budget_of_no_steps_saves_the_model_as_it_came(tmp_path):
    made = trainer(BACKBONES[0], tmp_path, steps=0)
    assert Budget.of(made.config.train).fraction(0, 0.0) == 1
    made.fit(stop=StopRequest(), validate=lambda model: pytest.fail("nothing to choose between"))
    loaded = DiffusionModel.load(tmp_path)
    for name, weight in made.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, atol=0, rtol=0)


def test_a_run_of_an_earlier_version_is_resumed_with_the_defaults_of_what_is_new(tmp_path):
    import yaml
    from typer.testing import CliRunner

    from diffdx.cli.app import app

    small = ("channels=[8]", "norm_groups=4", "attention=false")
    command = ["train", "phantoms:chest?n=42&size=28", f"--out={tmp_path / 'run'}", "--steps=1"]
    command += ["--image-size=16", "--device=cpu", "--batch-size=4", "-q", "--recipe=denoising"]
    command += [f"--set=model.backbone.{value}" for value in small]
    assert CliRunner().invoke(app, command).exit_code == 0
    file = tmp_path / "run" / "config.yaml"
    values = yaml.safe_load(file.read_text())
    del values["recipe"], values["train"]["gradient_checkpointing"], values["model"]["edit"]
    del values["model"]["schedule"]["name"]
    file.write_text(yaml.safe_dump(values))
    again = CliRunner().invoke(app, [*command, "--resume"])
    assert again.exit_code == 0, again.output
