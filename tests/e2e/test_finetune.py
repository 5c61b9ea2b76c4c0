"""`diffdx finetune` on a tiny pipeline with random weights: zero-shot, trained, resumed, used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from diffdx.backbones.model import DiffusionModel
from diffdx.cli.app import app

pytest.importorskip("transformers", reason="the extra 'sd' is not installed")
pytest.importorskip("peft", reason="the extra 'sd' is not installed")
small_pipeline = pytest.importorskip("diffdx.paper.small_pipeline")
DATA = "phantoms:chest?n=42&size=28"
OPTIONS = [
    "--image-size=16",
    "--batch-size=4",
    "--set=train.checkpoint_every=3",
    "--set=train.validation_images=4",
    "--set=train.validation_trials=3",
    "--set=train.learning_rate=0.001",
    "--device=cpu",
    "--precision=fp32",
    "--num-workers=1",
    "--json",
]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny"
    small_pipeline.random_pipeline(folder)
    (folder.parent / "prompts.yaml").write_text(
        "NORMAL: a healthy chest\nOPACITY: [a sick chest, a chest with opacity]\n"
    )
    return folder


def finetune(base, out, *more):
    prompts = f"--prompts={base.parent / 'prompts.yaml'}"
    result = invoke("finetune", DATA, f"--out={out}", f"--base={base}", prompts, *OPTIONS, *more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def weights(run):
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


@pytest.fixture(scope="module")
def zero_shot(base, tmp_path_factory):
    run = tmp_path_factory.mktemp("zero") / "run"
    finetune(base, run, "--steps=0")
    return run


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    finetune(base, run, "--steps=6", "--set=train.validate_every=3")
    return run


def test_zero_shot_is_the_base_as_it_is(base, zero_shot):
    record = json.loads((zero_shot / "run.json").read_text())
    assert (record["steps"], record["best_validation_auroc"]) == (0, None)
    model = DiffusionModel.load(zero_shot)
    unet = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    for name, weight in unet.items():
        torch.testing.assert_close(model.denoiser.unet.get_parameter(name), weight, atol=0, rtol=0)
    assert "none: not trained here" in (zero_shot / "model_card.md").read_text()


def test_zero_shot_classifies_without_the_base(zero_shot, tmp_path):
    moved = shutil.copytree(zero_shot, tmp_path / "moved", symlinks=True)
    out = tmp_path / "predictions"
    result = invoke("classify", moved, DATA, f"--out={out}", "--trials=3", "--limit=3", "--json")
    assert result.exit_code == 0, result.output
    info = json.loads(result.stdout)
    assert info["classes"] == ["NORMAL", "OPACITY"]
    assert info["n_failed"] == 0
    assert any("looks untrained" in warning for warning in info["warnings"])


def test_training_moves_every_weight_of_the_network_and_none_of_the_autoencoder(trained, zero_shot):
    before, after = weights(zero_shot), weights(trained)
    assert before.keys() == after.keys()
    for name, value in after.items():
        same = torch.equal(value, before[name])
        is_network = name.startswith("denoiser.unet.")
        assert same != is_network, name


def test_latents_are_kept_and_no_training_file_holds_what_is_frozen(trained, zero_shot):
    assert len(list(trained.glob("latents-*.npy"))) == 1
    assert not list(zero_shot.glob("latents-*.npy"))
    state = load_file(trained / "checkpoints" / "last" / "training.safetensors")
    assert not [name for name in state if "vae" in name]


def test_a_resumed_run_equals_an_uninterrupted_one(base, trained, tmp_path):
    half = tmp_path / "half"
    finetune(base, half, "--steps=3", "--set=train.validate_every=3")
    result = invoke(
        "finetune", DATA, f"--out={half}", "--resume", "--force", "--steps=6", "--json",
        "--device=cpu", "--precision=fp32",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["resumed_at_steps"] == [3]
    assert (trained / "checkpoints" / "last").resolve().name == "step-6"
    resumed, whole = weights(half), weights(trained)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=0, rtol=0)


def test_an_adapter_is_trained_alone_and_every_verb_reads_it(base, tmp_path):
    run = tmp_path / "run"
    finetune(base, run, "--steps=4", "--lora", "--recipe=release")
    model = DiffusionModel.load(run)
    assert model.config.backbone.lora_rank == 16
    plain = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in weights(run).items():
        if name.startswith("denoiser.unet.") and ".lora_" not in name:
            original = name.removeprefix("denoiser.unet.").replace(".base_layer", "")
            torch.testing.assert_close(value, plain[original], atol=0, rtol=0)
    out_of = [v for n, v in weights(run).items() if ".lora_B." in n]
    assert out_of
    assert all(v.abs().sum() > 0 for v in out_of)
    state = load_file(run / "checkpoints" / "last" / "training.safetensors")
    trained = [n for n in state if n.startswith("model.denoiser.unet.")]
    assert trained
    assert all(".lora_" in n for n in trained)
    out = tmp_path / "samples"
    result = invoke("sample", run, "--class=OPACITY", "--n=2", "--steps=2", f"--out={out}", "-q")
    assert result.exit_code == 0, result.output
    exported = invoke("export", run, tmp_path / "small", "--dtype=bfloat16", "--json")
    assert exported.exit_code == 0, exported.output
    assert DiffusionModel.load(tmp_path / "small").classes == model.classes


def test_a_dry_run_tells_the_cost_and_writes_nothing(base, tmp_path):
    values = finetune(base, tmp_path / "run", "--images-seen=12", "--dry-run", "--recipe=release")
    assert values["config"]["train"]["images_seen"] == 12
    assert values["config"]["train"]["label_dropout"] == 0
    assert values["config"]["train"]["weighting"] == "uniform_eps"
    assert values["config"]["train"]["augment"]["flip"] is True
    assert values["cost"]["gflop_per_call"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "needs --base CHECKPOINT and --prompts FILE.yaml"),
        (["--resume", "--config=x.yaml"], "leave out --config"),
        (["--resume"], "cannot read configuration"),
    ],
)
def test_what_is_missing_is_named(tmp_path, arguments, named):
    if "--config=x.yaml" in arguments:
        arguments = ["--resume", f"--config={tmp_path / 'x.yaml'}"]
    result = invoke("finetune", DATA, f"--out={tmp_path / 'run'}", "--steps=1", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr.replace("\n", " ")


def test_training_from_nothing_needs_a_step(tmp_path):
    result = invoke("train", DATA, f"--out={tmp_path / 'run'}", "--set=train.steps=0")
    assert result.exit_code == 2
    assert "leaves a new model untrained" in result.stderr.replace("\n", " ")
