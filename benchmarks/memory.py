"""Memory and time of the engine against the number of images: flat, and linear.

    python benchmarks/memory.py [--counts 64 500 5000] [--trials 11]

Classifies so many generated images with the `tiny` preset (random weights, 32 px), each count in a
process of its own, and writes its peak memory and its time to benchmarks/results/memory.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffdx._device import cpu_name, resolve_device, resolve_precision
from diffdx._files import write_json
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.config import resolve_config

RESULT = Path(__file__).parent / "results" / "memory.json"


def run_apart(script: str, task: dict[str, Any]) -> dict[str, Any]:
    """Return what `python SCRIPT worker TASK` prints: a measurement in a process of its own."""
    command = [sys.executable, script, "worker", json.dumps(task)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(printed)
    return result


def peak_mib(device: torch.device) -> float:
    """Return the most memory this process held so far, in MiB: of the GPU, or resident."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike getrusage's, this peak does not begin with what the parent process held.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return round(int(line.split()[1]) / 2**10, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def measure(count: int, trials: int) -> dict[str, Any]:
    """Return time and memory of `count` images, generated as the engine asks for them."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    model = DiffusionModel(resolve_config("tiny").model, ("A", "B"))

    def images() -> Iterator[Tensor]:
        for seed in range(count):
            yield torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1

    started = time.perf_counter()
    results = denoising_errors(
        model.denoiser,
        model.schedule,
        images(),
        TrialBank(),
        num_trials=trials,
        encode=model.transform.encode,
        precision=resolve_precision("auto", device),
    )
    calls = sum(result.calls for result in results)
    return {
        "case": f"{count} images",
        "images": count,
        "calls_per_image": calls / count,
        "seconds_per_image": round((time.perf_counter() - started) / count, 5),
        "peak_mib": peak_mib(device),
    }


def main() -> None:
    """Measure every count and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 500, 5000])
    parser.add_argument("--trials", type=int, default=11)
    chosen = parser.parse_args()
    cases = []
    for count in chosen.counts:
        cases.append(run_apart(__file__, {"count": count, "trials": chosen.trials}))
        print(cases[-1])
    result = {
        "name": "memory",
        "device": cpu_name(),
        "precision": resolve_precision("auto", resolve_device("cpu")),
        "threads": torch.get_num_threads(),
        "trials": chosen.trials,
        "cases": cases,
    }
    write_json(RESULT, result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(measure(**json.loads(sys.argv[2]))))
    else:
        main()
