"""The Ray engine: the local engine's results, whoever dies on the way."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx.classification import ray_engine
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.cli.app import app
from diffdx.data import open_dataset
from diffdx.errors import ConfigError, DataError, WorkerError

ray = pytest.importorskip("ray", reason="needs the extra 'cluster'")

ROOT = Path(__file__).parents[2]
SETTINGS = ClassifySettings(
    num_trials=3, bank_size=5, device="cpu", precision="fp32", deterministic=True
)
FILES = ("errors.parquet", "predictions.parquet", "predictions.csv")
ONE_IMAGE_A_BLOCK = 6


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("NORMAL", "PNEUMONIA")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Seven good images and one that is cut short."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    bad = root / "3.png"
    bad.write_bytes(bad.read_bytes()[:150])
    return open_dataset(root)


@pytest.fixture(scope="module")
def local(model, dataset, tmp_path_factory):
    return classify_dataset(model, dataset, tmp_path_factory.mktemp("local"), SETTINGS)


@pytest.fixture(scope="module")
def engine():
    # The workers are processes of their own: they import the package from here.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray_engine.RayEngine(actors=2)
    ray.shutdown()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def same_files(a, b):
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in FILES)


def workers():
    """Process ids of the actors on this machine that hold a model."""
    import psutil

    family = psutil.Process().children(recursive=True)
    return [p.pid for p in family if "MapWorker" in " ".join(p.cmdline()[:1])]


def test_a_cluster_gives_the_local_bytes_though_a_worker_dies(
    engine, model, dataset, local, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "CALLS_PER_BLOCK", ONE_IMAGE_A_BLOCK)
    killed, steps = [], []

    def kill_one(done, total):
        steps.append((done, total))
        if not killed:
            killed.extend(workers()[:1])
            os.kill(killed[0], signal.SIGKILL)

    result = classify_dataset(model, dataset, tmp_path, SETTINGS, kill_one, engine)
    assert killed
    assert same_files(tmp_path, local.folder)
    assert result.n_failed == 1
    assert steps == [(i, 8) for i in range(1, 9)], "each image once"
    assert (result.info["engine"], result.info["processes"]) == ("ray", 2)
    assert not list(tmp_path.glob("errors.parts"))


@pytest.mark.slow
def test_without_deterministic_the_engines_agree_to_rounding(engine, model, dataset, tmp_path):
    loose = replace(SETTINGS, deterministic=False, precision="auto", device="auto")
    a, b = (
        classify_dataset(model, dataset, tmp_path / name, loose, engine=one).table
        for name, one in (("local", None), ("ray", engine))
    )
    names = [name for name in a if name.startswith("mean_error_")]
    assert b["image_id"].tolist() == a["image_id"].tolist()
    np.testing.assert_allclose(b[names], a[names], rtol=1e-4)


@pytest.mark.slow
def test_a_bad_image_ends_a_strict_run_and_what_is_done_is_kept(engine, model, dataset, tmp_path):
    with pytest.raises(DataError, match=r"3\.png"):
        classify_dataset(model, dataset, tmp_path, replace(SETTINGS, strict=True), None, engine)
    assert not (tmp_path / "predictions.parquet").exists()


class Deadly:
    """A source whose third image ends the process that reads it, as the system's killer would."""

    def __init__(self, inner):
        self.inner = inner

    def pixels(self, record):
        if record.image_id == "2.png":
            os._exit(9)
        return self.inner.pixels(record)

    def mask(self, record):
        return None

    def stamp(self, record):
        return self.inner.stamp(record)


class Broken(Deadly):
    """A source with a fault of its own."""

    def pixels(self, record):
        raise KeyError("no such thing")


@pytest.mark.slow
def test_an_image_that_kills_every_worker_fails_and_the_others_go_on(
    engine, model, dataset, local, tmp_path, monkeypatch
):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_engine, "RETRIES", 1)
    monkeypatch.setattr(ray_engine, "CALLS_PER_BLOCK", ONE_IMAGE_A_BLOCK)
    deadly = replace(dataset, source=Deadly(dataset.source))
    table = classify_dataset(model, deadly, tmp_path, SETTINGS, None, engine).table
    failed = table[table["status"] == "error"]
    assert failed["image_id"].tolist() == ["2.png", "3.png"]
    assert "workers died on this image" in failed["error"].iloc[0]
    others = ~table["image_id"].isin(failed["image_id"])
    pd.testing.assert_frame_equal(table[others], local.table[others])


@pytest.mark.slow
def test_a_fault_of_a_worker_is_told_in_one_line(engine, model, dataset, tmp_path):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    broken = replace(dataset, source=Broken(dataset.source))
    with pytest.raises(WorkerError, match=r"a worker failed \(KeyError: 'no such thing'\)"):
        classify_dataset(model, broken, tmp_path, SETTINGS, None, engine)


DRIVER = """
import sys
from diffdx.classification import ray_engine, store
ray_engine.CALLS_PER_BLOCK = store._ROWS_PER_PART = 6
from diffdx.cli.app import main
main()
"""


@pytest.mark.slow
def test_a_killed_driver_is_started_again_and_nothing_is_lost_or_doubled(
    model, dataset, local, tmp_path
):
    model.save(tmp_path / "model")
    out = tmp_path / "out"
    folder = str(Path(dataset.records[0].path).parent)
    command = ["classify", str(tmp_path / "model"), folder, f"--out={out}", "--trials=3"]
    command += ["--bank=5", "--device=cpu", "--precision=fp32", "--deterministic", "--engine=ray"]
    start = [sys.executable, "-c", DRIVER, *command, "--actors=2"]
    first = subprocess.Popen(start, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and not list(out.glob("errors.parts/*.parquet")):
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert not (out / "errors.parquet").exists()
    again = subprocess.run(start, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 3, again.stderr
    for name in ("errors.parquet", "predictions.parquet"):
        pd.testing.assert_frame_equal(*(pd.read_parquet(f / name) for f in (out, local.folder)))


def test_blocks_hold_every_record_once(dataset):
    for actors, calls in ((1, 1), (2, 6), (3, 10**6), (20, 2)):
        blocks = [pickle.loads(block["block"]) for block in ray_engine._blocks(
            dataset.records, calls, actors)]  # fmt: skip
        assert [r for _, records in blocks for r in records] == dataset.records
        assert [first for first, _ in blocks] == list(
            np.cumsum([0, *(len(records) for _, records in blocks[:-1])])
        )
        assert len(blocks) >= min(actors, len(dataset)) - 1


def test_many_images_make_larger_blocks_not_more(monkeypatch, dataset):
    monkeypatch.setattr(ray_engine, "MAX_BLOCKS", 3)
    assert len(ray_engine._blocks(dataset.records, 10**6, 1)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": True}, "leave out --engine ray"),
        ({"device": "cuda"}, "room for 0 actors of 1 cores on cuda"),
    ],
)
def test_what_the_cluster_cannot_do_is_refused(engine, change, message):
    with pytest.raises(ConfigError, match=message):
        engine.resolved(replace(SETTINGS, **change))


@pytest.mark.slow
def test_settings_that_the_workers_refuse_are_told_as_here(engine):
    with pytest.raises(ConfigError, match="--precision fp16 needs a GPU"):
        engine.resolved(replace(SETTINGS, precision="fp16"))


@pytest.mark.parametrize(("actors", "cores"), [(0, 1), (None, 0)])
def test_no_actors_and_no_cores_make_no_sense(actors, cores):
    with pytest.raises(ConfigError, match="at least 1"):
        ray_engine.RayEngine(actors, cores)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffdx\[cluster\]'"):
        ray_engine.RayEngine()


def test_actors_without_a_cluster_are_refused(tmp_path, model, dataset):
    model.save(tmp_path)
    folder = str(Path(dataset.records[0].path).parent)
    result = CliRunner().invoke(app, ["classify", str(tmp_path), folder, "--actors=2"])
    assert result.exit_code == 2
    assert "leave out --actors" in result.stderr
