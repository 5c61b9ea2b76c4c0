"""Phantoms: reproducible, of known class and mask, hard by pixels, easy by the right statistic."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffdx.data import PhantomSpec, check_splits, draw_phantom, make_splits, open_dataset
from diffdx.data.phantoms import parse_phantoms
from diffdx.errors import ConfigError

KINDS = ("chest", "lesion")
NUM_TRAIN, NUM_TEST = 800, 400


def truth(dataset):
    return np.array([record.label == dataset.positive for record in dataset.records])


@pytest.fixture(scope="module", params=KINDS)
def small(request):
    """1,200 phantoms of 32 px at the default difficulty: (kind, pixels, masks, is abnormal)."""
    dataset = open_dataset(f"phantoms:{request.param}?n={NUM_TRAIN + NUM_TEST}&size=32")
    drawn = [draw_phantom(dataset.source.spec, index) for index in range(len(dataset))]
    pixels = np.stack([phantom.pixels for phantom in drawn]).astype(float)
    return request.param, pixels, np.stack([phantom.mask for phantom in drawn]), truth(dataset)


def test_logistic_regression_on_pixels_stays_near_chance(small):
    _, pixels, _, abnormal = small
    features = pixels.reshape(len(pixels), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    model.fit(features[:NUM_TRAIN], abnormal[:NUM_TRAIN])
    scores = model.decision_function(features[NUM_TRAIN:])
    assert roc_auc_score(abnormal[NUM_TRAIN:], scores) <= 0.70


def test_local_variation_tells_the_classes_apart(small):
    kind, pixels, masks, abnormal = small
    if kind == "chest":
        # Ribs run across, so only variation along a row is foreign to the lungs' inner fields.
        bend = pixels[:, :, 2:] - 2 * pixels[:, :, 1:-1] + pixels[:, :, :-2]
        fields = np.concatenate([bend[:, 6:17, 5:10], bend[:, 6:17, 20:25]], axis=2)
        # An opacity may fill a fifth of the fields only.
        energy = np.quantile(np.abs(fields), 0.8, axis=(1, 2))
    else:
        grey = pixels.mean(axis=-1)
        bend = 4 * grey - sum(np.roll(grey, step, axis) for step in (1, -1) for axis in (1, 2))
        # The median over the lesion does not see the few hairs that cross it.
        energy = [np.median(np.abs(b)[m]) for b, m in zip(bend, masks, strict=True)]
    assert roc_auc_score(abnormal, energy) >= 0.95


def test_mean_brightness_does_not_tell_the_classes_apart(small):
    _, pixels, _, abnormal = small
    auroc = roc_auc_score(abnormal, pixels.reshape(len(pixels), -1).mean(axis=1))
    # Standard error of a null AUROC with 600 of each class: sqrt((n + m + 1) / (12 n m)) = 0.0167;
    # patients with two images inflate it by at most sqrt(2).
    assert abs(auroc - 0.5) <= 3 * 0.0167 * np.sqrt(2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_classes_differ_inside_the_mask_alone(kind):
    """The same random numbers with and without disease: the difference is the ground truth."""
    abnormal = [2, 3, 4, 8]
    for index in abnormal:
        easy, none = (draw_phantom(PhantomSpec(kind, difficulty=d), index) for d in (0.5, 1.0))
        if kind == "chest":
            assert easy.mask.any()
            assert not none.mask.any()
            healthy = draw_phantom(PhantomSpec(kind, difficulty=1 - 1e-9), index)
            difference = np.abs(easy.pixels.astype(float) - healthy.pixels)
            assert (difference**2)[easy.mask].sum() > 0.8 * (difference**2).sum()
            inside = easy.pixels[easy.mask].mean() - healthy.pixels[easy.mask].mean()
            # Zero mean over the soft window; the mask is its core, where the mean is only small.
            assert abs(inside) < 0.3 * difference[easy.mask].mean() + 1
        else:
            outer = none.mask.mean() - easy.mask.mean()
            assert abs(outer) < 0.15 * none.mask.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_difficulty_1_draws_both_classes_alike(kind):
    dataset = open_dataset(f"phantoms:{kind}?n=300&size=28&difficulty=1")
    spread = [dataset.pixels(r).std() for r in dataset.records]
    # As above with 150 of each class: 0.0334 times sqrt(2), three standard errors.
    assert abs(roc_auc_score(truth(dataset), spread) - 0.5) <= 3 * 0.0334 * np.sqrt(2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_seed_and_index_alone(kind):
    few, many = (open_dataset(f"phantoms:{kind}?n={n}&size=40") for n in (6, 60))
    for record in few.records:
        np.testing.assert_array_equal(few.pixels(record), many.pixels(record))
        np.testing.assert_array_equal(few.mask(record), many.mask(record))
    other = open_dataset(f"phantoms:{kind}?n=6&size=40&seed=1")
    assert (few.pixels(few.records[0]) != other.pixels(other.records[0])).any()
    copy = pickle.loads(pickle.dumps(few))
    np.testing.assert_array_equal(copy.pixels(copy.records[3]), few.pixels(few.records[3]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [28, 63, 256])
def test_another_size_shows_the_same_scene(kind, size):
    index = 3
    small, large = (draw_phantom(PhantomSpec(kind, size=s), index).mask.mean() for s in (size, 128))
    # The edge of a mask moves by half a pixel at most: a few per cent of the image at 28.
    assert small == pytest.approx(large, abs=1.5 / size)


def test_patients_and_classes_are_balanced_and_split_without_a_leak():
    dataset = open_dataset("phantoms:chest?n=120")
    abnormal = truth(dataset)
    assert abnormal.sum() == 60
    patients = {}
    for record in dataset.records:
        patients.setdefault(record.patient_id, []).append(record.label)
    assert sorted({len(labels) for labels in patients.values()}) == [1, 2]
    assert all(len(set(labels)) == 1 for labels in patients.values())
    assert check_splits(make_splits(dataset)) == []
    assert dataset.require_positive() == "OPACITY"
    assert open_dataset("phantoms:lesion").require_positive() == "MELANOMA"
    assert open_dataset("phantoms:lesion", positive="NEVUS").require_positive() == "NEVUS"


def test_a_patient_keeps_the_body_and_changes_the_exposure():
    """Two images of one patient are nearer to each other than to those of others, yet differ."""
    images = [draw_phantom(PhantomSpec("chest", size=28), i).pixels.ravel() for i in range(600)]
    alike = np.corrcoef(np.array(images, dtype=float))
    same = np.array([alike[i, i + 1] for i in range(0, 594, 3)])
    others = np.array([alike[i, i + 6] for i in range(0, 594, 3)])
    assert same.max() < 0.9999
    error = np.hypot(same.std() / np.sqrt(len(same)), others.std() / np.sqrt(len(others)))
    assert same.mean() - others.mean() > 3 * error


def test_the_fingerprint_holds_the_options():
    texts = ["chest?n=6", "chest?n=6&seed=1", "chest?n=6&difficulty=0.4", "chest?n=6&size=32"]
    assert len({open_dataset(f"phantoms:{text}").fingerprint for text in texts}) == 4
    spelled_out = "chest?n=400&difficulty=0.5&size=64&seed=0"
    assert parse_phantoms("chest") == parse_phantoms(spelled_out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown kind; choose chest or lesion"),
        ("brain", "unknown kind"),
        ("chest?dificulty=1", "unknown option 'dificulty'; known: n, difficulty, size, seed"),
        ("chest?n=many", "n='many' is not a number"),
        ("chest?n=", "n='' is not a number"),
        ("chest?n=0", "n must be from 1"),
        ("chest?difficulty=1.5", "difficulty must be from 0 to 1"),
        ("chest?difficulty=nan", "difficulty must be from 0 to 1"),
        ("lesion?size=27", "size must be from 28 to 256"),
        ("chest?seed=-1", "seed must be from 0"),
    ],
)
def test_mistaken_options_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        open_dataset(f"phantoms:{text}")
