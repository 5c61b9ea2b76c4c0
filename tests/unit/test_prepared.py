"""Prepared images: the same pixels from the cache as from the files, and never stale ones."""

import os
import threading

import numpy as np
import pytest
from PIL import Image

from diffdx.data import open_dataset
from diffdx.data.dataset import FileSource
from diffdx.errors import ConfigError, DataError
from diffdx.training import images, prepared
from diffdx.training.images import ImageTable, load_images
from diffdx.transforms.pixels import PixelSpec

RNG = np.random.default_rng(0)
SPEC = PixelSpec(16)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DIFFDX_CACHE", str(folder))
    return folder / "prepared"


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            noise = RNG.integers(0, 256, (20, 24), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """The ids of the images that are decoded."""
    seen = []

    def pixels(self, record, original=FileSource.pixels):
        seen.append(record.image_id)
        return original(self, record)

    monkeypatch.setattr(FileSource, "pixels", pixels)
    return seen


def load(folder, spec=SPEC, **options):
    dataset = open_dataset(folder)
    return load_images(dataset, dataset.records, spec, num_workers=2, **options)


def test_the_second_time_nothing_is_decoded_and_all_is_equal(folder, reads):
    first = load(folder)
    assert len(reads) == 12
    told = []
    second = load(folder, progress=told.append)
    assert len(reads) == 12
    assert told == [12]
    np.testing.assert_array_equal(first.stored, second.stored)
    assert first.records == second.records
    np.testing.assert_array_equal(first.x(), second.x())
    assert isinstance(second.stored, np.memmap)


@pytest.mark.parametrize("spec", [PixelSpec(18), PixelSpec(16, 3), PixelSpec(16, 1, "pad")])
def test_another_transform_is_another_set(folder, reads, spec):
    load(folder)
    load(folder, spec)
    assert len(reads) == 24


def test_a_changed_file_or_an_unreadable_one_is_never_stale(folder, reads):
    load(folder)
    path = folder / "a" / "3.png"
    new = RNG.integers(0, 256, (20, 24), dtype=np.uint8)
    Image.fromarray(new).save(path)
    os.utime(path, ns=(1, 1))
    again = load(folder)
    np.testing.assert_array_equal(again.stored[3], SPEC.store(new))
    path.write_bytes(b"no image")
    broken = load(folder)
    assert len(broken) == 11
    assert "3.png" in broken.unreadable[0]
    before = len(reads)
    assert load(folder).unreadable == broken.unreadable
    assert len(reads) == before
    with pytest.raises(DataError, match=r"3\.png"):
        load(folder, strict=True)


def test_sets_without_files_are_known_by_what_they_are(reads):
    data = [open_dataset(f"phantoms:chest?n=6&size=28&seed={seed}") for seed in (0, 0, 1)]
    keys = [prepared.prepared_key(d, d.records, SPEC) for d in data]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("first_deep", [0, 3, 5])
def test_deep_images_among_others_keep_all_values(first_deep):
    eight = RNG.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    mixed = [
        image.astype(np.uint16) * 257 if i >= first_deep else image for i, image in enumerate(eight)
    ]
    result, is_new = prepared.prepare(f"mixed-{first_deep}", iter(mixed), (1, 4, 4))
    assert is_new
    assert result.stored.dtype == np.uint16
    np.testing.assert_array_equal(result.stored, eight.astype(np.uint16) * 257)


def test_widening_is_exact_beyond_one_block(tmp_path):
    values = RNG.integers(0, 256, (1 << 20) + 12_345, dtype=np.uint8)
    (tmp_path / "f").write_bytes(values.tobytes())
    prepared._widen(tmp_path / "f", len(values))
    wide = np.fromfile(tmp_path / "f", dtype=np.uint16)
    np.testing.assert_array_equal(wide, values.astype(np.uint16) * 257)


def test_an_interrupted_set_is_begun_again(folder, reads, monkeypatch):
    class StopError(Exception):
        pass

    def stop(done):
        if done == 5:
            raise StopError

    with pytest.raises(StopError):
        load(folder, progress=stop)
    assert len(load(folder)) == 12


def test_two_that_want_the_same_set_prepare_it_once():
    made, results = [], []
    barrier = threading.Barrier(2)

    def count():
        made.append(1)
        yield np.ones((1, 4, 4), np.uint8)

    def want():
        barrier.wait()
        results.append(prepared.prepare("same", count(), (1, 4, 4))[1])

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True]
    assert len(made) == 1


def test_the_least_recently_used_sets_make_room(home, monkeypatch):
    monkeypatch.setattr(prepared, "MAX_BYTES", 250)
    image = np.ones((1, 10, 10), np.uint8)
    first, _ = prepared.prepare("first", [image], (1, 10, 10))
    prepared.prepare("second", [image], (1, 10, 10))
    os.utime(home / "first", (1, 1))
    os.utime(home / "second", (2, 2))
    prepared.prepare("first", [], (1, 10, 10))  # used: now the newest
    prepared.prepare("third", [image], (1, 10, 10))
    assert {path.name for path in home.iterdir()} == {"first", "third"}
    assert first.stored.sum() == 100


def test_without_a_cache_a_temporary_file_does(folder, monkeypatch, tmp_path_factory):
    file = tmp_path_factory.mktemp("other") / "file"
    file.touch()
    monkeypatch.setenv("DIFFDX_CACHE", str(file))
    table = load(folder)
    assert len(table) == 12
    assert table.x().std() > 0.1


def test_a_full_disk_is_named(monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "_write", full)
    with pytest.raises(ConfigError, match=r"No space left.*DIFFDX_CACHE"):
        prepared.prepare("x", [], (1, 4, 4))


def test_a_sample_is_spread_over_the_whole_set(monkeypatch):
    stored = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(4, 2).repeat(4, 3)
    table = ImageTable(stored, np.zeros(100, dtype=np.int64), [])
    assert len(table.sample()) == 100
    monkeypatch.setattr(images, "SAMPLE_BYTES", 10 * 64)
    values = (table.sample()[:, 0, 0, 0] + 1) * 127.5
    np.testing.assert_allclose(values, np.arange(10) * 11, atol=1e-4)
