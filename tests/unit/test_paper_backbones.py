"""The paper's UNet and DiT: their published size, and what the class and the noise level reach."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffdx.backbones.conditional_unet import ConditionalUNetDenoiser
from diffdx.backbones.dit import DiTDenoiser
from diffdx.backbones.model import DiffusionModel
from diffdx.backbones.parts import build_schedule
from diffdx.backbones.stored import CARD_FILE
from diffdx.config import (
    ConditionalUNetConfig,
    DataConfig,
    DiTConfig,
    ModelConfig,
    UNetConfig,
    resolve_config,
)
from diffdx.diffusion.schedule import ShiftedCosine
from diffdx.errors import CheckpointError, ConfigError

NUM_CLASSES = 3
UNET = ConditionalUNetConfig(
    channels=(8, 8, 16), class_level=1, class_width=8, attention_heads=2, norm_groups=4
)
DIT = DiTConfig(layers=3, heads=2, head_dim=8, patch_px=2)
SIZES = pytest.mark.parametrize("config", [UNET, DIT], ids=["conditional_unet", "dit"])


def network(config, side=8):
    """A network whose every layer matters: what starts at zero (DiT's gates) is moved away."""
    torch.manual_seed(0)
    kind = DiTDenoiser if isinstance(config, DiTConfig) else ConditionalUNetDenoiser
    denoiser = kind(
        config, in_channels=2, side_px=side, num_classes=NUM_CLASSES, schedule=ShiftedCosine()
    )
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return denoiser.eval()


def noisy(count, side=8, *, same=True):
    generator = torch.Generator().manual_seed(0)
    z_t = torch.randn(1 if same else count, 2, side, side, generator=generator)
    return z_t.expand(count, -1, -1, -1)


def smallest_distance(v):
    distance = torch.cdist(v.flatten(1), v.flatten(1))
    return distance.fill_diagonal_(torch.inf).min()


@SIZES
@torch.no_grad()
def test_every_log_snr_and_every_label_gives_another_output(config):
    denoiser = network(config)
    v = denoiser(noisy(21), torch.linspace(-10, 10, 21), torch.zeros(21, dtype=torch.int64))
    assert smallest_distance(v) > 1e-3 * v.std(dim=0).norm() > 0
    y = torch.arange(NUM_CLASSES + 1)
    assert smallest_distance(denoiser(noisy(4), torch.zeros(4), y)) > 1e-3


@SIZES
def test_the_null_label_has_a_row_of_its_own_and_an_unknown_one_is_refused(config):
    denoiser = network(config)
    denoiser(noisy(1), torch.zeros(1), torch.tensor([NUM_CLASSES])).square().sum().backward()
    tables = [m.weight for m in denoiser.modules() if isinstance(m, torch.nn.Embedding)]
    assert tables
    for table in tables:
        assert table.grad.shape[0] == NUM_CLASSES + 1
        assert table.grad[NUM_CLASSES].abs().sum() > 0
        assert table.grad[:NUM_CLASSES].abs().sum() == 0
    with pytest.raises(IndexError):
        denoiser(noisy(1), torch.zeros(1), torch.tensor([NUM_CLASSES + 1]))


@SIZES
@torch.no_grad()
def test_a_side_that_does_not_divide_is_padded_with_zeros_and_cut(config):
    """7 x 7 is padded to a whole number of patches or of halvings, 8 x 8."""
    denoiser = network(config, side=7)
    z_t, logsnr, y = noisy(2, side=7), torch.tensor([-3.0, 3.0]), torch.tensor([0, NUM_CLASSES])
    whole = denoiser(torch.nn.functional.pad(z_t, (0, 1, 0, 1)), logsnr, y)
    torch.testing.assert_close(denoiser(z_t, logsnr, y), whole[..., :7, :7], atol=0, rtol=0)


@SIZES
@torch.no_grad()
def test_training_mode_drops_no_label(config):
    """diffusers' blocks would each drop a tenth of the labels by coins of their own."""
    denoiser = network(config)
    args = (noisy(200), torch.zeros(200), torch.ones(200, dtype=torch.int64))
    torch.testing.assert_close(denoiser.train()(*args), denoiser.eval()(*args), atol=0, rtol=0)


@SIZES
@torch.no_grad()
def test_half_precision_returns_float32_close_to_the_full_one(config):
    denoiser = network(config)
    args = (noisy(2, same=False), torch.tensor([-5.0, 5.0]), torch.tensor([0, 1]))
    full = denoiser(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = denoiser(*args)
    assert half.dtype == torch.float32
    # bf16 keeps 8 bits; some dozen layers of it stay within a few per cent of the output's size.
    assert 0 < (half - full).abs().max() < 0.1 * full.abs().max()


@SIZES
@torch.no_grad()
def test_classes_asked_together_are_as_asked_alone(config):
    denoiser = network(config)
    z_t, logsnr = noisy(3, same=False), torch.tensor([-4.0, 0.0, 4.0])
    owner, y = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 2, 1, 0, 1, NUM_CLASSES])
    together = denoiser.under_classes(z_t, logsnr, y, owner)
    alone = denoiser(z_t[owner], logsnr[owner], y)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@SIZES
def test_everything_learns_but_what_a_softmax_cannot_see(config):
    """A softmax over the single class token is 1 whatever the query; a key's bias shifts all."""
    denoiser = network(config)
    z_t, y = noisy(4, same=False), torch.arange(NUM_CLASSES + 1)
    denoiser(z_t, torch.linspace(-5, 5, 4), y).square().mean().backward()
    size = {name: float(weight.grad.norm()) for name, weight in denoiser.named_parameters()}
    # Float32 rounds to 1 part in 10^7: what is zero in exact arithmetic may be so large.
    idle = {name for name, norm in size.items() if norm < 1e-6 * max(size.values())}
    last = (
        "attn1.to_k.bias",
        "norm2.weight",
        "norm2.bias",
        "attn2.to_q.weight",
        "attn2.to_k.weight",
    )
    unseen = tuple(f"transformer_blocks.{i}.{name}" for i in range(3) for name in last)
    assert idle == {name for name in size if name.endswith(unseen)} != set()


@torch.no_grad()
def test_the_unet_equals_diffusers_own_forward():
    denoiser = network(UNET)
    logsnr, y = torch.tensor([-9.0, 7.0]), torch.tensor([0, 2])
    token = denoiser.class_embedding(y)[:, None]
    direct = denoiser.unet(noisy(2), (logsnr + 10) * 50, encoder_hidden_states=token).sample
    torch.testing.assert_close(denoiser(noisy(2), logsnr, y), direct, atol=0, rtol=0)


@torch.no_grad()
def test_levels_above_the_class_run_once_for_all_classes():
    denoiser, rows = network(UNET), {}
    for name, block in [
        *((f"down {level}", block) for level, block in enumerate(denoiser.unet.down_blocks)),
        ("up", denoiser.unet.up_blocks[-1]),
    ]:
        block.register_forward_hook(
            lambda _, args, out, name=name: rows.__setitem__(
                name, len(out[0]) if isinstance(out, tuple) else len(out)
            )
        )
    owner = torch.zeros(NUM_CLASSES, dtype=torch.int64)
    denoiser.under_classes(noisy(1), torch.zeros(1), torch.arange(NUM_CLASSES), owner)
    assert rows == {"down 0": 1, "down 1": 3, "down 2": 3, "up": 3}


def heard_by_blocks(denoiser, logsnr, y):
    """The output of each transformer block's conditioning (scale, shift and gate) for one input."""
    heard = []
    hooks = [
        block.norm1.linear.register_forward_hook(lambda *call: heard.append(call[2]))
        for block in denoiser.dit.transformer_blocks
    ]
    with torch.no_grad():
        denoiser(noisy(1), torch.tensor([logsnr]), torch.tensor([y]))
    for hook in hooks:
        hook.remove()
    return torch.cat(heard)


def test_the_label_and_the_log_snr_reach_every_block():
    denoiser = network(DIT)
    here = heard_by_blocks(denoiser, 0.0, 0)
    assert len(here) == DIT.layers
    for other in (heard_by_blocks(denoiser, 0.0, 1), heard_by_blocks(denoiser, 0.5, 0)):
        assert ((here - other).norm(dim=1) > 1e-3 * here.norm(dim=1)).all()


def test_an_untrained_transformer_is_the_identity_in_every_block_and_returns_zero():
    denoiser = DiTDenoiser(DIT, in_channels=2, side_px=8, num_classes=2, schedule=ShiftedCosine())
    tokens = torch.randn(1, 16, 16)
    with torch.no_grad():
        for block in denoiser.dit.transformer_blocks:
            out = block(tokens, timestep=torch.zeros(1), class_labels=torch.tensor([1]))
            torch.testing.assert_close(out, tokens, atol=0, rtol=0)
        assert (denoiser(noisy(1), torch.zeros(1), torch.tensor([1])) == 0).all()


def on_meta(preset):
    """The preset's network without storage, and the floating-point operations of one call."""
    with torch.device("meta"):
        model = DiffusionModel(resolve_config(preset).model, ("A", "B"))
        call = torch.empty(1, *model.shape), torch.empty(1), torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(*call)
    return model, counter


def test_the_papers_unet_has_the_papers_size():
    """Spec section 2: about 275.7 M parameters, 176.5 GFLOP, 17.4% of them before the class."""
    model, counter = on_meta("paper-unet")
    assert model.shape == (12, 128, 128)
    assert sum(p.numel() for p in model.parameters()) == 275_579_148
    total = counter.get_total_flops()
    assert total / 1e9 == pytest.approx(176.5, abs=0.05)
    counts = counter.get_flop_counts()
    prefix = "DiffusionModel.denoiser.unet."
    before = [f"{prefix}conv_in", *(f"{prefix}down_blocks.{level}" for level in range(3))]
    shared = sum(sum(counts[name].values()) for name in before) / total
    assert shared == pytest.approx(0.174, abs=0.0005)


def test_the_papers_transformer_has_the_papers_size():
    """147.7 M parameters with diffusers' tables of 1,001 labels; ours have 3. 213 GFLOP a call."""
    model, counter = on_meta("paper-dit")
    assert model.shape == (12, 128, 128)
    unused_labels = 12 * (1001 - 3) * 768
    assert sum(p.numel() for p in model.parameters()) + unused_labels == 147_698_112
    assert counter.get_total_flops() / 1e9 == pytest.approx(213, abs=0.5)


@pytest.mark.parametrize("preset", ["paper-unet", "paper-dit"])
def test_the_papers_presets_keep_the_papers_settings(preset):
    """Spec section 1: log-SNR 15 to -15, shift 2 log(64 / 256); appendix B.1: Adam's settings."""
    config = resolve_config(preset)
    model = config.model
    assert (model.data.wavelet, model.data.band_scaling) == ("haar", "none")
    schedule = build_schedule(model.schedule)
    assert schedule.shift == ShiftedCosine.shift_for(256)
    ends = schedule.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([15.0, -15.0], dtype=torch.float64))
    train = config.train
    assert (train.batch_size, train.learning_rate, train.warmup_steps) == (128, 1e-4, 250)
    assert (train.grad_clip, train.label_dropout, train.ema.update_every) == (1.0, 0.1, 5)


@SIZES
def test_a_saved_model_is_loaded_with_its_backbone(tmp_path, config):
    made = ModelConfig(data=DataConfig(image_size=16), backbone=config)
    model = DiffusionModel(made, ("A", "B"))
    model.save(tmp_path / "best")
    loaded = DiffusionModel.load(tmp_path / "best")
    assert loaded.config == made
    assert type(loaded.denoiser) is type(model.denoiser)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, atol=0, rtol=0)


def test_a_card_without_a_backbone_name_means_the_unet(tmp_path):
    backbone = {"channels": [8], "attention": False, "norm_groups": 4}
    made = ModelConfig.model_validate({"data": {"image_size": 16}, "backbone": backbone})
    assert made.backbone == UNetConfig(channels=(8,), attention=False, norm_groups=4)
    DiffusionModel(made, ("A", "B")).save(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    card["model"]["backbone"] = {**backbone, "name": "transformer"}
    (tmp_path / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"'transformer'.*'unet', 'conditional_unet', 'dit'"):
        DiffusionModel.load(tmp_path)


@pytest.mark.parametrize(
    ("preset", "assignment", "named"),
    [
        ("paper-unet", "channels=[48,48]", r"model\.backbone: .*norm_groups \(32\)"),
        ("paper-unet", "class_level=5", "class_level must be below the 5 levels"),
        ("paper-unet", "attention_heads=7", r"attention_heads \(7\)"),
        ("paper-unet", "layers=2", r"model\.backbone\.layers: Extra"),
        ("paper-dit", "head_dim=9", r"model\.backbone\.head_dim"),
        ("small", "name=vit", "conditional_unet"),
    ],
)
def test_a_wrong_size_is_named(preset, assignment, named):
    with pytest.raises(ConfigError, match=named):
        resolve_config(preset, assignments=(f"model.backbone.{assignment}",))


def test_a_file_with_another_backbone_replaces_the_presets(tmp_path):
    file = tmp_path / "given.yaml"
    file.write_text("model: {backbone: {name: dit, layers: 5}}")
    assert resolve_config("small", file=file).model.backbone == DiTConfig(layers=5)
    file.write_text("model: {backbone: {channels: [64]}}")
    assert resolve_config("base", file=file).model.backbone.layers_per_block == 2
