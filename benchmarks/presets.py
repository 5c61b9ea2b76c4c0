"""Speed and size of the presets: what `--preset` costs on this machine.

    python benchmarks/presets.py [--precision auto|fp32|bf16]

Writes benchmarks/results/presets.json: for each preset and precision the parameters, network calls
per second in classification (batches of 64 rows) and images per second in training (its own batch
size), each the median of five measurements after one that is not counted. Measure alone: a second
busy process on the same cores changes everything.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from diffdx._device import Precision, cpu_name, resolve_device, resolve_precision
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.config import PRESETS, RunConfig, resolve_config
from diffdx.data.dataset import Record
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable

RESULT = Path(__file__).parent / "results" / "presets.json"
REPEATS = 5
IMAGES, TRIALS = 2, 32


def median_seconds(action: Callable[[], object]) -> float:
    """Return the median time of an action over REPEATS runs, after one that is not counted."""
    action()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(config: RunConfig, device: torch.device, precision: Precision) -> dict[str, object]:
    """Return size and speed of one preset."""
    model = DiffusionModel(config.model, ("A", "B"), "B")
    side = config.model.data.image_size
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (64, config.model.data.channels, side, side)).astype(np.uint8)
    labels = np.arange(64) % 2
    images = ImageTable(stored, labels, [Record(str(i), "") for i in range(64)])
    trainer = Trainer(model, images, config, Path(), device=device, precision=precision)

    def classify() -> None:
        results = denoising_errors(
            trainer.ema.ema_model.denoiser,
            model.schedule,
            images.x(slice(0, IMAGES)),
            TrialBank(size=TRIALS),
            num_trials=TRIALS,
            encode=model.transform.encode,
            device=device,
            precision=precision,
        )
        list(results)

    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "image_size": side,
        "calls_per_second": round(IMAGES * TRIALS * 2 / median_seconds(classify), 1),
        "training_images_per_second": round(
            config.train.batch_size / median_seconds(trainer.train_step), 1
        ),
    }


def main() -> None:
    """Measure every preset and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    device = resolve_device("auto")
    precision = resolve_precision(parser.parse_args().precision, device)
    cases = []
    # The paper's networks are measured by engine.py.
    for name in [name for name in PRESETS if not name.startswith("paper-")]:
        config = resolve_config(name, options={"train.steps": 1_000_000})
        case = {"case": name, **measure(config, device, precision)}
        print(case)
        cases.append(case)
    result = {
        "name": "presets",
        "device": str(device) if device.type != "cpu" else cpu_name(),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "cases": cases,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
