"""The baselines' networks: sizes, input scaling, features, files; refusals that say what to do."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffdx.backbones import architectures
from diffdx.backbones.classifiers import Baseline, is_baseline
from diffdx.backbones.model import DiffusionModel
from diffdx.baseline_config import BaselineModelConfig, resolve_baseline
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.errors import CheckpointError, ConfigError

CLASSES = ("healthy", "ill")


def config(**values):
    return BaselineModelConfig(**({"data": {"image_size": 32}} | values))


def built(**values):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Baseline(config(**values), CLASSES, "ill").eval()


def images(n=2, size=32, channels=1):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


# Parameters as published for 1,000 classes, less the 998 outputs that two classes do without.
PUBLISHED = {
    "resnet18": (11_689_512, 512),
    "resnet50": (25_557_032, 2048),
    "efficientnet_b0": (5_288_548, 1280),
    "efficientnet_b4": (19_341_616, 1792),
    "vit_small": (22_050_664, 384),
    "vit_base": (86_567_656, 768),
    "swin_base": (87_768_224, 1024),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_network_is_the_published_one(name):
    total, features = PUBLISHED[name]
    with torch.device("meta"):
        network = architectures.build_network(
            BaselineModelConfig(architecture=name, data={"image_size": 224}), 2
        )
    assert sum(p.numel() for p in network.parameters()) == total - 998 * (features + 1)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_small"])
def test_probabilities_are_the_softmax_of_the_last_layer_of_the_features(name):
    model, x = built(architecture=name), images()
    head = model.network.fc if name == "resnet18" else model.network.get_classifier()
    with torch.no_grad():
        expected = head(model.features(x)).softmax(dim=1)
    torch.testing.assert_close(model.probabilities(x), expected)
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_the_feature_layer_gives_the_maps_that_are_pooled(name):
    model, x, maps = built(architecture=name), images(), []
    handle = model.feature_layer.register_forward_hook(lambda layer, i, out: maps.append(out))
    features = model.features(x)
    handle.remove()
    assert maps[0].ndim == 4
    torch.testing.assert_close(maps[0].mean(dim=(2, 3)), features)


def test_a_transformer_has_no_feature_maps():
    with pytest.raises(ConfigError, match="vit_small has no convolutional feature maps"):
        _ = built(architecture="vit_small").feature_layer


def test_grey_images_are_seen_as_their_rgb_copies():
    model, x = built(), images()
    assert torch.equal(model(x), model(x.expand(-1, 3, -1, -1)))


def test_a_small_stem_keeps_four_times_the_detail():
    maps = []
    for stem in ("standard", "small"):
        model = built(stem=stem)
        model.feature_layer.register_forward_hook(lambda layer, i, out: maps.append(out))
        model(images())
    assert [m.shape[-1] for m in maps] == [1, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stem": "small", "architecture": "efficientnet_b0"}, "no small stem"),
        ({"stem": "small", "pretrained": True}, "do not fit a small stem"),
        ({"data": {"image_size": 33}}, "multiple of 2"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_a_transformer_wants_whole_patches():
    with pytest.raises(ConfigError, match="a multiple of its patch of 16 px"):
        built(architecture="vit_small", data={"image_size": 40})


def test_the_positive_class_must_exist():
    with pytest.raises(ConfigError, match="positive class 'sick' is not one of healthy, ill"):
        Baseline(config(), CLASSES, "sick")


def test_pretrained_weights_see_images_as_they_were_fitted():
    model, pixels = built(pretrained=True), torch.rand(1, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            model(2 * pixels - 1), model.network((pixels - mean) / std), rtol=1e-4, atol=1e-5
        )
    # timm's ViT was fitted to images in [-1, 1].
    vit = built(architecture="vit_small", pretrained=True)
    assert vit.mean.abs().max() == 0
    assert (vit.std == 1).all()


def test_pretrained_weights_that_cannot_be_had_are_a_clear_error(monkeypatch, tmp_path):
    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConfigError, match=r"resnet18 .* cannot be fetched \(no route to host\)"):
        Baseline(config(pretrained=True), CLASSES, fetch_pretrained=True)


def test_libraries_that_are_missing_name_the_extra(monkeypatch):
    for module, name in (("torchvision.models", "resnet18"), ("timm", "vit_small")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=r"pip install 'diffdx\[baselines\]'"):
            built(architecture=name)


def test_a_saved_model_is_loaded_whole(tmp_path):
    model, x = built(), images()
    model.train()(x)  # moves the running statistics
    model.eval()
    digest = model.save(tmp_path / "m")
    again = Baseline.load(tmp_path / "m")
    assert (again.classes, again.positive, again.sha256) == (CLASSES, "ill", digest)
    assert not again.training
    assert torch.equal(again.probabilities(x), model.probabilities(x))
    assert is_baseline(tmp_path / "m")
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert again.preprocess(pixels).shape == (1, 32, 32)


def card_of(folder):
    return json.loads((folder / "model.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card | {"format_version": 99}, "has format version 99"),
        (lambda card: card | {"surprise": 1}, "surprise"),
        (lambda card: [], "damaged"),
        (lambda card: {k: v for k, v in card.items() if k != "kind"}, "no baseline"),
        (lambda card: card | {"sha256": "0"}, "damaged or was replaced"),
        (lambda card: card | {"classes": ["a", "b"]}, "positive class 'ill' is not one of a, b"),
        (lambda card: card | {"classes": ["ill", "b", "c"]}, "missing, unknown, misshapen"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    folder = tmp_path / "m"
    built().save(folder)
    (folder / "model.json").write_text(json.dumps(change(card_of(folder))))
    with pytest.raises(CheckpointError, match=message):
        Baseline.load(folder)


def test_weights_that_cannot_be_read_are_refused(tmp_path):
    folder = tmp_path / "m"
    built().save(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Baseline.load(folder)


def test_a_baseline_is_no_diffusion_run(tmp_path):
    built().save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="a baseline, no diffusion model"):
        DiffusionModel.load(tmp_path / "m")


def test_a_diffusion_run_is_no_baseline(tmp_path):
    model = DiffusionModel(
        ModelConfig(
            data=DataConfig(image_size=16),
            backbone=UNetConfig(channels=(8,), norm_groups=4, attention=False),
        ),
        CLASSES,
    )
    model.save(tmp_path / "m")
    assert not is_baseline(tmp_path / "m")
    with pytest.raises(CheckpointError, match="no baseline"):
        Baseline.load(tmp_path / "m")


RECIPES = {
    # recipe, architecture, channels: learning rate, weight decay, augmented, pretrained, patience
    ("paper", "resnet18", 1): (1e-4, 1e-3, True, False, 10),
    ("paper", "efficientnet_b4", 3): (1e-4, 1e-5, True, False, 10),
    ("paper", "vit_small", 1): (1e-5, 0.0, True, False, 10),
    ("paper", "swin_base", 3): (1e-5, 0.0, True, False, 10),
    ("release", "resnet50", 1): (1e-4, 1e-3, True, True, None),
    ("release", "vit_base", 3): (1e-5, 0.0, False, True, None),
}


@pytest.mark.parametrize(("recipe", "architecture", "channels"), RECIPES)
def test_recipes_are_those_of_the_paper_and_of_its_code(recipe, architecture, channels):
    made = resolve_baseline(recipe, architecture, channels=channels).with_length(50)
    rate, decay, augmented, pretrained, patience = RECIPES[recipe, architecture, channels]
    train = made.train
    assert (train.learning_rate, train.weight_decay, train.batch_size) == (rate, decay, 64)
    assert (made.model.pretrained, train.patience) == (pretrained, patience)
    assert train.images_seen == 100 * 50
    changes = train.augment
    expected = (30.0, True, True, (0.1, 2.0)) if augmented else (0.0, False, False, None)
    assert (
        changes.rotate_degrees,
        changes.flip,
        changes.flip_vertical,
        changes.blur_sigma_px,
    ) == expected


def test_what_is_given_wins_over_the_recipe(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("train: {learning_rate: 0.5, weight_decay: 0.25}\n")
    made = resolve_baseline(
        "release",
        "resnet18",
        channels=3,
        file=file,
        assignments=("train.weight_decay=0.125", "model.architecture=vit_small"),
        options={"model.pretrained": False, "train.steps": 7},
    )
    assert made.with_length(50) is made
    assert (made.train.learning_rate, made.train.weight_decay) == (0.5, 0.125)
    assert (made.model.pretrained, made.train.steps, made.train.images_seen) == (False, 7, None)
    with pytest.raises(ConfigError, match="blur_sigma_px must be two ascending"):
        resolve_baseline(
            "paper",
            "resnet18",
            channels=1,
            assignments=("train.augment.blur_sigma_px=[2, 1]",),
        )


def test_networks_can_be_built_where_torchvision_belongs_to_another_torch():
    """In a process of its own, beside whatever torchvision is installed, or a broken one."""
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from diffdx.backbones.architectures import build_network\n"
        "from diffdx.baseline_config import BaselineModelConfig as C\n"
        "import torch\n"
        "print(build_network(C(), 3)(torch.zeros(2, 3, 64, 64)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "torch.Size([2, 3])", done.stderr
