"""Stable Diffusion as a `DiffusionModel`: diffusers' own numbers, its levels, its prompts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffdx.backbones.generation import generate
from diffdx.backbones.model import DiffusionModel
from diffdx.backbones.stable_diffusion.adopt import adopt, backbone_values
from diffdx.backbones.stable_diffusion.checkpoint import locate, open_checkpoint
from diffdx.backbones.stable_diffusion.denoiser import StableDiffusionDenoiser
from diffdx.backbones.stable_diffusion.prompts import read_prompts
from diffdx.backbones.stable_diffusion.self_test import check_prediction
from diffdx.config import resolve_config
from diffdx.diffusion.process import diffuse, v_from_eps, v_target
from diffdx.errors import CheckpointError, ConfigError

pytest.importorskip("transformers", reason="the extra 'sd' is not installed")
small_pipeline = pytest.importorskip("diffdx.paper.small_pipeline")
CLASSES = ("NORMAL", "PNEUMONIA")
PROMPTS = {"NORMAL": ("a healthy chest",), "PNEUMONIA": ("a sick chest", "a chest with pneumonia")}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny"
    small_pipeline.random_pipeline(folder)
    return folder


def adopted(folder, prompts=PROMPTS, lora_rank=None, classes=CLASSES):
    base = open_checkpoint(str(folder))
    values = backbone_values(base, str(folder), prompts, lora_rank)
    config = resolve_config(
        "stable-diffusion", defaults=values, options={"model.data.image_size": 16}
    )
    return adopt(base, config.model, classes, classes[-1])


@pytest.fixture(scope="module")
def model(pipeline):
    return adopted(pipeline)


@pytest.fixture(scope="module")
def reference(pipeline):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(
        pipeline, safety_checker=None, feature_extractor=None, low_cpu_mem_usage=False
    )


def noisy(model, count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *model.shape, generator=generator)


def test_texts_are_those_of_the_pipeline_and_several_are_averaged(model, reference):
    def theirs(prompt):
        return reference.encode_prompt(prompt, "cpu", 1, False)[0][0]

    first, second = map(theirs, PROMPTS["PNEUMONIA"])
    texts = model.denoiser.texts
    torch.testing.assert_close(texts[0], theirs(PROMPTS["NORMAL"][0]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(texts[1], (first + second) / 2, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(texts[2], theirs(""), atol=1e-6, rtol=1e-5)


def test_levels_are_the_schedulers(model, reference):
    alpha_squared = reference.scheduler.alphas_cumprod.double()
    levels = model.schedule.levels
    torch.testing.assert_close(torch.sigmoid(levels), alpha_squared, atol=1e-6, rtol=0)
    steps = model.schedule.timestep(levels.float())
    torch.testing.assert_close(steps, torch.arange(1000.0), atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_call_is_the_unets_own_turned_into_v(tmp_path, prediction):
    small_pipeline.random_pipeline(tmp_path / "tiny", prediction=prediction)
    model = adopted(tmp_path / "tiny")
    steps, y = torch.tensor([3, 500, 990]), torch.tensor([0, 1, 2])
    logsnr = model.schedule.levels[steps].float()
    z_t = noisy(model, 3)
    out = model.denoiser.unet(z_t, steps, encoder_hidden_states=model.denoiser.texts[y]).sample
    expected = out if prediction == "v_prediction" else v_from_eps(z_t, out, logsnr)
    torch.testing.assert_close(model(z_t, logsnr, y), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_latents_are_the_scaled_means(model, reference):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    z = model.transform.encode(x)
    assert z.shape == (2, *model.shape) == (2, 4, 8, 8)
    theirs = reference.vae.encode(x).latent_dist.mode() * reference.vae.config.scaling_factor
    torch.testing.assert_close(z, theirs)
    picture = reference.vae.decode(z / reference.vae.config.scaling_factor).sample
    torch.testing.assert_close(model.transform.decode(z), picture)


@torch.no_grad()
def test_one_step_from_a_level_is_diffusers_ddim(model, reference):
    """Our sampler's first step and DDIM's, from the same noise at timestep 981 to 961."""
    from diffdx.diffusion.samplers import ddim_scheduler

    z, step = noisy(model, 1), 981
    eps = reference.unet(z, step, encoder_hidden_states=model.denoiser.texts[:1]).sample
    reference.scheduler.set_timesteps(50)
    theirs = reference.scheduler.step(eps, step, z).prev_sample
    logsnr = model.schedule.levels[[961, 981]]
    v = model(z, logsnr[1:].float(), torch.tensor([0]))
    ours = ddim_scheduler(logsnr).step(v, 1, z).prev_sample
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_a_saved_model_needs_no_base(tmp_path, model):
    digest = model.save(tmp_path / "best")
    loaded = DiffusionModel.load(tmp_path / "best")
    assert loaded.sha256 == digest
    assert loaded.config == model.config
    z_t, logsnr, y = noisy(model, 2), model.schedule.levels[[10, 800]].float(), torch.tensor([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(loaded(z_t, logsnr, y), model(z_t, logsnr, y), atol=0, rtol=0)
    assert str(tmp_path) not in (tmp_path / "best" / "model.json").read_text()


def test_images_are_generated_in_pixels(model):
    x = generate(model, torch.tensor([0, 1]), num_steps=3, guidance_scale=2.0)
    assert x.shape == (2, 3, 16, 16)
    assert torch.isfinite(x).all()
    assert not torch.equal(x[0], x[1])


def test_an_adapter_starts_as_the_identity_and_alone_is_trained(pipeline, model):
    pytest.importorskip("peft", reason="the extra 'sd' is not installed")
    adapted = adopted(pipeline, lora_rank=2)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    z_t, logsnr, y = noisy(model, 1), model.schedule.levels[[300]].float(), torch.tensor([1])
    with torch.no_grad():
        torch.testing.assert_close(adapted(z_t, logsnr, y), model(z_t, logsnr, y))


class Knows(StableDiffusionDenoiser):
    """A denoiser that predicts one thing exactly and declares it, or another."""

    def __init__(self, x, eps, truth, declared):
        torch.nn.Module.__init__(self)
        self.num_classes, self.prediction = 2, declared
        self.x, self.eps, self.truth = x, eps, truth

    def predicted(self, z_t, logsnr, y):
        return {"eps": self.eps, "v": v_target(self.x, self.eps, logsnr), "x": self.x}[self.truth]


def known(truth, declared):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    eps = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Knows(x.expand(3, -1, -1, -1), eps, truth, declared), x


@pytest.mark.parametrize("truth", ["eps", "v", "x"])
@pytest.mark.parametrize("declared", ["eps", "v"])
def test_a_false_declaration_is_refused_and_a_true_one_is_not(truth, declared):
    denoiser, x = known(truth, declared)
    if truth == declared:
        assert check_prediction(denoiser, x) == []
    else:
        with pytest.raises(
            CheckpointError, match=f"predicts {declared}, but its output is {truth}"
        ):
            check_prediction(denoiser, x)


def test_a_conversion_that_loses_the_output_is_refused(monkeypatch):
    denoiser, x = known("eps", "eps")
    monkeypatch.setattr(Knows, "forward", lambda self, z_t, logsnr, y: z_t)
    with pytest.raises(CheckpointError, match="does not survive its conversion"):
        check_prediction(denoiser, x)


def test_an_untrained_base_is_named(model):
    assert any("looks untrained" in text for text in model.warnings)


def edit(path, **changes):
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | changes))


@pytest.fixture
def damaged(tmp_path, pipeline):
    import shutil

    return shutil.copytree(pipeline, tmp_path / "damaged")


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXL"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("unet/config.json", {"in_channels": 9}, "in_channels is 9"),
        ("vae/config.json", {"_class_name": "AutoencoderDC"}, "AutoencoderDC"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEuler"}, "FlowMatchEuler"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "zero_snr"),
        ("scheduler/scheduler_config.json", {"beta_start": -1.0}, "beta_start"),
    ],
)
def test_what_is_not_understood_is_refused_by_file_and_field(damaged, file, changes, named):
    edit(damaged / file, **changes)
    with pytest.raises(CheckpointError, match=named) as caught:
        open_checkpoint(str(damaged))
    assert Path(file).name in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_configuration_is_named(damaged, content):
    (damaged / "unet" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"unet/config\.json"):
        open_checkpoint(str(damaged))


def test_pickled_weights_are_refused_and_missing_ones_named(damaged):
    weights = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"\.bin is a pickle.*diffdx convert"):
        open_checkpoint(str(damaged))
    weights.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        open_checkpoint(str(damaged))


def poison(tensors):
    tensors[min(tensors)][0] = torch.nan


def drop(tensors):
    del tensors[min(tensors)]


def reshape(tensors):
    tensors[min(tensors)] = torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("unet", poison, "not finite"),
        ("unet", drop, "missing"),
        ("vae", reshape, "cannot be read"),
        ("text_encoder", poison, "not finite"),
        ("text_encoder", drop, "missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(damaged, part, change, named):
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    file = damaged / part / f"{stem}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=named) as caught:
        adopted(damaged)
    assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage", (10**9).to_bytes(8, "little")])
def test_garbage_for_weights_is_refused(damaged, content):
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="unet"):
        adopted(damaged)


def test_a_file_of_a_hundred_thousand_tensors_is_refused_by_its_number(damaged):
    file = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({f"t{i}": torch.zeros(1) for i in range(100_000)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"unet.*100000 tensors in place of"):
        adopted(damaged)


def test_a_text_encoder_of_another_width_is_refused(damaged, tmp_path):
    import shutil

    small_pipeline.random_pipeline(tmp_path / "wide", small_pipeline.Size(text_width=32))
    shutil.rmtree(damaged / "text_encoder")
    shutil.copytree(tmp_path / "wide" / "text_encoder", damaged / "text_encoder")
    with pytest.raises(CheckpointError, match="gives 32 numbers a token, unet attends to 16"):
        adopted(damaged)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("NORMAL: a chest", "class 'PNEUMONIA' has no prompt"),
        ("NORMAL: a chest\nPNEUMONIA: [' ']", "class 'PNEUMONIA' has no prompt"),
        ("NORMAL: a chest\nPNEUMONIA: [a lung, 'A  chest']", "share the prompt 'a chest'"),
        ("NORMAL: a chest\nPNEUMONIA: b\nCOVID: c", "no class is called COVID"),
        ("NORMAL: a chest\nPNEUMONIA: 3", "'PNEUMONIA' needs a text"),
        ("- a\n- b", "must be a mapping"),
        ("a: [1", "cannot read prompts"),
    ],
)
def test_prompts_that_cannot_stand_for_classes_are_named(tmp_path, text, named):
    file = tmp_path / "prompts.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_prompts(file, CLASSES)


def test_prompts_keep_the_order_of_the_classes(tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text("PNEUMONIA: [one, two]\nNORMAL: three\n")
    read = read_prompts(file, CLASSES)
    assert list(read.items()) == [("NORMAL", ("three",)), ("PNEUMONIA", ("one", "two"))]


def test_prompts_that_only_look_different_are_refused(pipeline):
    with pytest.raises(ConfigError, match="reads the prompts of 'NORMAL' and 'PNEUMONIA' alike"):
        adopted(pipeline, {"NORMAL": ("a chest",), "PNEUMONIA": ("A CHEST",)})


def test_a_prompt_that_is_too_long_is_refused(pipeline):
    with pytest.raises(ConfigError, match="the text encoder reads 77; shorten it"):
        adopted(pipeline, PROMPTS | {"NORMAL": ("healthy " * 30,)})


def test_a_hub_id_offline_fails_at_once_and_says_how_to_copy(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"hf download someone/some-model --local-dir FOLDER"):
        locate("someone/some-model")
    with pytest.raises(ConfigError, match="no such folder"):
        locate("/nowhere/at all")


def test_an_image_size_that_the_autoencoder_does_not_divide_is_refused(pipeline):
    base = open_checkpoint(str(pipeline))
    values = backbone_values(base, "x", PROMPTS, None)
    config = resolve_config("stable-diffusion", defaults=values)
    odd = config.model.model_copy(
        update={"data": config.model.data.model_copy(update={"image_size": 17})}
    )
    with pytest.raises(ConfigError, match="no multiple of 2"):
        DiffusionModel(odd, CLASSES)


def test_noise_at_a_level_and_back(model):
    """What the classifier does with latents: z_t at a level, and its v target."""
    z = noisy(model, 1)
    logsnr = model.schedule.logsnr(torch.tensor([0.35]))
    eps = noisy(model, 1).flip(-1)
    z_t, v = diffuse(z, eps, logsnr), v_target(z, eps, logsnr)
    alpha = torch.sigmoid(logsnr).sqrt()
    torch.testing.assert_close(alpha * z_t - torch.sigmoid(-logsnr).sqrt() * v, z)


def test_counterfactuals_are_made_in_pixels_through_the_latents(model):
    from diffdx.explain.counterfactual import EditSettings, counterfactuals

    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    settings = EditSettings(logsnr_start=-2.0, method="noise", num_steps=3, guidance_scale=2.0)
    y_src, y_cf = torch.tensor([0, 0]), torch.tensor([1, 0])
    made = counterfactuals(model, x, y_src, y_cf, settings)
    assert made.difference.shape == x.shape
    assert made.difference[0].abs().max() > 0
    assert made.difference[1].abs().max() == 0, "toward the same class nothing changes"
