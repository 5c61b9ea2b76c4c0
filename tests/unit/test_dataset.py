"""What `open_dataset` makes of folders, tables, files and mistakes (faults 26 to 37)."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffdx.data import Dataset, Record, open_dataset, open_inputs
from diffdx.data.dataset import FileSource, choose_positive
from diffdx.errors import ConfigError, DataError

GREY = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY).save(root / name)
    return root


def table(root, text, *names, name="metadata.csv"):
    put(root, *(names or ("a.png", "b.png", "c.png", "d.png")))
    (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def by_id(dataset):
    return {record.image_id: record for record in dataset.records}


class TestFolders:
    def test_class_folders_give_labels_and_ids_below_the_root(self, tmp_path):
        put(tmp_path, "cat/1.png", "cat/deep/1.png", "dog/1.png")
        (tmp_path / "dog/.hidden").touch()
        (tmp_path / "README.txt").touch()
        dataset = open_dataset(tmp_path)
        assert {i: r.label for i, r in by_id(dataset).items()} == {
            "cat/1.png": "cat",
            "cat/deep/1.png": "cat",
            "dog/1.png": "dog",
        }
        assert dataset.classes == ("cat", "dog")
        assert not dataset.has_patients
        assert "README.txt" in dataset.warnings[0]
        np.testing.assert_array_equal(dataset.pixels(dataset.records[0]), GREY)
        assert dataset.mask(dataset.records[0]) is None

    def test_role_folders_give_the_publishers_split(self, tmp_path):
        put(tmp_path, "train/cat/1.png", "train/dog/1.png", "valid/dog/2.png", "test/cat/1.png")
        roles = {i: (r.label, r.role) for i, r in by_id(open_dataset(tmp_path)).items()}
        assert roles == {
            "train/cat/1.png": ("cat", "train"),
            "train/dog/1.png": ("dog", "train"),
            "valid/dog/2.png": ("dog", "val"),
            "test/cat/1.png": ("cat", "test"),
        }

    def test_a_file_that_is_no_image_stays_a_record_and_fails_alone(self, tmp_path):
        put(tmp_path, "cat/1.png", "dog/1.png")
        (tmp_path / "cat/notes.png").write_text("text")
        dataset = open_dataset(tmp_path)
        with pytest.raises(DataError, match="not an image"):
            dataset.pixels(by_id(dataset)["cat/notes.png"])

    def test_a_folder_of_files_is_unlabelled(self, tmp_path):
        dataset = open_dataset(put(tmp_path, "b.png", "a.png"))
        assert [(r.image_id, r.label) for r in dataset.records] == [
            ("a.png", None),
            ("b.png", None),
        ]
        with pytest.raises(DataError, match="no image has a label"):
            dataset.require_trainable()

    def test_one_file(self, tmp_path):
        dataset = open_dataset(put(tmp_path, "a.png") / "a.png")
        assert [r.image_id for r in dataset.records] == ["a.png"]

    def test_an_empty_class_folder_is_named(self, tmp_path):
        put(tmp_path, "cat/1.png")
        (tmp_path / "dog").mkdir()
        with pytest.raises(DataError, match=r"dog.*class folder is empty"):
            open_dataset(tmp_path)

    def test_layout_mistakes_are_explained(self, tmp_path):
        with pytest.raises(DataError, match="the folder is empty"):
            open_dataset(tmp_path)
        with pytest.raises(DataError, match="no such file or folder"):
            open_dataset(tmp_path / "absent")
        put(tmp_path / "a", "train/1.png")
        with pytest.raises(DataError, match="holds no class folders"):
            open_dataset(tmp_path / "a")
        put(tmp_path / "b", "train/cat/1.png", "unlabelled/1.png")
        with pytest.raises(DataError, match=r"unlabelled.*none of train, val"):
            open_dataset(tmp_path / "b")
        with pytest.raises(DataError, match="unknown layout 'chexprt'; known: chexpert, isic2020"):
            open_dataset("chexprt:/data")


class TestTables:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
    def test_every_dialect_reads_alike(self, tmp_path, delimiter, mark, end):
        lines = ["path,label,patient_id,split,age", "a.png,cat,007,train,5", "./b.png,dog,8,,6"]
        text = mark + end.join(lines).replace(",", delimiter) + end
        dataset = open_dataset(table(tmp_path, text))
        assert dataset.records == [
            Record("a.png", str(tmp_path / "a.png"), "cat", "007", "train", {"age": "5"}),
            Record("b.png", str(tmp_path / "b.png"), "dog", "8", None, {"age": "6"}),
        ]
        assert dataset.has_patients
        assert not dataset.warnings

    def test_a_table_alone_has_paths_relative_to_itself(self, tmp_path):
        table(tmp_path / "tables", 'path,label\n"../x/a,b.png",cat\n', name="mine.CSV")
        put(tmp_path / "x", "a,b.png")
        dataset = open_dataset(tmp_path / "tables/mine.CSV")
        assert dataset.name == "mine"
        np.testing.assert_array_equal(dataset.pixels(dataset.records[0]), GREY)

    def test_latin_1_is_refused_with_row_and_column(self, tmp_path):
        text = "path,label,note\na.png,cat,ok\nb.png,dog,Röntgen\n".encode("latin-1")
        with pytest.raises(DataError, match="row 3, column 'note' is not UTF-8"):
            open_dataset(table(tmp_path, text))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("file,label\na.png,cat\n", "no column 'path'; found 'file', 'label', expected path"),
            ("path,label\na.png\n", "row 2 has 1 cells, the header has 2"),
            ('path,label\na.png,"cat\n', "not valid CSV"),
            ("path,label\n", "no rows"),
            ("", "no rows"),
            ("path,label,label\na.png,x,y\n", "two columns are called 'label'"),
            ("path,label\na.png,cat\n./a.png,dog\n", "'a.png' is in row 2 and again in row 3"),
            ("path,label\n ,cat\n", "row 2, column 'path' is blank"),
            ("path,label\na.png, Effusion \n", "spaces around 'row 2:  Effusion '"),
            ("path,label\na.png,Mass|Effusion\n", "several findings in 'row 2: Mass|Effusion'"),
            ("path,label,split\na.png,cat,tset\n", "'split' holds 'row 2: tset'; use train"),
            ("path,label\nx/a.png,cat\n", "none of the 1 files that it lists exists"),
        ],
    )
    def test_a_faulty_table_is_refused_where_it_is_faulty(self, tmp_path, text, message):
        with pytest.raises(DataError, match=message.replace("|", r"\|")):
            open_dataset(table(tmp_path, text))

    def test_an_unreadable_table_is_refused(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "t.csv").symlink_to(tmp_path / "t.csv")
        with pytest.raises(DataError, match="cannot be read"):
            open_dataset(tmp_path / "t.csv")

    def test_blank_labels_are_kept_for_prediction_and_listed_for_training(self, tmp_path):
        dataset = open_dataset(table(tmp_path, "path,label\na.png,cat\nb.png,\nc.png,nan\n"))
        assert [r.label for r in dataset.records] == ["cat", None, None]
        with pytest.raises(DataError, match=r"2 images have a blank label \('b.png', 'c.png'\)"):
            dataset.require_trainable()

    def test_a_table_without_labels_predicts_but_says_what_training_needs(self, tmp_path):
        dataset = open_dataset(table(tmp_path, "path,diagnosis\na.png,cat\n"))
        with pytest.raises(DataError, match=r"no column 'label' \(found 'path', 'diagnosis'\)"):
            dataset.require_trainable()

    def test_a_multi_label_table_is_explained(self, tmp_path):
        dataset = open_dataset(table(tmp_path, "path,Edema,Mass\na.png,1,0\nb.png,,-1\n"))
        with pytest.raises(DataError, match=r"multi-label table .*'Edema', 'Mass'.*one label"):
            dataset.require_trainable()

    def test_gaps_are_warned_of(self, tmp_path):
        text = "path,label,patient_id\na.png,cat,1\nb.png,dog,\nabsent.png,dog,2\n"
        dataset = open_dataset(table(tmp_path, text))
        assert not dataset.has_patients
        assert "1 of 3 rows have a blank patient_id" in dataset.warnings[0]
        assert "1 files do not exist ('absent.png')" in dataset.warnings[1]


class TestInputs:
    def test_one_input_keeps_its_ids(self, tmp_path):
        put(tmp_path, "cat/1.png", "dog/1.png")
        assert open_inputs([tmp_path]).records == open_dataset(tmp_path).records

    def test_the_same_name_in_two_folders_gives_two_rows(self, tmp_path):
        put(tmp_path, "x/1.png", "y/1.png", "2.png")
        dataset = open_inputs([tmp_path / "x", tmp_path / "y", tmp_path / "2.png"])
        ids = [record.image_id for record in dataset.records]
        assert ids == [(tmp_path / name).as_posix() for name in ("x/1.png", "y/1.png", "2.png")]

    def test_a_file_named_twice_is_read_once(self, tmp_path):
        put(tmp_path, "x/1.png")
        dataset = open_inputs([tmp_path / "x", tmp_path / "x/1.png"])
        assert len(dataset) == 1
        assert "1 files were named more than once" in dataset.warnings[0]

    def test_labels_of_a_table_survive_merging(self, tmp_path):
        table(tmp_path / "x", "path,label,patient_id\na.png,NORMAL,1\nb.png,PNEUMONIA,2\n")
        put(tmp_path, "c.png")
        dataset = open_inputs([tmp_path / "x", tmp_path / "c.png"])
        assert [r.label for r in dataset.records] == ["NORMAL", "PNEUMONIA", None]
        assert dataset.positive == "PNEUMONIA"
        assert not dataset.has_patients

    def test_nothing_and_mixtures_with_phantoms_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="no input"):
            open_inputs([])
        put(tmp_path, "c.png")
        with pytest.raises(ConfigError, match="phantoms and MedMNIST cannot be mixed"):
            open_inputs(["phantoms:chest", tmp_path / "c.png"])


class TestFrames:
    def test_the_frame_reaches_the_reader(self, tmp_path):
        first, second = Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())
        path = tmp_path / "stack.tif"
        first.save(path, save_all=True, append_images=[second])
        for dataset in (open_dataset(path, frame=1), open_inputs([path], frame=1)):
            np.testing.assert_array_equal(dataset.pixels(dataset.records[0]), GREY[::-1])


class TestPositive:
    @pytest.mark.parametrize(
        ("classes", "positive"),
        [
            (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
            (("Melanoma", "nevus"), "Melanoma"),
            (("No Finding", "Pleural Effusion"), "Pleural Effusion"),
            (("a", "b"), None),
            (("mel", "melanoma", "nv"), None),
            (("melanoma", "pneumonia"), None),
            ((), None),
        ],
    )
    def test_it_is_known_by_name_or_not_at_all(self, classes, positive):
        assert choose_positive(classes, None) == positive

    def test_two_unknown_classes_need_a_choice(self, tmp_path):
        put(tmp_path, "a/1.png", "b/1.png")
        with pytest.raises(ConfigError, match=r"'a' and 'b'.*--positive CLASS"):
            open_dataset(tmp_path).require_positive()
        assert open_dataset(tmp_path, positive="b").require_positive() == "b"
        assert open_inputs([tmp_path], positive="b").positive == "b"
        with pytest.raises(ConfigError, match="'B' is no class of the data; choose one of a, b"):
            open_dataset(tmp_path, positive="B")

    def test_more_classes_need_none(self, tmp_path):
        put(tmp_path, "a/1.png", "b/1.png", "c/1.png")
        assert open_dataset(tmp_path).require_positive() is None


class TestDataset:
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["a/1.png", "a/2.png"], "only one class"),
            (["a/1.png", "a/2.png", "b/1.png"], "class 'b'"),
        ],
    )
    def test_what_cannot_be_trained_on_is_refused(self, tmp_path, names, message):
        with pytest.raises(DataError, match=message):
            open_dataset(put(tmp_path, *names)).require_trainable()

    def test_the_fingerprint_moves_with_content_and_not_with_place(self, tmp_path):
        text = "path,label,patient_id\na.png,cat,1\nb.png,dog,2\n"
        same = [open_dataset(table(tmp_path / name, text)).fingerprint for name in ("x", "y")]
        assert same[0] == same[1]
        swapped = "path,label,patient_id\nb.png,dog,2\na.png,cat,1\n"
        assert open_dataset(table(tmp_path / "x", swapped)).fingerprint == same[0]
        for changed in (text.replace("cat", "cow"), text.replace(",2", ",3")):
            assert open_dataset(table(tmp_path / "x", changed)).fingerprint != same[0]
        table(tmp_path / "x", text)
        Image.fromarray(GREY[:9]).save(tmp_path / "x/a.png")
        resized = open_dataset(tmp_path / "x").fingerprint
        (tmp_path / "x/a.png").unlink()
        assert len({same[0], resized, open_dataset(tmp_path / "x").fingerprint}) == 3

    def test_select_follows_the_ids_and_refuses_unknown_ones(self, tmp_path):
        dataset = open_dataset(put(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(9))))
        ids = ["b/3.png", "a/1.png"]
        chosen = dataset.select(ids)
        assert [r.image_id for r in chosen.records] == ids
        assert chosen.classes == dataset.classes
        chosen.warnings.append("for the subset alone")
        assert not dataset.warnings
        with pytest.raises(DataError, match=r"1 of 3 image ids are not in the dataset \('zebra'\)"):
            dataset.select([*ids, "zebra"])
        missing = [f"z{i}" for i in range(7)]
        with pytest.raises(DataError, match="'z4' and 2 more"):
            dataset.select(missing)

    def test_it_travels_to_worker_processes(self, tmp_path):
        dataset = open_dataset(put(tmp_path, "a/1.png", "b/1.png"))
        copy = pickle.loads(pickle.dumps(dataset))
        assert isinstance(copy, Dataset)
        assert isinstance(copy.source, FileSource)
        assert copy.fingerprint == dataset.fingerprint
        np.testing.assert_array_equal(copy.pixels(copy.records[1]), GREY)

    def test_a_path_may_be_given_as_text(self, tmp_path):
        put(tmp_path, "a/1.png", "b/1.png")
        assert open_dataset(str(tmp_path)).records == open_dataset(Path(tmp_path)).records
