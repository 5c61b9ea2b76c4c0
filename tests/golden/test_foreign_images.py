"""The reference run is asked about images that are no chest X-rays: it must not answer unflagged.

Small on purpose (21 trials, 5 images a set); benchmarks/out_of_distribution.py has the figures.
"""

import importlib.util
from pathlib import Path

import pytest

from diffdx.classifier import DiffusionClassifier
from diffdx.evaluation import read_predictions

ROOT = Path(__file__).parents[2]
TRIALS, IMAGES = 21, 5


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "out_of_distribution.py"
    spec = importlib.util.spec_from_file_location("benchmark_out_of_distribution", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answered_unflagged(benchmark, *names):
    """Share of the foreign images that triage answers and the gate lets pass."""
    classifier = DiffusionClassifier.from_pretrained(benchmark.RUN, num_trials=TRIALS)
    sets = {name: classifier.errors(benchmark.SETS[name](IMAGES)) for name in names}
    calib = read_predictions(benchmark.RUN / "errors" / "calib")
    # `judge` compares with val; here its place is taken by calib images.
    usual = calib.errors[:100, :, :TRIALS], calib.logsnr[:100, :TRIALS]
    cases = benchmark.judge(calib, {"val": usual, **sets}, TRIALS)
    assert cases[0]["flagged"] < 0.15  # 5% stated; four standard errors of 100 images are 9%
    assert all(case["auroc"] >= 0.95 for case in cases[1:])
    return [case["answered_and_unflagged"] for case in cases[1:]]


def test_noise_gets_no_unflagged_answer(benchmark):
    assert answered_unflagged(benchmark, "noise") == [0.0]


def test_other_images_get_no_unflagged_answer(benchmark):
    if not (benchmark.DATA / "isic-melanoma").is_dir():
        pytest.skip("the real images are not there (shared/data beside the project)")
    # At most 5%: of ten images none.
    assert answered_unflagged(benchmark, "dermoscopy", "inverted") == [0.0, 0.0]
