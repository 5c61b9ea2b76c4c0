"""Where a setting comes from, who wins, and what a wrong one says."""

from copy import deepcopy

import pytest

from diffdx.config import PRESETS, RunConfig, preset_for_size, resolve_config
from diffdx.errors import ConfigError


def yaml_file(tmp_path, text):
    file = tmp_path / "given.yaml"
    file.write_text(text)
    return file


def test_each_source_overrides_the_ones_before_it(tmp_path):
    name = "train.batch_size"
    file = yaml_file(tmp_path, "train: {batch_size: 3}")
    plain = RunConfig().train.batch_size

    def resolved(**sources):
        return resolve_config("tiny", **sources).train.batch_size

    assert resolved() == plain
    assert resolved(defaults={name: 2}) == 2
    assert resolved(defaults={name: 2}, file=file) == 3
    assert resolved(defaults={name: 2}, file=file, assignments=(f"{name}=4",)) == 4
    every = {"defaults": {name: 2}, "file": file, "assignments": (f"{name}=4", f"{name}=5")}
    assert resolved(**every) == 5, "the later of two assignments counts"
    assert resolved(**every, options={name: None}) == 5, "an option left out changes nothing"
    assert resolved(**every, options={name: 6}) == 6


def test_the_preset_stands_between_what_was_measured_and_what_was_asked_for(tmp_path):
    size = "model.data.image_size"
    assert resolve_config("base", defaults={size: 8}).model.data.image_size == 128
    assert resolve_config("base", assignments=(f"{size}=96",)).model.data.image_size == 96
    file = yaml_file(tmp_path, "model: {data: {image_size: 48}}")
    resolved = resolve_config("base", file=file)
    assert resolved.model.data.image_size == 48
    assert resolved.model.backbone.layers_per_block == 2, "a file keeps what it does not mention"
    assert resolved.preset == "base"


def test_presets_are_not_changed_by_their_use():
    before = deepcopy(PRESETS)
    resolve_config(
        "tiny",
        defaults={"model.data.channels": 3},
        assignments=("model.backbone.channels=[16,32]",),
        options={"model.data.image_size": 16},
    )
    assert before == PRESETS


@pytest.mark.parametrize(("side", "preset"), [(None, "small-patch"), (28, "tiny"), (32, "tiny")])
def test_the_preset_follows_the_image_size(side, preset):
    assert preset_for_size(side) == preset


def test_sizes_between_presets_take_the_larger_network():
    assert [preset_for_size(side) for side in (33, 64, 65, 128)] == (
        ["small-patch"] * 2 + ["base"] * 2
    )


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        ({"assignments": ("train.batchsize=4",)}, "train.batchsize"),
        ({"assignments": ("optimizer.lr=4",)}, "optimizer"),
        ({"assignments": ("train.batch_size=four",)}, "train.batch_size"),
        ({"assignments": ("train.batch_size=0",)}, "train.batch_size"),
        ({"assignments": ("model.data.image_size=31",)}, "model.data.image_size"),
        ({"assignments": ("model.data.image_size.side=32",)}, "model.data.image_size.side"),
        ({"assignments": ("train.batch_size",)}, "train.batch_size"),
        ({"assignments": ("model.backbone.channels=[16,",)}, "model.backbone.channels"),
        ({"assignments": ("model.backbone.channels=[]",)}, "model.backbone"),
        ({"assignments": ("model.backbone.channels=[16,20]",)}, "norm_groups"),
        ({"assignments": ("model.backbone.attention_head_dim=97",)}, "attention_head_dim"),
        ({"assignments": ("model.schedule.logsnr_min=11",)}, "model.schedule"),
        ({"options": {"train.steps": -1}}, "train.steps"),
        ({"defaults": {"model.data.channels": 2}}, "model.data.channels"),
    ],
)
def test_a_wrong_key_or_value_is_named(sources, named):
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        resolve_config("tiny", **sources)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'huge'.*tiny, small, .*, paper-dit"):
        resolve_config("huge")


@pytest.mark.parametrize("text", ["- a\n- b", "a: [1", "", "\x00"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    with pytest.raises(ConfigError, match=r"given\.yaml"):
        resolve_config("tiny", file=yaml_file(tmp_path, text))


def test_an_absent_file_and_a_wrong_key_in_a_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        resolve_config("tiny", file=tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"given\.yaml.*train\.colour"):
        resolve_config("tiny", file=yaml_file(tmp_path, "train: {colour: red}"))


def test_a_resolved_configuration_written_as_yaml_reads_back_equal(tmp_path):
    import yaml

    config = resolve_config(
        "tiny", assignments=("train.steps=3", "model.backbone.channels=[16,32]")
    )
    file = yaml_file(tmp_path, yaml.safe_dump(config.model_dump(mode="json")))
    assert resolve_config("base", file=file) == config
