"""How to divide a CPU's cores among classifying processes: calls per second of the reference model.

    python benchmarks/processes.py

Compares one process with a thread for each core, one process for each core with one thread, and the
latter with freed memory kept in the process. Every case classifies the same 2 random images a
process x 501 trials x 2 classes after a warm-up. Writes benchmarks/results/processes.json. Measure
alone: another busy process changes everything.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from diffdx._device import cpu_name, resolve_device, resolve_precision
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "processes.json"
KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295"
IMAGES, TRIALS = 2, 501


def worker() -> None:
    """Print the seconds that this process needs for its images."""
    model = DiffusionModel.load(ROOT / "assets" / "cxr64")
    precision = resolve_precision("auto", resolve_device("cpu"))
    x = torch.rand(IMAGES, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def run(trials: int) -> None:
        results = denoising_errors(
            model.denoiser,
            model.schedule,
            x,
            TrialBank(),
            num_trials=trials,
            encode=model.transform.encode,
            precision=precision,
        )
        list(results)

    run(64)
    started = time.perf_counter()
    run(TRIALS)
    print(time.perf_counter() - started)


def measure(processes: int, threads: int, environment: dict[str, str]) -> float:
    """Return the calls per second of all processes together."""
    variables = os.environ | {"OMP_NUM_THREADS": str(threads)} | environment
    command = [sys.executable, __file__, "worker"]
    running = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    seconds = max(float(process.communicate()[0]) for process in running)
    return round(processes * IMAGES * TRIALS * 2 / seconds, 1)


def main() -> None:
    """Measure the three ways and write the result."""
    cores = os.cpu_count() or 1
    cases = [
        {"case": case, "calls_per_second": measure(processes, threads, environment)}
        for case, processes, threads, environment in (
            ("one process, a thread for each core", 1, cores, {}),
            ("a process for each core", cores, 1, {}),
            ("the same, keeping freed memory", cores, 1, {"GLIBC_TUNABLES": KEEP_MEMORY}),
        )
    ]
    precision = resolve_precision("auto", resolve_device("cpu"))
    result = {
        "name": "processes",
        "device": cpu_name(),
        "precision": precision,
        "threads": cores,
        "cases": cases,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(cases, indent=2))


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main()
