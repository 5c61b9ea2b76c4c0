"""Public sets in their publishers' folders: the paper's rule, the publishers' classes and roles."""

import csv
import gzip
import io
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffdx.data import open_dataset, open_inputs
from diffdx.data.chexpert import open_chexpert
from diffdx.data.layouts import LAYOUTS
from diffdx.data.published import EFFUSION, NO_FINDING, chexpert_id
from diffdx.data.splits import align_splits, load_splits, make_splits
from diffdx.errors import ConfigError, DataError

LISTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "paper-splits"
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING, EFFUSION]
GREY = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(path)


def chexpert(root, rows, *, archive="CheXpert-v1.0-small", place=None):
    """A tree with rows (patient, view, no finding, effusion), its images below `place`."""
    place = archive if place is None else place
    lines = []
    for patient, view, healthy, effusion in rows:
        inside = f"train/patient{patient:05d}/{view}.jpg"
        lines.append([f"{archive}/{inside}", "Female", "60", "Frontal", "AP", healthy, effusion])
        image(root / place / inside)
    write_csv(root / place / "train.csv", HEADER, lines)
    return root


V = "study1/view1_frontal"


@pytest.fixture
def forty(tmp_path):
    """Forty patients: 12 healthy, 18 with effusion, and rows that the rule leaves out."""
    rows = [(i, V, "1.0", "") for i in range(12)] + [(i, V, "", "1.0") for i in range(12, 30)]
    rows += [(30, "study1/view2_lateral", "", "1.0"), (31, "study2/view1_frontal", "", "1.0")]
    rows += [(32, V, "1.0", "1.0"), (33, V, "", "0.0"), (34, V, "", ""), (35, V, "0.0", "0.0")]
    rows += [(36, V, "", "-1.0"), (37, V, "1.0", "-1.0"), (38, V, "1.0", "0.0"), (39, V, "0", "1")]
    return chexpert(tmp_path, rows)


class TestCheXpert:
    def test_the_rule_selects_balances_and_gives_roles(self, forty):
        dataset = open_dataset(f"chexpert:{forty}?uncertain=drop")
        # 12 and patient 38 are healthy; 18 and patient 39 have an effusion.
        assert Counter(r.label for r in dataset.records) == {NO_FINDING: 13, EFFUSION: 13}
        assert Counter(r.label for r in dataset.spare) == {EFFUSION: 6}
        assert Counter(r.role for r in dataset.records) == {"train": 22, "val": 2, "test": 2}
        assert dataset.positive == EFFUSION
        assert dataset.has_patients
        first = dataset.records[0]
        assert first.image_id == f"train/patient00000/{V}.jpg"
        assert first.patient_id == "patient00000"
        assert first.metadata == {"sex": "Female", "age": "60", "view": "AP"}
        assert dataset.pixels(first).shape == (16, 16)

    def test_what_uncertain_means_must_be_said(self, forty):
        with pytest.raises(DataError, match=r"2 images have an uncertain label.*--uncertain drop"):
            open_dataset(f"chexpert:{forty}")
        known = {
            policy: {r.patient_id: r.label for r in (*data.records, *data.spare)}
            for policy in ("drop", "zero", "one")
            for data in [open_dataset(f"chexpert:{forty}", uncertain=policy)]
        }
        assert {"patient00036", "patient00037"}.isdisjoint(known["drop"])
        # zero: 36 has neither finding then, 37 is healthy; one: 36 has an effusion, 37 both.
        assert known["zero"].keys() - known["drop"].keys() == {"patient00037"}
        assert known["one"].keys() - known["drop"].keys() == {"patient00036"}
        assert known["one"]["patient00036"] == EFFUSION
        with pytest.raises(ConfigError, match="uncertain='maybe'; choose drop, zero, one"):
            open_dataset(f"chexpert:{forty}?uncertain=maybe")

    @pytest.mark.parametrize("data", ["phantoms:chest?n=4", "ham10000:nowhere", "nowhere"])
    def test_other_data_has_no_uncertain_labels(self, data):
        with pytest.raises(ConfigError, match=r"'uncertain'; known|has uncertain labels"):
            open_dataset(data, uncertain="drop")

    def test_without_uncertain_labels_nothing_need_be_said(self, tmp_path):
        rows = [(i, V, "1.0", "") for i in range(20)] + [(i, V, "", "1.0") for i in range(20, 40)]
        assert len(open_dataset(f"chexpert:{chexpert(tmp_path, rows)}")) == 40

    def test_another_seed_draws_others_the_same_seed_the_same(self, forty):
        def ids(seed):
            data = open_dataset(f"chexpert:{forty}?uncertain=drop&seed={seed}")
            return [(r.image_id, r.role) for r in data.records]

        assert ids(1) == ids(1)
        assert ids(1) != ids(2)

    def test_calib_is_taken_from_train(self, tmp_path):
        rows = [(i, V, "1.0", "") for i in range(50)] + [(i, V, "", "1.0") for i in range(50, 100)]
        dataset = open_dataset(f"chexpert:{chexpert(tmp_path, rows)}")
        roles = make_splits(dataset)["role"].value_counts()
        assert (roles["val"], roles["test"]) == (10, 10)
        assert roles["train"] + roles["calib"] == 80
        assert roles["calib"] == 16

    @pytest.mark.parametrize("place", ["", "CheXpert-v1.0-small", "CheXpert-v1.0"])
    def test_small_and_full_archives_are_found_at_or_below_the_root(self, tmp_path, place):
        rows = [(i, V, *(("1.0", "") if i % 2 else ("", "1.0"))) for i in range(30)]
        chexpert(tmp_path, rows, archive=place or "CheXpert-v1.0", place=place)
        dataset = open_dataset(f"chexpert:{tmp_path}")
        assert len(dataset) == 30
        assert not dataset.warnings

    def test_the_full_archives_batch_folders_hold_patients(self, tmp_path):
        rows = [(i, V, *(("1.0", "") if i % 2 else ("", "1.0"))) for i in range(30)]
        chexpert(tmp_path, rows, archive="CheXpert-v1.0", place="")
        for i in range(30):
            batch = tmp_path / f"CheXpert-v1.0 batch {2 + i % 2} (train {1 + i % 2})"
            batch.mkdir(exist_ok=True)
            os.rename(tmp_path / f"train/patient{i:05d}", batch / f"patient{i:05d}")
        dataset = open_dataset(f"chexpert:{tmp_path}")
        assert not dataset.warnings
        assert all(Path(r.path).is_file() for r in dataset.records)

    def test_faults_are_named(self, tmp_path, forty):
        with pytest.raises(DataError, match=r"no train.csv"):
            open_dataset(f"chexpert:{tmp_path / 'nothing'}")
        chexpert(tmp_path / "odd", [(1, V, "yes", "1.0")])
        with pytest.raises(DataError, match="row 2, column 'No Finding' holds 'yes'"):
            open_dataset(f"chexpert:{tmp_path / 'odd'}")
        chexpert(tmp_path / "none", [(1, "study2/view1_frontal", "1.0", "")])
        with pytest.raises(DataError, match="no row fits the rule"):
            open_dataset(f"chexpert:{tmp_path / 'none'}")
        write_csv(tmp_path / "other" / "train.csv", ["path", "label"], [["a.jpg", "x"]])
        with pytest.raises(DataError, match="no column 'Path', 'Pleural Effusion', 'No Finding'"):
            open_dataset(f"chexpert:{tmp_path / 'other'}")
        os.remove(forty / f"CheXpert-v1.0-small/train/patient00000/{V}.jpg")
        dataset = open_dataset(f"chexpert:{forty}", uncertain="drop")
        assert "1 files do not exist" in dataset.warnings[0]
        for path in forty.rglob("*.jpg"):
            path.unlink()
        with pytest.raises(DataError, match=r"none of the .* exists.*unpack the images"):
            open_dataset(f"chexpert:{forty}", uncertain="drop")


@pytest.mark.skipif(not LISTS.is_dir(), reason="the paper's split lists are not beside the project")
class TestPaperLists:
    @pytest.fixture
    def whole(self, tmp_path, monkeypatch):
        """A train.csv of the 20,404 published images among 6,000 that the rule leaves out."""
        rows = []
        for role in ("train", "valid", "test"):
            with (LISTS / f"chexpert-{role}.csv").open() as file:
                for line in csv.DictReader(file):
                    flags = [line[NO_FINDING], line[EFFUSION]]
                    blank = ["" if value == "0.0" else value for value in flags]
                    rows.append([line["Path"], "", "", "Frontal", "PA", *blank])
        odd = "CheXpert-v1.0-small/train/patient{:05d}/{}.jpg"
        for i in range(2000):
            rows.append([odd.format(90000 + i, V), "", "", "Frontal", "AP", "", "-1.0"])
            rows.append([odd.format(92000 + i, V), "", "", "Frontal", "AP", "", "0.0"])
            lateral = odd.format(94000 + i, "study1/view2_lateral")
            rows.append([lateral, "", "", "Lateral", "", "1.0", ""])
        order = np.random.default_rng(0).permutation(len(rows))
        write_csv(tmp_path / "train.csv", HEADER, [rows[i] for i in order])
        monkeypatch.setattr(os.path, "lexists", lambda path: True)
        return tmp_path

    def test_the_rule_gives_the_papers_counts(self, whole):
        dataset = open_chexpert(whole, {"uncertain": "drop"})
        roles = Counter(record.role for record in dataset.records)
        assert len(dataset) == 20_404
        assert roles == {"train": 16_324, "val": 2_040, "test": 2_040}
        with (LISTS / "chexpert-test.csv").open() as file:
            listed = {chexpert_id(line["Path"]) for line in csv.DictReader(file)}
        assert listed <= {record.image_id for record in dataset.records}

    def test_the_published_lists_are_used_as_they_are(self, whole):
        files = [LISTS / f"chexpert-{role}.csv" for role in ("train", "valid", "test")]
        dataset = open_chexpert(whole, {"uncertain": "drop"})
        splits = align_splits(load_splits(files), dataset)
        assert splits["role"].value_counts().to_dict() == {
            "train": 16_324,
            "val": 2_040,
            "test": 2_040,
        }
        assert splits["patient_id"].notna().all()


def isic_2020(root, n=40, *, table="train.csv", folder="train"):
    header = ["image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"]
    header += ["diagnosis", "benign_malignant", "target"]
    rows = []
    for i in range(n):
        bad = i % 8 == 0
        rows.append([f"ISIC_{i:07d}", f"IP_{i // 2}", "female", 45, "torso"])
        rows[-1] += ["melanoma", "malignant", 1] if bad else ["nevus", "benign", 0]
        image(root / folder / f"ISIC_{i:07d}.jpg")
    write_csv(root / table, header, rows)
    return root


def isic_2019(root, n=32):
    names = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    rows, facts = [], []
    for i in range(n):
        name = f"ISIC_1{i:06d}" + ("_downsampled" if i % 3 == 0 else "")
        rows.append([name, *(f"{float(k == i % 4)}" for k in range(9))])
        facts.append([name, 50, "head/neck", f"L_{i // 2}" if i % 5 else "", "male"])
        image(root / "ISIC_2019_Training_Input" / f"{name}.jpg")
    write_csv(root / "ISIC_2019_Training_GroundTruth.csv", ["image", *names], rows)
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]
    write_csv(root / "ISIC_2019_Training_Metadata.csv", header, facts)
    return root


class TestISIC:
    @pytest.mark.parametrize(
        ("table", "folder"),
        [
            ("train.csv", "jpeg/train"),
            ("ISIC_2020_Training_GroundTruth.csv", "train"),
            ("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_JPEG/train"),
        ],
    )
    def test_2020_is_melanoma_against_benign_by_patient(self, tmp_path, table, folder):
        dataset = open_dataset(f"isic2020:{isic_2020(tmp_path, table=table, folder=folder)}")
        assert Counter(r.label for r in dataset.records) == {"melanoma": 5, "benign": 35}
        assert dataset.positive == "melanoma"
        assert dataset.has_patients
        first = dataset.records[0]
        assert (first.image_id, first.patient_id) == ("ISIC_0000000", "IP_0")
        assert first.metadata["age"] == "45"
        assert first.metadata["site"] == "torso"
        assert first.metadata["source"] == "ISIC 2020"
        assert not dataset.warnings

    def test_2019_has_the_publishers_classes_by_lesion(self, tmp_path):
        dataset = open_dataset(f"isic2019:{isic_2019(tmp_path)}")
        assert dataset.classes == ("AK", "BCC", "MEL", "NV")
        lesions = {r.image_id: r.patient_id for r in dataset.records}
        assert lesions["ISIC_1000001"] == "L_0"
        assert lesions["ISIC_1000000_downsampled"] is None
        assert not dataset.has_patients
        assert "PATIENTS UNKNOWN" in dataset.warnings[0]

    def test_the_union_takes_melanomas_of_both_years_and_benign_of_one(self, tmp_path):
        isic_2020(tmp_path / "challenge", 40)
        isic_2019(tmp_path / "older")
        dataset = open_dataset(f"isic:{tmp_path}")
        assert Counter(r.label for r in dataset.records) == {"melanoma": 13, "benign": 13}
        sources = Counter((r.label, r.metadata["source"]) for r in dataset.records)
        assert sources == {
            ("melanoma", "ISIC 2019"): 8,
            ("melanoma", "ISIC 2020"): 5,
            ("benign", "ISIC 2020"): 13,
        }
        assert len(dataset.spare) == 22
        chosen = dataset.select([dataset.spare[0].image_id])
        assert chosen.records[0].label == "benign"

    def test_both_years_may_lie_in_one_folder_and_tables_be_packed(self, tmp_path):
        isic_2020(tmp_path, table="ISIC_2020_Training_GroundTruth.csv")
        isic_2019(tmp_path)
        path = tmp_path / "ISIC_2020_Training_GroundTruth.csv"
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        assert len(open_dataset(f"isic:{tmp_path}")) == 26
        path.with_suffix(".csv.gz").write_bytes(b"no gzip at all")
        with pytest.raises(DataError, match="cannot be read"):
            open_dataset(f"isic:{tmp_path}")

    def test_faults_are_named(self, tmp_path):
        with pytest.raises(DataError, match=r"none of 'ISIC_2020_Training_GroundTruth_v2.csv'"):
            open_dataset(f"isic2020:{tmp_path}")
        header = ["image", "MEL", "NV"]
        write_csv(tmp_path / "ISIC_2019_Training_GroundTruth.csv", header, [["a", "1", "1"]])
        with pytest.raises(DataError, match="row 2 has 2 diagnoses"):
            open_dataset(f"isic2019:{tmp_path}")
        write_csv(tmp_path / "train.csv", ["image_name", "target"], [["a", "0"], ["a", "1"]])
        image(tmp_path / "train" / "a.jpg")
        with pytest.raises(DataError, match="row 3 lists 'a' again"):
            open_dataset(f"isic2020:{tmp_path}")

    def test_ham10000_has_seven_classes_by_lesion(self, tmp_path):
        names = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
        header = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"]
        rows = []
        for i in range(35):
            part = f"HAM10000_images_part_{1 + i % 2}"
            rows.append([f"HAM_{i // 2}", f"ISIC_{i:07d}", names[i % 7], "histo", 45, "male"])
            rows[-1] += ["back", "rosendahl"]
            image(tmp_path / part / f"ISIC_{i:07d}.jpg")
        write_csv(tmp_path / "HAM10000_metadata.csv", header, rows)
        dataset = open_dataset(f"ham10000:{tmp_path}")
        assert dataset.classes == tuple(names)
        assert dataset.positive is None
        assert dataset.has_patients
        assert dataset.records[3].patient_id == "HAM_1"
        assert dataset.records[3].metadata["source"] == "rosendahl"
        assert all(Path(r.path).is_file() for r in dataset.records)


def medmnist_file(path, size=28, classes=2, channels=(), counts=(24, 6, 10), **changes):
    rng = np.random.default_rng(size)
    arrays = {}
    for role, n in zip(("train", "val", "test"), counts, strict=True):
        shape = (n, size, size, *channels)
        arrays[f"{role}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{role}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    arrays |= changes
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


class TestMedMNIST:
    @pytest.mark.parametrize(("size", "channels"), [(28, ()), (64, (3,)), (224, ())])
    def test_a_file_of_any_size_gives_its_pixels_labels_and_roles(self, tmp_path, size, channels):
        path = tmp_path / "pneumoniamnist.npz"
        arrays = medmnist_file(path, size, channels=channels)
        dataset = open_dataset(f"medmnist:{path}")
        assert dataset.classes == ("normal", "pneumonia")
        assert dataset.positive == "pneumonia"
        assert Counter(r.role for r in dataset.records) == {"train": 24, "val": 6, "test": 10}
        record = dataset.select(["test/000007"]).records[0]
        assert record.label == "pneumonia"
        np.testing.assert_array_equal(dataset.pixels(record), arrays["test_images"][7])
        assert dataset.mask(record) is None

    def test_the_fingerprint_follows_the_content(self, tmp_path):
        for name, size in (("a", 28), ("b", 28), ("c", 30)):
            (tmp_path / name).mkdir()
            medmnist_file(tmp_path / name / "breastmnist.npz", size)
        prints = [
            open_dataset(f"medmnist:{tmp_path / n / 'breastmnist.npz'}").fingerprint for n in "abc"
        ]
        assert prints[0] == prints[1] != prints[2]

    def test_a_name_is_looked_for_in_the_cache_and_never_fetched_offline(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("DIFFDX_CACHE", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set; fetch .*bloodmnist_64.npz"):
            open_dataset("medmnist:bloodmnist?size=64")
        medmnist_file(tmp_path / "medmnist" / "bloodmnist_64.npz", 64, classes=8, channels=(3,))
        dataset = open_dataset("medmnist:bloodmnist?size=64")
        assert dataset.classes[0] == "basophil"

    def test_a_set_asked_for_by_name_is_fetched_once(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFDX_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        medmnist_file(tmp_path / "served.npz")
        asked = []

        def serve(url, timeout):
            asked.append(url)
            return io.BytesIO((tmp_path / "served.npz").read_bytes())

        monkeypatch.setattr("urllib.request.urlopen", serve)
        for _ in range(2):
            assert len(open_dataset("medmnist:pneumoniamnist")) == 40
        assert len(asked) == 1
        assert asked[0].endswith("pneumoniamnist.npz?download=1")

        def refuse(url, timeout):
            raise OSError("no route")

        monkeypatch.setattr("urllib.request.urlopen", refuse)
        with pytest.raises(ConfigError, match=r"download failed .no route.; fetch"):
            open_dataset("medmnist:pathmnist")
        assert not list((tmp_path / "cache" / "medmnist").glob("*path*"))

    def test_faults_are_named(self, tmp_path, monkeypatch):
        path = tmp_path / "chestmnist.npz"
        medmnist_file(path, train_labels=np.zeros((24, 14), np.uint8))
        with pytest.raises(DataError, match="14 labels per image; one is needed"):
            open_dataset(f"medmnist:{path}")
        medmnist_file(path, train_images=np.zeros((24, 28), np.float32))
        with pytest.raises(DataError, match="train_images is float32"):
            open_dataset(f"medmnist:{path}")
        medmnist_file(path, val_images=None)
        with pytest.raises(DataError, match="not a whole MedMNIST file"):
            open_dataset(f"medmnist:{path}")
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(DataError, match="not a whole MedMNIST file"):
            open_dataset(f"medmnist:{path}")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train_images.npy", b"\x93NUMPY garbage")
        with pytest.raises(DataError, match="not a whole MedMNIST file"):
            open_dataset(f"medmnist:{path}")
        medmnist_file(path)
        monkeypatch.setattr("diffdx.data.medmnist.MAX_BYTES", 1000)
        with pytest.raises(DataError, match="GiB unpacked"):
            open_dataset(f"medmnist:{path}")
        with pytest.raises(ConfigError, match="no such file or set; choose bloodmnist"):
            open_dataset("medmnist:mnist")
        with pytest.raises(ConfigError, match="size='32'; choose 28, 64"):
            open_dataset("medmnist:pneumoniamnist?size=32")


class TestRegistry:
    def test_every_layout_says_what_it_is(self):
        for name, layout in LAYOUTS.items():
            assert layout.usage.startswith(f"{name}:")
            assert layout.images
            assert layout.classes
            assert layout.licence
            assert layout.citation

    def test_unknown_layouts_and_options_are_refused(self, tmp_path):
        with pytest.raises(DataError, match="unknown layout 'nih'; known: chexpert, isic2020"):
            open_dataset("nih:/data")
        with pytest.raises(ConfigError, match="unknown option 'size'; known: none"):
            open_dataset(f"isic2020:{tmp_path}?size=64")
        with pytest.raises(ConfigError, match="seed='x'; choose a whole number"):
            open_dataset(f"isic:{tmp_path}?seed=x")
        medmnist_file(tmp_path / "pneumoniamnist.npz")
        image(tmp_path / "a.png")
        with pytest.raises(ConfigError, match="MedMNIST cannot be mixed"):
            open_inputs([f"medmnist:{tmp_path / 'pneumoniamnist.npz'}", tmp_path / "a.png"])

    def test_an_unwritable_cache_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("DIFFDX_CACHE", str(tmp_path / "file"))
        with pytest.raises(ConfigError, match="set DIFFDX_CACHE to a folder that can"):
            open_dataset("medmnist:pneumoniamnist")
