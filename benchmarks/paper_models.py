"""The paper's two networks at full size on this machine: a step, a checkpoint, an image.

    python benchmarks/paper_models.py paper-unet
    python benchmarks/paper_models.py paper-dit

256 x 256 x 3 images, batch 1. For one network: an optimiser step, a checkpoint written and read
into fresh objects, whose next step must give the very loss of the first ones, and an image
classified with a few trials. Seconds and peak memory go to benchmarks/results/paper_models.json;
each network in a process of its own, since a peak is never taken back. A temporary folder takes
about 5 GiB for the UNet.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from diffdx._device import cpu_name, resolve_device
from diffdx.backbones.cost import model_cost
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.voting import majority_vote
from diffdx.config import RunConfig, resolve_config
from diffdx.data.dataset import Record
from diffdx.training.checkpoint import save_checkpoint
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable

RESULT = Path(__file__).parent / "results" / "paper_models.json"
CLASSES = ("A", "B")
TRIALS = 3


def images(side_px: int) -> ImageTable:
    """Return two random RGB images, one of each class."""
    stored = np.random.default_rng(0).integers(0, 256, (2, 3, side_px, side_px)).astype(np.uint8)
    return ImageTable(stored, np.arange(2), [Record(str(i), "") for i in range(2)])


def new_trainer(config: RunConfig, run: Path) -> Trainer:
    """Return a trainer of a network with random weights, on the fastest device."""
    torch.manual_seed(0)
    return Trainer(
        DiffusionModel(config.model, CLASSES),
        images(config.model.data.image_size),
        config,
        run,
        device=resolve_device("auto"),
        precision="fp32",
    )


def measure(config: RunConfig, run: Path, trials: int = TRIALS) -> dict[str, object]:
    """Return what one network costs here, after checking that its checkpoint is whole."""
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()

    trainer = new_trainer(config, run)
    lap("build")
    losses = [trainer.train_step()]
    lap("optimiser step")
    save_checkpoint(run, trainer.model, trainer.optimizer, trainer.ema, trainer.progress, best=True)
    lap("write checkpoint")
    losses.append(trainer.train_step())
    del trainer
    fresh = new_trainer(config, run)
    started = time.perf_counter()
    fresh.resume()
    lap("read checkpoint")
    again = fresh.train_step()
    del fresh
    model = DiffusionModel.load(run).to(resolve_device("auto"))
    started = time.perf_counter()
    (result,) = denoising_errors(
        model.denoiser,
        model.schedule,
        images(config.model.data.image_size).x(slice(0, 1)),
        TrialBank(),
        num_trials=trials,
        encode=model.transform.encode,
        batch_size=len(CLASSES),
        device=resolve_device("auto"),
    )
    lap("classify one image")
    return {
        "seconds": seconds,
        "losses": losses,
        "loss_after_reading_equals": again == losses[-1],
        "network_calls": trials * len(CLASSES),
        "votes": majority_vote(result.errors[None])[0].tolist(),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Measure one network and add it to the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=["paper-unet", "paper-dit"])
    preset = parser.parse_args().preset
    config = resolve_config(preset, options={"train.steps": 1_000_000, "train.batch_size": 1})
    cost = model_cost(config.model, len(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        case = {
            "case": preset,
            "parameters": cost.parameters,
            "gflop_per_call": round(cost.gflop_per_call, 1),
            **measure(config, Path(folder)),
        }
    print(json.dumps(case, indent=2))
    before = json.loads(RESULT.read_text(encoding="utf-8"))["cases"] if RESULT.is_file() else []
    device = resolve_device("auto")
    result = {
        "name": "paper_models",
        "device": cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "precision": "fp32",
        "threads": torch.get_num_threads(),
        "cases": [c for c in before if c["case"] != preset] + [case],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
