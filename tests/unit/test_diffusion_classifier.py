"""The facade: scikit-learn's manners, and clear errors for images it cannot take."""

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from diffdx.backbones.model import DiffusionModel
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.classifier import DiffusionClassifier
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.data import load_splits
from diffdx.errors import CheckpointError, ConfigError, DataError

CONFIG = ModelConfig(
    data=DataConfig(image_size=16),
    backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 20)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    return DiffusionModel(CONFIG, ("NORMAL", "SICK"), "SICK")


@pytest.fixture
def classifier(model):
    return DiffusionClassifier(model, num_trials=5, bank_size=11, device="cpu", precision="fp32")


def test_predictions_follow_from_the_errors(classifier):
    errors, logsnr = classifier.errors(IMAGES)
    assert errors.shape == (3, 2, 5)
    assert logsnr.shape == (3, 5)
    votes = majority_vote(errors)
    assert list(classifier.classes_) == ["NORMAL", "SICK"]
    assert np.array_equal(classifier.predict(IMAGES), classifier.classes_[votes.argmax(axis=1)])
    assert np.array_equal(classifier.predict_proba(IMAGES), vote_share(votes))
    mean = errors.mean(axis=2, dtype=np.float64).argmin(axis=1)
    assert list(classifier.set_params(rule="mean").predict(IMAGES)) == list(
        classifier.classes_[mean]
    )


def test_files_lists_and_arrays_give_the_same_result(classifier, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, IMAGES, strict=True):
        Image.fromarray(pixels).save(path)
    expected = classifier.errors(IMAGES)[0]
    for same in (paths, [str(p) for p in paths], list(IMAGES), np.stack([IMAGES] * 3, axis=-1)):
        assert np.array_equal(classifier.errors(same)[0], expected)
    # The same grey values in 16 bits are the same image.
    sixteen = classifier.errors(IMAGES.astype(np.uint16) * 257)[0]
    assert sixteen.shape == expected.shape


def test_it_can_be_cloned_and_reparametrised(classifier):
    twin = clone(classifier.set_params(seed=4))
    assert twin is not classifier
    assert twin.get_params()["seed"] == 4
    assert twin.get_params(deep=False).keys() >= {"model", "run", "num_trials", "rule", "space"}


def test_a_run_is_loaded_at_first_use_and_by_from_pretrained(model, tmp_path):
    model.save(tmp_path / "run")
    later = DiffusionClassifier(run=tmp_path / "run", num_trials=3, precision="fp32")
    now = DiffusionClassifier.from_pretrained(tmp_path / "run", num_trials=3, precision="fp32")
    assert later.model is None
    assert now.model is not None
    assert list(later.predict(IMAGES)) == list(now.predict(IMAGES))
    with pytest.raises(CheckpointError):
        DiffusionClassifier.from_pretrained(tmp_path)


def test_the_accuracy_score_is_scikit_learn_s(classifier):
    assert classifier.score(IMAGES, classifier.predict(IMAGES)) == 1.0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES / 255, r"images\[0\] is float64.*uint8"),
        (IMAGES[0], r"images\[0\] has shape \(20,\)"),
        ([IMAGES[0], IMAGES[:, :, :2]], r"images\[1\] has shape"),
        ([], "empty"),
        ("a.png", "list of paths"),
    ],
)
def test_images_it_cannot_take_are_refused(classifier, images, message):
    with pytest.raises(DataError, match=message):
        classifier.errors(images)


def test_an_image_without_finite_errors_is_named(classifier, model):
    weight = next(model.denoiser.parameters())
    kept = weight.detach().clone()
    weight.data.fill_(float("nan"))
    try:
        with pytest.raises(DataError, match=r"images\[0\].*not finite"):
            classifier.predict(IMAGES)
    finally:
        weight.data.copy_(kept)


def test_a_missing_model_and_an_unknown_rule_are_refused(classifier, tmp_path):
    with pytest.raises(ConfigError, match="from_pretrained"):
        DiffusionClassifier().predict(IMAGES)
    classifier.rule = "weighted"
    with pytest.raises(ConfigError, match="'vote' or 'mean'"):
        classifier.predict(IMAGES)
    with pytest.raises(DataError, match=r"gone\.png"):
        classifier.errors([tmp_path / "gone.png"])


TINY = {
    "model.data.image_size": 16,
    "model.backbone.channels": (8,),
    "model.backbone.attention": False,
    "model.backbone.norm_groups": 4,
    "train.steps": 3,
    "train.batch_size": 8,
    "train.validation_trials": 3,
}


def untrained(**parameters):
    options = {"num_trials": 3, "bank_size": 3, "device": "cpu", "precision": "fp32"}
    return DiffusionClassifier(preset="tiny", training=TINY, **{**options, **parameters})


def labelled(n=24):
    """Dark and bright noise, two images a patient."""
    rng = np.random.default_rng(1)
    y = np.array(["DARK", "BRIGHT"])[np.arange(n) // 2 % 2]
    images = rng.integers(0, 100, (n, 16, 16)) + np.where(y == "BRIGHT", 150, 0)[:, None, None]
    return images.astype(np.uint8), y, [f"p{i // 2}" for i in range(n)]


def test_fit_trains_a_model_and_leaves_the_parameters_alone():
    images, y, patients = labelled()
    classifier = untrained()
    before = dict(classifier.get_params())
    assert classifier.fit(images, y, groups=patients) is classifier
    assert classifier.get_params() == before
    assert list(classifier.classes_) == ["BRIGHT", "DARK"]
    assert set(classifier.predict(images[:4])) <= {"BRIGHT", "DARK"}
    again = untrained().fit(images, y, groups=patients)
    np.testing.assert_array_equal(again.errors(images[:2])[0], classifier.errors(images[:2])[0])


def test_cross_validation_by_patient_predicts_every_image():
    images, y, patients = labelled()
    folds = StratifiedGroupKFold(2)
    predicted = cross_val_predict(untrained(), images, y, groups=patients, cv=folds)
    assert predicted.shape == y.shape
    assert set(predicted) <= {"BRIGHT", "DARK"}


def test_fit_keeps_its_run_and_never_writes_over_one(tmp_path):
    images, y, patients = labelled()
    untrained(run=tmp_path / "run").fit(images, y, groups=patients)
    roles = load_splits(tmp_path / "run" / "splits.csv")
    assert roles.groupby("patient_id")["role"].nunique().eq(1).all()
    assert set(roles["role"]) == {"train", "val"}
    with pytest.raises(ConfigError, match="not empty"):
        untrained(run=tmp_path / "run").fit(images, y, groups=patients)


@pytest.mark.parametrize(
    ("y", "message"),
    [(["A"] * 3, "as many"), (np.arange(24) % 2, "no text"), (["A"] * 24, "only one class")],
)
def test_labels_that_cannot_be_trained_on(y, message):
    with pytest.raises(DataError, match=message):
        untrained().fit(labelled()[0], y)
