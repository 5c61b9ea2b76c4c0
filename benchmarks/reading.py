"""Reading and transforming against training: its share of the time; many files in little memory.

    python benchmarks/reading.py [--data ../shared/data/chest-xray] [--images 600] [--files 20000]

`share`: time to decode, resize and store so many images at 64 px, to load them again from the cache
and to take batches of them, against a training step of the `small` preset on the same thread: of a
step, and of a whole training of 10,000 steps that decodes the set first. `listing`: peak memory and
seconds of listing so many small files, as class folders, in a process of its own. Writes
benchmarks/results/reading.json.
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
from diffdx.config import resolve_config
from diffdx.data import open_dataset
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable, load_images
from diffdx.transforms.pixels import PixelSpec

RESULT = Path(__file__).parent / "results" / "reading.json"
REFERENCE_STEPS = 10_000


def measure_share(data: str, count: int) -> dict[str, Any]:
    """Return what reading costs per image and how large its part of a training is."""
    dataset = open_dataset(data)
    order = np.random.default_rng(0).permutation(len(dataset))[:count]
    records = [dataset.records[i] for i in order]
    spec = PixelSpec(64)
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DIFFDX_CACHE"] = cache
        for _ in range(2):
            start = time.perf_counter()
            images = load_images(dataset, records, spec, num_workers=1)
            seconds.append(time.perf_counter() - start)
        config = resolve_config("small", assignments=("train.steps=100000",))
        batch = config.train.batch_size
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        for _ in range(200):
            images.x(rng.integers(0, len(images), batch))
        per_batch = (time.perf_counter() - start) / 200
        per_step = _seconds_per_step(images, cache, config)
    whole = len(dataset) / len(records) * seconds[0]
    steps = REFERENCE_STEPS
    return {
        "images": len(records),
        "decode_ms_per_image": round(1000 * seconds[0] / len(records), 3),
        "cached_ms_per_image": round(1000 * seconds[1] / len(records), 4),
        "batch_ms": round(1000 * per_batch, 3),
        "step_ms": round(1000 * per_step, 1),
        "batch_size": batch,
        "share_of_a_step": round(per_batch / per_step, 5),
        "share_first_time": round((whole + steps * per_batch) / (whole + steps * per_step), 5),
    }


def _seconds_per_step(images: ImageTable, folder: str, config: Any) -> float:
    classes = tuple(sorted({str(record.label) for record in images.records}))
    model = DiffusionModel(config.model, classes, None)
    model.transform.fit(images.sample())
    cpu = torch.device("cpu")
    trainer = Trainer(model, images, config, Path(folder), device=cpu, precision="fp32")
    marks = []
    for _ in range(7):
        trainer.train_step(0.0)
        marks.append(time.perf_counter())
    return float(np.median(np.diff(marks)))


def list_many(task: dict[str, Any]) -> dict[str, Any]:
    """Return seconds and memory of listing a folder of class folders."""
    before = peak_mib(torch.device("cpu"))
    start = time.perf_counter()
    dataset = open_dataset(task["root"])
    seconds = time.perf_counter() - start
    dataset.fingerprint  # noqa: B018  it is what a run computes first
    return {
        "files": len(dataset),
        "seconds": round(seconds, 2),
        "with_fingerprint_seconds": round(time.perf_counter() - start, 2),
        "bytes_per_file": round((peak_mib(torch.device("cpu")) - before) * 2**20 / len(dataset)),
    }


def measure_listing(count: int) -> dict[str, Any]:
    """Write so many small files, then list them in a process of its own."""
    with tempfile.TemporaryDirectory() as root:
        first = Path(root) / "first.png"
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(first)
        content = first.read_bytes()
        first.unlink()
        for label in ("a", "b"):
            (Path(root) / label).mkdir()
            for i in range(count // 2):
                (Path(root) / label / f"{i:06d}.png").write_bytes(content)
        return run_apart(__file__, {"root": root})


def main() -> None:
    """Measure and write the result file."""
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(list_many(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="../shared/data/chest-xray")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--files", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "name": "reading",
        "device": cpu_name(),
        "threads": 1,
        "share": measure_share(options.data, options.images),
        "listing": measure_listing(options.files),
    }
    write_json(RESULT, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
