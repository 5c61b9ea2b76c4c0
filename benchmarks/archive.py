"""Classifying an archive: memory that does not grow, time that grows with the images.

    python benchmarks/archive.py DATA [--counts 5000 10000 20000] [--trials 11] [--work FOLDER]

Repeats the images of DATA (the chest X-rays) at 32 px with noise of their own until there are
enough, writes them as files, and classifies the first so many of them by `classify` with the `tiny`
preset (random weights), each count in a process of its own. Writes benchmarks/results/archive.json:
peak memory, and processor time, which another busy process cannot stretch.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak_mib, run_apart
from PIL import Image

from diffdx._device import cpu_name
from diffdx._files import write_json
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.config import resolve_config
from diffdx.data import open_dataset

RESULT = Path(__file__).parent / "results" / "archive.json"
SIDE_PX = 32
NOISE = 8.0
"""Standard deviation, of 255."""


def write_images(data: str, folder: Path, count: int, base: int) -> None:
    """Write `count` images: the first `base` of the dataset, again and again, each with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(data)
    small = []
    for record in dataset.records[:base]:
        grey = Image.fromarray(dataset.pixels(record)).convert("L")
        small.append(np.asarray(grey.resize((SIDE_PX, SIDE_PX)), dtype=np.float64))
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if not path.exists():
            noise = np.random.default_rng(number).normal(0, NOISE, (SIDE_PX, SIDE_PX))
            noisy = np.clip(small[number % len(small)] + noise, 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(path)


def measure(images: str, out: str, count: int, trials: int) -> dict[str, Any]:
    """Classify the first `count` images; return time and memory of this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = DiffusionModel(resolve_config("tiny").model, ("A", "B"))
    dataset = open_dataset(images)
    dataset = dataset.subset(dataset.records[:count])
    settings = ClassifySettings(
        num_trials=trials, bank_size=trials, device="cpu", overwrite=True, precision="auto"
    )
    before, started = peak_mib(torch.device("cpu")), time.perf_counter()
    busy = time.process_time()
    result = classify_dataset(model, dataset, Path(out), settings)
    busy = time.process_time() - busy
    assert result.table is not None
    assert (result.table["trials_used"] == trials).all()
    size = sum(path.stat().st_size for path in Path(out).iterdir() if path.is_file())
    return {
        "case": f"{count} images",
        "images": count,
        "calls_per_image": result.info["calls"] / count,
        "processor_seconds_per_image": round(busy / count, 6),
        "seconds_per_image": round((time.perf_counter() - started) / count, 6),
        "peak_mib_before": before,
        "peak_mib": peak_mib(torch.device("cpu")),
        "bytes_per_image": round(size / count, 1),
        "precision": result.info["precision"],
    }


def main() -> None:
    """Write the images, measure every count, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", help="the chest X-rays")
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 10000, 20000])
    parser.add_argument("--trials", type=int, default=11)
    parser.add_argument("--base", type=int, default=2000, help="different images")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    work = chosen.work or Path(tempfile.mkdtemp(prefix="archive-"))
    write_images(chosen.data, work / "images", max(chosen.counts), chosen.base)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cases = []
    for count in chosen.counts:
        task = {"images": str(work / "images"), "out": str(work / "out"), "count": count}
        cases.append(run_apart(__file__, task | {"trials": chosen.trials}))
        print(cases[-1], flush=True)
    result = {
        "name": "archive",
        "device": cpu_name(),
        "precision": cases[0].pop("precision"),
        "threads": 1,
        "trials": chosen.trials,
        "cases": [{k: v for k, v in case.items() if k != "precision"} for case in cases],
    }
    write_json(chosen.result, result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(measure(**json.loads(sys.argv[2]))))
    else:
        main()
