"""Ray against the local engine: the same output whoever is killed, and what Ray costs.

    python benchmarks/ray_engine.py RUN DATA [--split val] [--limit 624] [--trials 51]

On images of one role, as inputs only (no metric is computed):

1. the local engine, and two Ray workers: equal in every byte under --deterministic, and to rounding
   without; time of both on the same cores, with the start of the actors but not of Ray itself;
2. a worker is killed half-way, then the driver; the same command is given again: still equal,
   nothing lost or doubled.

Writes benchmarks/results/ray-engine.json. Measure alone: another busy process changes the times.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffdx._device import cpu_name
from diffdx._files import write_json

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "ray-engine.json"
FILES = ("errors.parquet", "predictions.parquet", "predictions.csv")
PROGRAM = "from diffdx.cli.app import main; main()"
# So that there is a half-way with few images.
SMALL_BLOCKS = "from diffdx.classification import ray_engine as r; r.CALLS_PER_BLOCK = 2048; "


def start(arguments: list[str], program: str = PROGRAM) -> subprocess.Popen[str]:
    """Start a `diffdx` command."""
    threads = {"OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | threads,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a command, which must be a good one."""
    errors = process.communicate()[1]
    assert process.returncode == 0, errors


def same(a: Path, b: Path) -> bool:
    """Say whether two predictions folders hold the same bytes."""
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in FILES)


def largest_difference(a: Path, b: Path) -> float:
    """Return the largest relative difference of two error stores of the same images and trials."""
    one, two = (pd.read_parquet(folder / "errors.parquet") for folder in (a, b))
    assert one["image_id"].equals(two["image_id"])
    names = [name for name in one if name.startswith("error_")]
    return float(np.max(np.abs(one[names].to_numpy() / two[names].to_numpy() - 1)))


def rate(folder: Path) -> float:
    """Return a run's images per second, from its own record."""
    return float(json.loads((folder / "classify.json").read_text())["images_per_second"])


def parts(folder: Path) -> int:
    """Return how many parts of a store are there."""
    return len(list((folder / "errors.parts").glob("part-*.parquet")))


def workers_of(process: int) -> list[int]:
    """Return the ids of the Ray workers with a model among a process' descendants."""
    import psutil

    family = psutil.Process(process).children(recursive=True)
    return [p.pid for p in family if "MapWorker" in " ".join(p.cmdline()[:1])]


def killed(arguments: list[str], out: Path, number_of_parts: int) -> dict[str, Any]:
    """Kill a worker after a third of the parts and the driver after two thirds; start again."""
    first = start(arguments, SMALL_BLOCKS + PROGRAM)

    def wait_for(number: int) -> None:
        while parts(out) < number:
            assert first.poll() is None, "too short a job: give more images or trials"
            time.sleep(0.02)

    wait_for(number_of_parts // 3)
    os.kill(workers_of(first.pid)[0], signal.SIGKILL)
    wait_for(2 * number_of_parts // 3)
    first.kill()
    first.wait()
    kept = parts(out)
    done(start(arguments))
    return {"parts_kept_when_the_driver_died": kept, "parts_in_all": number_of_parts}


def main() -> None:
    """Run, kill, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=624)
    parser.add_argument("--trials", type=int, default=51)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    work = chosen.work or Path(tempfile.mkdtemp(prefix="ray-"))
    common = ["classify", chosen.run, chosen.data, "--split", chosen.split, "--device=cpu", "-q"]
    common += [f"--limit={chosen.limit}", f"--trials={chosen.trials}", "--bank=501"]
    ray = ["--engine=ray", "--actors=2"]
    cases: dict[str, dict[str, Any]] = {}
    for name, more in (("deterministic", ["--deterministic"]), ("default", [])):
        local, cluster = work / f"local-{name}", work / f"ray-{name}"
        done(start([*common, *more, f"--out={local}"]))
        done(start([*common, *more, *ray, f"--out={cluster}"]))
        cases[name] = {
            "same_bytes": same(local, cluster),
            "largest_relative_difference": largest_difference(local, cluster),
            "local_images_per_second": rate(local),
            "ray_images_per_second": rate(cluster),
            "overhead": rate(local) / rate(cluster) - 1,
        }
        print(name, cases[name], flush=True)
    out = work / "killed"
    images = int(json.loads((work / "local-deterministic" / "classify.json").read_text())["n"])
    in_all = images * chosen.trials // 4096
    cases["killed"] = killed([*common, "--deterministic", *ray, f"--out={out}"], out, in_all)
    cases["killed"]["same_bytes"] = same(work / "local-deterministic", out)
    print("killed", cases["killed"], flush=True)
    result = {
        "name": "ray-engine",
        "device": cpu_name(),
        "precision": "auto",
        "threads": os.cpu_count(),
        "images": images,
        "trials": chosen.trials,
        "cases": cases,
    }
    write_json(chosen.result, result)


if __name__ == "__main__":
    main()
