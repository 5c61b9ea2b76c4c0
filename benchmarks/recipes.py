"""What each recipe costs or gains: small DiT and small UNet, trained as paper, release and fixed.

    python benchmarks/recipes.py DATA --work FOLDER [--steps small-unet=700 small-dit=330]
                                 [--trials 51] [--images 300] [--seeds 0 1] [--split calib]
                                 [--only small-dit/paper/0 ...]

DATA is the chest X-ray folder (`chest-xray` of the data guide). Every cell (network, recipe, seed)
is trained for the same time at 64 px on the same splits, then classifies the same images; FOLDER
keeps the runs, and a cell that is finished is not repeated, so the command continues where it was
cut. The time is given in steps, so that what else the machine does changes nothing: those above are
6 minutes of one core, at the 62.4 and 29.3 images a second that each network trains there. Batch
size and augmentation are the same for all, so that what is left is what the recipe changes:
schedule, scaling of the bands, loss weight, dropped labels, learning rate, average. The calib
images choose nothing here: a checkpoint is chosen on val.

Writes benchmarks/results/recipes.json: for each cell AUROC and balanced accuracy of the vote and of
the mean v error with 95% intervals by patients.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import running

RESULT = Path(__file__).parent / "results" / "recipes.json"
STEPS = {"small-unet": 700, "small-dit": 330}
RECIPES = ("paper", "release", "fixed")
SAME_FOR_ALL = ("train.batch_size=32", "train.augment={}", "model.data.channels=1")
METRICS = ("auroc", "balanced_accuracy")


def train_cell(run: Path, data: str, cell: tuple[str, str, int], steps: int) -> None:
    """Train one cell, or what of it is missing."""
    network, recipe, seed = cell
    options = ["--preset", network, "--recipe", recipe, "--seed", seed, "--image-size", 64]
    # The splits are those of seed 0 for every seed: another seed is another training.
    splits = run.parent / "splits.csv"
    options += ["--splits", splits] if splits.is_file() else []
    settings = [f"--set={value}" for value in SAME_FOR_ALL]
    running.train(run, "train", data, *options, *settings, "--steps", steps)
    if not splits.is_file():
        splits.write_bytes((run / "splits.csv").read_bytes())


def classified(run: Path, data: str, split: str, images: int, trials: int) -> dict[str, Any]:
    """Return the summary of a cell's predictions; what is stored is not computed again."""
    out = run / f"{split}-{trials}"
    if not (out / "summary.json").is_file():
        options = ["--split", split, "--limit", images, "--trials", trials, "--no-progress"]
        running.diffdx("classify", run, data, "--out", out, *options)
        running.diffdx("evaluate", out)
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


def measure(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Return one cell of the table."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "steps": record["steps"],
        "parameters": record["parameters"],
        "scores": {
            rule: {name: summary["by_rule"][rule].get(name) for name in METRICS}
            for rule in ("vote", "mean_v")
        },
    }


def steps_of(word: str) -> tuple[str, int]:
    """Return NETWORK=N as a pair."""
    network, _, steps = word.partition("=")
    return network, int(steps)


def main() -> None:
    """Train, classify and tabulate every cell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=steps_of, nargs="+", metavar="NETWORK=N", default=[])
    parser.add_argument("--trials", type=int, default=51)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--split", default="calib")
    parser.add_argument("--only", nargs="+", help="Cells as NETWORK/RECIPE/SEED.")
    parser.add_argument("--result", type=Path, default=RESULT)
    asked = parser.parse_args()
    steps = STEPS | dict(asked.steps)
    cells = []
    for cell in itertools.product(steps, RECIPES, asked.seeds):
        name = "/".join(map(str, cell))
        if asked.only and name not in asked.only:
            continue
        run = asked.work / name.replace("/", "-")
        train_cell(run, asked.data, cell, steps[cell[0]])
        summary = classified(run, asked.data, asked.split, asked.images, asked.trials)
        network, recipe, seed = cell
        cells.append({"network": network, "recipe": recipe, "seed": seed})
        cells[-1] |= measure(run, summary)
        print(json.dumps(cells[-1]))
        result = {
            "name": "recipes",
            "split": asked.split,
            "trials": asked.trials,
            "images": asked.images,
            "cells": cells,
        }
        asked.result.parent.mkdir(parents=True, exist_ok=True)
        asked.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
