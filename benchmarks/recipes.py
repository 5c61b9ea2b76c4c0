"""What each recipe costs or gains: small DiT and small UNet, trained as paper, release and fixed.

    python benchmarks/recipes.py DATA --work FOLDER [--minutes 6] [--trials 51] [--images 300]
                                 [--seeds 0 1] [--split calib] [--only small-dit/paper/0 ...]

DATA is the chest X-ray folder (`chest-xray` of the data guide). Every cell (network, recipe, seed)
is trained for the same minutes at 64 px on the same splits, then classifies the same images; FOLDER
keeps the runs, and a cell that is finished is not repeated, so the command continues where it was
cut. Batch size and augmentation are the same for all, so that what is left is what the recipe
changes: schedule, scaling of the bands, loss weight, dropped labels, learning rate, average. The
calib images choose nothing here: a checkpoint is chosen on val.

Besides, is the unconditional branch trained? Each cell draws images of each class at guidance 1 and
3, and the reference run, a model of another training, says which class they show.

Writes benchmarks/results/recipes.json: for each cell AUROC and balanced accuracy of the vote and of
the mean v error with 95% intervals by patients, and the share of samples judged as asked.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffdx.backbones.generation import generate
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.voting import majority_vote, predict_vote

RESULT = Path(__file__).parent / "results" / "recipes.json"
REFERENCE = Path(__file__).parents[1] / "assets" / "cxr64"
NETWORKS, RECIPES = ("small-unet", "small-dit"), ("paper", "release", "fixed")
SAME_FOR_ALL = ("train.batch_size=32", "train.augment={}", "model.data.channels=1")
METRICS = ("auroc", "balanced_accuracy")


def diffdx(*arguments: object) -> None:
    """Run one command, as a user would; fail with it."""
    command = "import sys; from diffdx.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", command, *map(str, arguments)], check=False)
    # 3: some images could not be read, which the tables say.
    if done.returncode not in (0, 3):
        raise SystemExit(done.returncode)


def train_cell(run: Path, data: str, cell: tuple[str, str, int], budget: list[str]) -> None:
    """Train one cell, or continue it; nothing is done if it is finished."""
    network, recipe, seed = cell
    record = run / "run.json"
    started = record.is_file()
    if started and json.loads(record.read_text(encoding="utf-8"))["status"] == "done":
        return
    settings = [f"--set={value}" for value in SAME_FOR_ALL]
    options = ["--preset", network, "--recipe", recipe, "--seed", seed, "--image-size", 64]
    # The splits are those of seed 0 for every seed: another seed is another training.
    splits = run.parent / "splits.csv"
    options += ["--splits", splits] if splits.is_file() else []
    more = ["--resume"] if started and (run / "checkpoints").is_dir() else ["--overwrite"]
    diffdx("train", data, "--out", run, *options, *settings, *budget, *more, "--no-progress")
    if not splits.is_file():
        splits.write_bytes((run / "splits.csv").read_bytes())


def classified(run: Path, data: str, split: str, images: int, trials: int) -> dict[str, Any]:
    """Return the summary of a cell's predictions; what is stored is not computed again."""
    out = run / f"{split}-{trials}"
    if not (out / "summary.json").is_file():
        options = ["--split", split, "--limit", images, "--trials", trials, "--no-progress"]
        diffdx("classify", run, data, "--out", out, *options)
        diffdx("evaluate", out)
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


def judged_as_asked(run: Path, guidance: float, count: int, trials: int = 51) -> float:
    """Return the share of generated images that the reference run takes for what was asked."""
    model, judge = DiffusionModel.load(run), DiffusionModel.load(REFERENCE)
    y = torch.arange(len(model.classes)).repeat(count)
    x = generate(model, y, num_steps=25, guidance_scale=guidance).clamp(-1, 1)
    results = denoising_errors(
        judge.denoiser,
        judge.schedule,
        x,
        TrialBank(),
        num_trials=trials,
        encode=judge.transform.encode,
    )
    errors = np.stack([result.errors for result in results])
    wanted = np.array([judge.classes.index(model.classes[k]) for k in y.tolist()])
    return float((predict_vote(majority_vote(errors))[0] == wanted).mean())


def measure(run: Path, summary: dict[str, Any], samples: int) -> dict[str, Any]:
    """Return one cell of the table."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    guided = run / f"samples-{samples}.json"
    if not guided.is_file():
        shares = {f"guidance {s}": judged_as_asked(run, s, samples) for s in (1, 3)}
        guided.write_text(json.dumps(shares), encoding="utf-8")
    return {
        "steps": record["steps"],
        "parameters": record["parameters"],
        "scores": {
            rule: {name: summary["by_rule"][rule].get(name) for name in METRICS}
            for rule in ("vote", "mean_v")
        },
        "samples_as_asked": json.loads(guided.read_text(encoding="utf-8")),
        "samples": samples * 2,
    }


def main() -> None:
    """Train, classify and tabulate every cell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--steps", type=int, help="Instead of minutes.")
    parser.add_argument("--trials", type=int, default=51)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--samples", type=int, default=64, help="Generated for each class.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--split", default="calib")
    parser.add_argument("--only", nargs="+", help="Cells as NETWORK/RECIPE/SEED.")
    parser.add_argument("--result", type=Path, default=RESULT)
    asked = parser.parse_args()
    budget = ["--minutes", str(asked.minutes)]
    if asked.steps is not None:
        budget = ["--steps", str(asked.steps)]
    cells = []
    for cell in itertools.product(NETWORKS, RECIPES, asked.seeds):
        name = "/".join(map(str, cell))
        if asked.only and name not in asked.only:
            continue
        run = asked.work / name.replace("/", "-")
        train_cell(run, asked.data, cell, budget)
        summary = classified(run, asked.data, asked.split, asked.images, asked.trials)
        network, recipe, seed = cell
        cells.append({"network": network, "recipe": recipe, "seed": seed})
        cells[-1] |= measure(run, summary, asked.samples)
        print(json.dumps(cells[-1]))
        result = {
            "name": "recipes",
            "budget": budget[1] + budget[0].replace("--", " "),
            "split": asked.split,
            "trials": asked.trials,
            "images": asked.images,
            "cells": cells,
        }
        asked.result.parent.mkdir(parents=True, exist_ok=True)
        asked.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
