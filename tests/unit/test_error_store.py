"""The error store: what goes in comes out, cut runs end as uncut, foreign files are refused."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from diffdx.classification import store as store_module
from diffdx.classification.store import (
    ERRORS_FILE,
    PARTS_FOLDER,
    ErrorStore,
    read_errors,
    read_in_parts,
)
from diffdx.errors import CheckpointError, ConfigError, DataError

CLASSES, SETTINGS = ("NORMAL", "SICK"), {"seed": 0, "trials": 5, "model_sha256": "abc"}
IDS = [f"a/{i}.png" for i in range(9)]


@pytest.fixture
def results():
    rng = np.random.default_rng(0)
    errors = rng.uniform(0, 2, (9, 2, 5)).astype(np.float32)
    return errors, rng.uniform(-10, 10, (9, 5)).astype(np.float32)


def fill(store, results, images):
    for i in images:
        store.add(IDS[i], results[0][i], results[1][i])


def test_errors_come_back_as_they_were_in_input_order(tmp_path, results):
    store = ErrorStore(tmp_path, CLASSES, SETTINGS)
    fill(store, results, [4, 0, 8, 2, 1, 3, 7, 5, 6])
    path = store.merge(IDS)
    image_ids, errors, logsnr = read_errors(path, CLASSES)
    assert image_ids == IDS
    assert errors.dtype == np.float32
    assert np.array_equal(errors, results[0])
    assert np.array_equal(logsnr, results[1])
    assert np.array_equal(read_errors(path, CLASSES[::-1])[1], results[0][:, ::-1])
    assert np.array_equal(read_errors(path)[1], results[0])


def test_the_file_has_the_documented_columns(tmp_path, results):
    store = ErrorStore(tmp_path, CLASSES, SETTINGS)
    fill(store, results, range(9))
    table = pd.read_parquet(store.merge(IDS))
    types = {name: str(kind) for name, kind in table.dtypes.items()}
    assert types.pop("stopped_by") == types.pop("image_id")
    floats = dict.fromkeys(["logsnr", "error_NORMAL", "error_SICK"], "float32")
    assert types == {"trial": "int16"} | floats
    assert table["image_id"].tolist() == [i for i in IDS for _ in range(5)]
    assert table["trial"].tolist() == [0, 1, 2, 3, 4] * 9
    codec = pq.ParquetFile(tmp_path / ERRORS_FILE).metadata.row_group(0).column(3).compression
    assert codec == "ZSTD"


@pytest.mark.parametrize("rows_per_part", [1, 12, 10_000])
def test_a_run_cut_anywhere_ends_in_the_same_bytes(tmp_path, results, rows_per_part, monkeypatch):
    whole = ErrorStore(tmp_path / "whole", CLASSES, SETTINGS)
    fill(whole, results, range(9))
    expected = whole.merge(IDS).read_bytes()

    monkeypatch.setattr(store_module, "_ROWS_PER_PART", rows_per_part)
    first = ErrorStore(tmp_path / "cut", CLASSES, SETTINGS)
    fill(first, results, [0, 1, 2, 3])
    # The process dies here: what was not flushed is gone.
    second = ErrorStore(tmp_path / "cut", CLASSES, SETTINGS)
    assert second.finished <= set(IDS[:4])
    fill(second, results, [i for i in range(9) if IDS[i] not in second.finished])
    path = second.merge(IDS)
    assert path.read_bytes() == expected
    assert [p.name for p in path.parent.iterdir()] == [ERRORS_FILE]

    third = ErrorStore(tmp_path / "cut", CLASSES, SETTINGS)
    assert third.finished == set(IDS)
    assert third.merge(IDS).read_bytes() == expected


@pytest.mark.parametrize("rows_per_group", [1, 3, 7, 1000])
def test_row_groups_may_cut_images_and_parts_of_the_store_are_the_whole(
    tmp_path, results, rows_per_group, monkeypatch
):
    monkeypatch.setattr(store_module, "_ROWS_PER_GROUP", rows_per_group)
    for order in (IDS, IDS[::-1]):
        store = ErrorStore(tmp_path, CLASSES, SETTINGS)
        fill(store, results, [i for i in range(9) if IDS[i] not in store.finished])
        whole = read_errors(store.merge(order))
        assert whole[0] == order
        assert np.array_equal(whole[1], results[0][[IDS.index(i) for i in order]])
    path = tmp_path / ERRORS_FILE
    if rows_per_group < 5:
        return  # the number of trials is read from the first group, which is larger in truth
    for images in (1, 4, 9, 100):
        parts = list(read_in_parts(path, CLASSES, images=images))
        assert [len(part.image_ids) for part in parts[:-1]] == [images] * (len(parts) - 1)
        assert [i for part in parts for i in part.image_ids] == order
        assert np.array_equal(np.concatenate([part.errors for part in parts]), whole[1])
        assert np.array_equal(np.concatenate([part.logsnr for part in parts]), whole[2])
        assert all(part.stops == dict.fromkeys(part.image_ids, "none") for part in parts)


def test_an_image_that_two_processes_stored_is_kept_once(tmp_path, results):
    first, second = (ErrorStore(tmp_path, CLASSES, SETTINGS, writer=w) for w in ("1of2", "2of2"))
    fill(first, results, [0, 1])
    fill(second, results, [1, 2])
    first.flush()
    second.flush()
    image_ids, errors, _ = read_errors(first.merge(IDS))
    assert image_ids == IDS[:3]
    assert np.array_equal(errors, results[0][:3])


def test_images_that_failed_or_are_not_asked_for_are_left_out(tmp_path, results):
    store = ErrorStore(tmp_path, CLASSES, SETTINGS)
    fill(store, results, [0, 1, 2])
    store.merge(["failed.png", IDS[2], IDS[0]])
    assert read_errors(tmp_path / ERRORS_FILE)[0] == [IDS[2], IDS[0]]


def test_a_store_without_images_is_readable(tmp_path):
    image_ids, errors, logsnr = read_errors(ErrorStore(tmp_path, CLASSES, SETTINGS).merge(IDS))
    assert image_ids == []
    assert errors.shape == (0, 2, 0)
    assert logsnr.shape == (0, 0)


def test_stopped_trials_and_eliminated_classes_are_null_in_the_file(tmp_path, results):
    errors = results[0][:1].copy()
    errors[0, :, 4] = np.nan
    errors[0, 1, 2] = np.nan
    store = ErrorStore(tmp_path, CLASSES, SETTINGS)
    store.add(IDS[0], errors[0], results[1][0])
    path = store.merge(IDS)
    assert pq.read_table(path)["error_SICK"].null_count == 2
    _, back, _ = read_errors(path)
    assert np.isnan(back[0, :, 4]).all()
    assert back[0, 1, 2] == np.inf
    assert np.isfinite(back).sum() == 7


def test_errors_of_other_settings_are_refused_with_the_difference(tmp_path, results):
    fill(store := ErrorStore(tmp_path, CLASSES, SETTINGS), results, [0])
    store.flush()
    with pytest.raises(ConfigError, match=r"trials: 5 there, 7 now.*--overwrite"):
        ErrorStore(tmp_path, CLASSES, SETTINGS | {"trials": 7})
    with pytest.raises(ConfigError, match="classes"):
        ErrorStore(tmp_path, CLASSES[::-1], SETTINGS)
    store.merge(IDS)
    with pytest.raises(ConfigError, match="seed"):
        ErrorStore(tmp_path, CLASSES, SETTINGS | {"seed": 1})
    fresh = ErrorStore(tmp_path, CLASSES, SETTINGS | {"seed": 1}, overwrite=True)
    assert fresh.finished == set()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 7, 300])
def test_a_file_cut_short_is_named(tmp_path, results, keep):
    fill(store := ErrorStore(tmp_path, CLASSES, SETTINGS), results, range(9))
    path = store.merge(IDS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=ERRORS_FILE):
        read_errors(path)
    with pytest.raises(CheckpointError, match="damaged"):
        ErrorStore(tmp_path, CLASSES, SETTINGS)


def test_a_damaged_part_is_named(tmp_path, results):
    fill(store := ErrorStore(tmp_path, CLASSES, SETTINGS), results, range(9))
    store.flush()
    (part,) = (tmp_path / PARTS_FOLDER).iterdir()
    content = bytearray(part.read_bytes())
    content[10:200] = bytes(190)
    part.write_bytes(content)
    with pytest.raises(CheckpointError, match="part-all-000000"):
        ErrorStore(tmp_path, CLASSES, SETTINGS).merge(IDS)
    with pytest.raises(CheckpointError, match="absent"):
        read_errors(tmp_path / "absent.parquet")


def test_a_parquet_file_that_is_no_error_store_of_these_classes_is_refused(tmp_path, results):
    foreign = tmp_path / "foreign.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    with pytest.raises(DataError, match="image_id"):
        read_errors(foreign)
    fill(store := ErrorStore(tmp_path, CLASSES, SETTINGS), results, range(9))
    path = store.merge(IDS)
    with pytest.raises(DataError, match="error_OTHER"):
        read_errors(path, ["NORMAL", "OTHER"])
    table = pd.read_parquet(path)
    table.drop(columns=["error_NORMAL", "error_SICK"]).to_parquet(foreign)
    with pytest.raises(DataError, match=r"error_\*"):
        read_errors(foreign)
    for rows in (slice(0, 44), slice(None, None, -1)):
        table[rows].to_parquet(foreign)
        with pytest.raises(DataError, match="different or unordered trials"):
            read_errors(foreign)
