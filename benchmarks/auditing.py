"""Time and memory of the audit against the number of images: both linear.

    python benchmarks/auditing.py [--counts 1000 5000 20000]

Writes so many small PNG files (random blobs, two classes, three images a patient) into a temporary
folder with a metadata.csv, audits them as `diffdx audit` does without a cache, each count in a
process of its own, and writes time and peak memory to benchmarks/results/auditing.json. Of every
thousand images one is stored twice: all copies must be found.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffdx._device import cpu_name
from diffdx._files import write_json

RESULT = Path(__file__).parent / "results" / "auditing.json"
SIDE = 28
COPY_EVERY = 1000


def write_images(folder: Path, count: int) -> None:
    """Write `count` images of smooth noise with a table of labels, patients and ages."""
    rng = np.random.default_rng(0)
    picture = smooth_noise(rng)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient_id", "age"])
        for i in range(count):
            if i % COPY_EVERY:
                picture = smooth_noise(rng)
            part = folder / f"{i // 1000:03d}"
            part.mkdir(exist_ok=True)
            picture.save(part / f"{i:06d}.png")
            label = "ab"[i // 3 % 2]
            table.writerow([f"{part.name}/{i:06d}.png", label, f"p{i // 3}", rng.integers(20, 90)])


def smooth_noise(rng: np.random.Generator) -> Image.Image:
    """Return a grey image of 28 x 28 pixels with structures of four."""
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7), dtype=np.uint8))
    return coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def peak_mib() -> float:
    """Return the most memory this process held so far, in MiB (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(x for x in status if x.startswith("VmHWM")).split()[1]) / 2**10, 1)


def measure(folder: str, count: int) -> dict[str, Any]:
    """Return time and memory of listing and auditing the folder."""
    from diffdx.data import make_splits, open_dataset
    from diffdx.data.audit.run import run_audit
    from diffdx.data.audit.subject import subject_of_dataset

    started = time.perf_counter()
    before = peak_mib()
    dataset = open_dataset(folder, positive="b")
    listed = time.perf_counter()
    found = run_audit(subject_of_dataset(dataset, make_splits(dataset)))
    checks = {check.name: check for check in found.checks}
    copies = checks["exact_duplicates"].value
    assert copies == (count - 1) // COPY_EVERY, f"{copies} of {(count - 1) // COPY_EVERY} copies"
    return {
        "case": f"{count} images",
        "images": count,
        "listing_seconds": round(listed - started, 2),
        "seconds_per_image": round((time.perf_counter() - started) / count, 6),
        "peak_mib": peak_mib(),
        "peak_mib_before": before,
        "agreement": f"{copies} of {copies} copies found, near duplicates "
        f"{checks['near_duplicates'].value}",
    }


def main() -> None:
    """Measure every count and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 20000])
    cases = []
    for count in parser.parse_args().counts:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), count)
            command = [sys.executable, __file__, "worker", folder, str(count)]
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        case = json.loads(printed)
        print(json.dumps(case), flush=True)
        cases.append(case)
    result = {"name": "audit", "device": f"cpu, {cpu_name()}", "precision": "none", "threads": 1}
    write_json(RESULT, result | {"cases": cases})


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
