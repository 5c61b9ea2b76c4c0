"""Style: what an image has without any place in it, and the images that it speaks against."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx.cli.app import app
from diffdx.training.style import FEWEST, against_style, style_of


def textures(count, amplitude, seed, side=32):
    """Noise images of an amplitude each, as stored grey images."""
    noise = np.random.default_rng(seed).normal(size=(count, 1, side, side))
    return np.clip(128 + np.asarray(amplitude).reshape(-1, 1, 1, 1) * noise, 0, 255).astype("u1")


def test_style_knows_no_place():
    images = textures(4, 20, seed=0)
    moved = np.roll(images, (5, 3), axis=(2, 3))
    mirrored = images[..., ::-1]
    np.testing.assert_allclose(style_of(moved), style_of(images), rtol=1e-9)
    np.testing.assert_allclose(style_of(mirrored), style_of(images), rtol=1e-9)


def test_a_wave_has_its_power_in_its_octave():
    side, columns = 64, np.arange(64)
    waves = [128 + 100 * np.sin(2 * np.pi * f * columns / side) for f in (1, 2, 5, 11, 17)]
    images = np.stack([np.tile(w, (side, 1))[None] for w in waves]).round().astype("u1")
    octaves = style_of(images)[:, -5:]
    assert octaves.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]


def test_depth_and_channels_do_not_matter():
    grey = textures(3, 20, seed=1)
    deep = grey.astype("u2") * 257
    colour = np.repeat(grey, 3, axis=1)
    np.testing.assert_allclose(style_of(deep), style_of(grey), rtol=1e-9)
    np.testing.assert_allclose(style_of(colour), style_of(grey), rtol=1e-9)


def test_images_without_variation_have_a_style():
    assert np.isfinite(style_of(np.zeros((2, 1, 8, 8), dtype="u1"))).all()


@pytest.fixture(scope="module")
def collection():
    """400 images of two classes; class 1 is noisier, but for every fifth image of each class."""
    labels = np.tile([0, 1], 200)
    contrary = np.arange(400) // 2 % 5 == 0
    noisy = labels.astype(bool) ^ contrary
    images = textures(400, np.where(noisy, 40, 20), seed=2)
    patients = [f"p{i // 4}" for i in range(400)]
    return images, labels, contrary, patients


def test_the_images_against_their_style_are_found(collection):
    images, labels, contrary, patients = collection
    found = against_style(style_of(images), labels, patients)
    np.testing.assert_array_equal(found, contrary)


def test_no_image_is_judged_by_its_own_patient(collection):
    """Were they, a label that style cannot tell would be learned by heart."""
    images, _, _, patients = collection
    chance = np.repeat(np.random.default_rng(3).integers(0, 2, 100), 4)
    found = against_style(style_of(images), chance, patients)
    assert 0.35 < found.mean() < 0.65


def test_too_few_of_them_are_none(collection):
    images, labels, contrary, patients = collection
    few = np.flatnonzero(contrary & (labels == 1))[: FEWEST - 1]
    kept = np.sort(np.r_[np.flatnonzero(~(contrary & (labels == 1))), few])
    found = against_style(style_of(images[kept]), labels[kept], [patients[i] for i in kept])
    assert not found[labels[kept] == 1].any()
    assert found[labels[kept] == 0].sum() == (contrary & (labels == 0)).sum()


def test_where_it_cannot_be_told_there_are_none(collection):
    images, labels, _, _ = collection
    style = style_of(images)
    assert not against_style(style, labels, ["one patient"] * 400).any()
    alone = (np.arange(400) >= 4).astype(np.int64)
    patients = ["only patient of class 0"] * 4 + [f"p{i}" for i in range(396)]
    assert not against_style(style, alone, patients).any()


@pytest.mark.parametrize("balanced", [True, False])
def test_a_run_says_which_images_it_shows_more_often(collection, tmp_path, balanced):
    images, labels, contrary, patients = collection
    names = [f"{i}.png" for i in range(400)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image[0]).save(tmp_path / name)
    classes = np.array(["well", "ill"])[labels]
    table = {"path": names, "label": classes, "patient_id": patients}
    pd.DataFrame(table).to_csv(tmp_path / "metadata.csv", index=False)
    settings = [f"--set=train.{v}" for v in ("balanced_style=true", f"balanced={balanced}")]
    options = ["--preset", "tiny", "--steps", "1", "--batch-size", "4", "--positive=ill"]
    options += ["--out", str(tmp_path / "run"), *settings]
    result = CliRunner().invoke(app, ["train", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    if not balanced:
        assert "against_style" not in record
        return
    splits = pd.read_csv(tmp_path / "run" / "splits.csv")
    rows = [int(name.removesuffix(".png")) for name in splits.image_id[splits.role == "train"]]
    expected = {k: int((contrary[rows] & (classes[rows] == k)).sum()) for k in ("well", "ill")}
    assert expected["ill"] >= FEWEST, "or this tests nothing"
    assert record["against_style"] == expected
