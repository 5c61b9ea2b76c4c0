"""A model on disk: what is saved is what is loaded, and every damage is named before use."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffdx._files import sha256
from diffdx.backbones.model import DiffusionModel
from diffdx.backbones.stored import CARD_FILE, WEIGHTS_FILE
from diffdx.config import FORMAT_VERSION, DataConfig, ModelConfig, UNetConfig
from diffdx.errors import CheckpointError, ConfigError

CLASSES = ("NORMAL", "PNEUMONIA")
CONFIG = ModelConfig(
    data=DataConfig(image_size=16),
    backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
)


def new_model():
    torch.manual_seed(0)
    model = DiffusionModel(CONFIG, CLASSES, "PNEUMONIA").eval()
    model.transform.fit(torch.rand(8, 1, 16, 16) * 2 - 1)
    return model


def predict(model):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, *model.shape, generator=generator)
    with torch.no_grad():
        return model(z, torch.linspace(-8, 8, 4), torch.tensor([0, 1, 2, 0]))


@pytest.fixture
def saved(tmp_path):
    new_model().save(tmp_path / "best")
    return tmp_path / "best"


def test_a_loaded_model_is_the_saved_one(tmp_path):
    model = new_model()
    digest = model.save(tmp_path / "best")
    loaded = DiffusionModel.load(tmp_path / "best")
    torch.testing.assert_close(predict(loaded), predict(model), atol=0, rtol=0)
    torch.testing.assert_close(loaded.transform.std, model.transform.std, atol=0, rtol=0)
    assert (loaded.classes, loaded.positive, loaded.config) == (CLASSES, "PNEUMONIA", CONFIG)
    assert loaded.sha256 == digest == sha256(tmp_path / "best" / WEIGHTS_FILE)
    assert not loaded.training
    assert loaded.null_label == 2


def test_a_run_folder_means_its_best_checkpoint_else_its_last(tmp_path):
    model = new_model()
    last = model.save(tmp_path / "checkpoints" / "last", dtype="bfloat16")
    assert DiffusionModel.load(tmp_path).sha256 == last
    best = model.save(tmp_path / "checkpoints" / "best")
    assert DiffusionModel.load(str(tmp_path)).sha256 == best


def test_half_precision_files_keep_the_wavelet_scale_and_come_near(tmp_path):
    model = new_model()
    model.save(tmp_path / "half", dtype="bfloat16")
    model.save(tmp_path / "full")
    loaded = DiffusionModel.load(tmp_path / "half")
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    torch.testing.assert_close(loaded.transform.std, model.transform.std, atol=0, rtol=0)
    # A weight rounded to 8 bits moves by at most 1 part in 256.
    for name, weight in model.denoiser.named_parameters():
        torch.testing.assert_close(
            loaded.denoiser.get_parameter(name), weight, atol=1e-30, rtol=2**-8
        )
    change = (predict(loaded) - predict(model)).abs().max() / predict(model).abs().max()
    assert 0 < change < 0.05
    sizes = [(tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.7 * sizes[1]


def edit_card(folder, **changes):
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | changes))


def edit_weights(folder, change):
    """Save changed weights with the hash that belongs to them: only the content is wrong."""
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    edit_card(folder, sha256=sha256(folder / WEIGHTS_FILE))


def refuse(folder, named):
    with pytest.raises(CheckpointError, match=named) as caught:
        DiffusionModel.load(folder)
    assert str(folder) in str(caught.value)


def cut_in_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_cut_or_replaced_weights_are_refused_by_their_hash(saved):
    cut_in_half(saved / WEIGHTS_FILE)
    refuse(saved, r"model\.safetensors is damaged or was replaced: its SHA-256")
    (saved / WEIGHTS_FILE).write_bytes(b"garbage")
    refuse(saved, "SHA-256")
    (saved / WEIGHTS_FILE).write_bytes(b"")
    refuse(saved, "SHA-256")
    (saved / WEIGHTS_FILE).unlink()
    refuse(saved, r"model\.safetensors cannot be read")


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\xff" * 7 + b"\x7f" + b"{}", (10**9).to_bytes(8, "little")]
)
def test_garbage_with_a_matching_hash_is_refused_too(saved, content):
    (saved / WEIGHTS_FILE).write_bytes(content)
    edit_card(saved, sha256=sha256(saved / WEIGHTS_FILE))
    refuse(saved, r"model\.safetensors cannot be read")


def drop_first(tensors):
    del tensors[min(tensors)]


def add_one(tensors):
    tensors["extra"] = torch.zeros(1)


def poison(tensors):
    tensors["denoiser.unet.conv_in.weight"][0] = torch.nan


def reshape(tensors):
    tensors["denoiser.unet.conv_in.weight"] = torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop_first, "1 tensors are missing.*denoiser"),
        (add_one, "unknown.*extra"),
        (poison, "not finite.*conv_in"),
        (reshape, "misshapen.*conv_in"),
        (dict.clear, "tensors are missing"),
    ],
)
def test_weights_that_do_not_fit_are_listed(saved, change, named):
    edit_weights(saved, change)
    refuse(saved, named)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_damaged_card_is_named(saved, text):
    (saved / CARD_FILE).write_text(text)
    refuse(saved, r"model\.json is damaged")


def test_a_card_cut_in_half_is_named(saved):
    cut_in_half(saved / CARD_FILE)
    refuse(saved, r"model\.json is damaged")


def test_a_newer_format_is_refused(saved):
    edit_card(saved, format_version=FORMAT_VERSION + 1)
    refuse(saved, f"format version {FORMAT_VERSION + 1}, this diffdx reads {FORMAT_VERSION}")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"model": {"data": {"image_side": 16}}}, "image_side"),
        ({"model": {"backbone": {"channels": [10], "norm_groups": 4}}}, "norm_groups"),
        ({"classes": "NORMAL"}, "classes"),
        ({"positive": "COVID"}, "COVID"),
    ],
)
def test_a_card_with_a_wrong_field_names_it(saved, changes, named):
    edit_card(saved, **changes)
    refuse(saved, named)


def test_a_card_of_another_model_lists_the_tensors(saved):
    other = CONFIG.model_copy(update={"data": DataConfig(image_size=16, channels=3)})
    edit_card(saved, model=other.model_dump(mode="json"))
    refuse(saved, "misshapen")


def test_a_folder_without_a_model_says_what_was_expected(tmp_path):
    refuse(tmp_path, r"holds no model: expected model\.json")


def test_the_positive_class_must_be_one_of_the_classes():
    with pytest.raises(ConfigError, match="'COVID' is not one of NORMAL, PNEUMONIA"):
        DiffusionModel(CONFIG, CLASSES, "COVID")
