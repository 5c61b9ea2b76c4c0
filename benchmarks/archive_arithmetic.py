"""What an archive costs: hours, GPU-hours, storage and the bottleneck, with and without stopping.

    python benchmarks/archive_arithmetic.py [--images 200000 10000000] [--gpus 1 8 64]

Arithmetic:  hours = images / workers x max(calls per image x GFLOP per call / sustained GFLOP/s,
                                           seconds to decode an image / cores that decode)
Simulation:  images in blocks, each with a number of calls drawn from the replayed stopping times of
the reference model's calib images, given to workers as they become free; a worker dies now and then
and its block is done again. Measured: GFLOP per call (roofline-cpu.json), calls per second of a CPU
(presets.json), stopping times and bytes per image (the error store of calib). Assumed, and said so
in the result: what a GPU sustains, how long a file takes to decode, how often a worker dies.
Writes benchmarks/results/archive-arithmetic.json and prints the tables of the documentation.
"""

import argparse
import heapq
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffdx._files import write_json
from diffdx.classification.ray_engine import CALLS_PER_BLOCK, MAX_BLOCKS
from diffdx.classification.stopping import stopping_rule, truncated
from diffdx.classification.store import read_errors
from diffdx.classification.voting import count_trials

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
STORE = ROOT / "assets" / "cxr64" / "errors" / "calib" / "errors.parquet"
STOPS = ("none", "0.01")
NETWORKS = ("small", "paper-unet")


@dataclass(frozen=True)
class Assumed:
    """What is not measured here.

    Attributes:
        gpu_gflops: Sustained by a GPU in bf16; half of an H100's peak by its data sheet.
        decode_ms: Reading and decoding one radiograph of full size, on one core.
        cores_per_gpu: CPU cores that decode for a GPU.
        deaths_per_worker_day: How often a worker dies (preempted, out of memory, a failed node).
        restart_seconds: Until a dead worker has loaded its model again.
    """

    gpu_gflops: float = 400_000.0
    decode_ms: float = 20.0
    cores_per_gpu: int = 12
    deaths_per_worker_day: float = 1.0
    restart_seconds: float = 60.0


def simulated_hours(
    calls: np.ndarray,
    images: int,
    workers: int,
    calls_per_second: float,
    reading_seconds: float,
    assumed: Assumed,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Return wall hours and the share of the workers' time that was not wasted.

    Args:
        calls: Calls of images, to draw from.
        images: How many there are.
        workers: How many work side by side.
        calls_per_second: Of a worker.
        reading_seconds: Of an image, while the network is at work on others.
        assumed: See there.
        generator: Of the draws.
    """
    size = max(1, int(CALLS_PER_BLOCK // calls.max()), -(-images // MAX_BLOCKS))
    blocks = -(-images // size)
    # The sum over a block of independent draws, by its mean and deviation.
    work = generator.normal(calls.mean() * size, calls.std() * size**0.5, blocks)
    seconds = np.maximum(np.maximum(work, size) / calls_per_second, size * reading_seconds)
    free = [0.0] * workers
    per_second = assumed.deaths_per_worker_day / 86_400
    for block in seconds:
        start = heapq.heappop(free)
        while (death := generator.exponential(1 / per_second)) < block:
            start += death + assumed.restart_seconds
        heapq.heappush(free, start + block)
    end = max(free)
    return {"hours": end / 3600, "useful": float(seconds.sum()) / (workers * end)}


def stopping_calls() -> dict[str, np.ndarray]:
    """Return the calls of every calib image under each stop."""
    _, errors, logsnr = read_errors(STORE)
    _, num_classes, num_trials = errors.shape
    found = {}
    for stop in STOPS:
        kept = errors
        if stop != "none":
            rule = stopping_rule(stop, rule="vote", num_classes=num_classes, num_trials=num_trials)
            assert rule is not None
            kept = truncated(errors, logsnr, rule)
        found[stop] = count_trials(kept) * num_classes
    return found


def cases(images: list[int], gpus: list[int], assumed: Assumed) -> list[dict[str, Any]]:
    """Return a case for each archive, network, stop and number of workers."""
    flops = {
        case["case"]: case["gflop_per_call"]["shared"]
        for case in json.loads((RESULTS / "roofline-cpu.json").read_text())["cases"]
    }
    speed = {
        case["case"]: case["calls_per_second"]
        for case in json.loads((RESULTS / "presets.json").read_text())["cases"]
    }
    calls, generator = stopping_calls(), np.random.default_rng(0)
    found = []
    for count in images:
        for network in NETWORKS:
            rates = {f"{n} GPU": (n, assumed.gpu_gflops / flops[network]) for n in gpus}
            if network in speed:
                rates["32 CPU cores"] = (16, speed[network])
            for stop in STOPS:
                for name, (workers, rate) in rates.items():
                    cores = assumed.cores_per_gpu if "GPU" in name else 2
                    reading = assumed.decode_ms / 1000 / cores
                    per_image = float(calls[stop].mean()) / rate
                    run = simulated_hours(
                        calls[stop], count, workers, rate, reading, assumed, generator
                    )
                    found.append(
                        {
                            "images": count,
                            "network": network,
                            "stop": stop,
                            "machine": name,
                            "calls_per_image": round(float(calls[stop].mean()), 1),
                            "hours_by_arithmetic": count * max(per_image, reading) / workers / 3600,
                            "hours_simulated": run["hours"],
                            "worker_hours": run["hours"] * workers,
                            "useful": run["useful"],
                            "reading_over_network": reading / per_image,
                            "bottleneck": "reading" if reading > per_image else "network",
                        }
                    )
    return found


def storage(images: int) -> dict[str, float]:
    """Return the gigabytes that an archive's results take, from the calib store's bytes."""
    ids, _, _ = read_errors(STORE)
    per_image = STORE.stat().st_size / len(ids)
    rows = (STORE.parent / "predictions.parquet").stat().st_size / len(ids)
    return {
        "images": images,
        "errors_gb": images * per_image / 1e9,
        "predictions_gb": images * rows / 1e9,
        "bytes_of_errors_per_image": per_image,
    }


def table(found: list[dict[str, Any]]) -> str:
    """Return the cases as a Markdown table."""
    lines = [
        "| images | network | stop | machine | calls/image | hours | worker-hours | bottleneck |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in found:
        hours = f"{c['hours_simulated']:,.2f}"
        lines.append(
            f"| {c['images']:,} | {c['network']} | {c['stop']} | {c['machine']} | "
            f"{c['calls_per_image']:.0f} | {hours} | {c['worker_hours']:,.1f} | {c['bottleneck']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compute, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, nargs="+", default=[200_000, 10_000_000])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8])
    chosen = parser.parse_args()
    assumed = Assumed()
    found = cases(chosen.images, chosen.gpus, assumed)
    result = {
        "name": "archive-arithmetic",
        "assumed": asdict(assumed),
        "storage": [storage(count) for count in chosen.images],
        "cases": found,
    }
    write_json(RESULTS / "archive-arithmetic.json", result)
    print(table(found))
    print(json.dumps(result["storage"], indent=2))


if __name__ == "__main__":
    main()
