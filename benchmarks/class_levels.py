"""Where the class may enter the network: accuracy and cost, from every block to the last level.

    python benchmarks/class_levels.py DATA --seeds 0 1 --out out/class-levels

Trains the `tiny` preset once for each seed and number of up levels that are told the class (`all`:
every block), classifies `val` and `test`, and writes benchmarks/results/class-levels.json. Runs
that are in `--out` already are not repeated, so processes may share the seeds between them. Every
look at `test` belongs to this one comparison.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import running
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffdx._files import write_json
from diffdx.backbones.model import DiffusionModel

RESULT = Path(__file__).parent / "results" / "class-levels.json"
LEVELS = ("all", "3", "2", "1")
METRICS = (("vote", "auroc"), ("vote", "balanced_accuracy"), ("mean_v", "auroc"))


def measure(data: str, level: str, seed: int, images_seen: int, trials: int, out: Path) -> dict:
    """Train, classify and evaluate one network; return its figures."""
    run = out / f"{level}-{seed}"
    told = "null" if level == "all" else level
    size = ["--preset", "tiny", "--recipe", "denoising", "--image-size", 32]
    size += ["--images-seen", images_seen]
    told_option = ["--set", f"model.backbone.class_levels={told}", "--seed", seed]
    running.train(run, "train", data, *size, *told_option)
    row: dict = {"class_levels": level, "seed": seed}
    for split in ("val", "test"):
        folder = run / split
        if not (folder / "summary.json").exists():
            options = ["--split", split, "--trials", trials, "--out", folder, "--no-progress"]
            running.diffdx("classify", run, data, *options)
            running.diffdx("evaluate", folder, "--resamples", 10)
        by_rule = json.loads((folder / "summary.json").read_text())["by_rule"]
        for rule, metric in METRICS:
            row[f"{split}_{rule}_{metric}"] = round(by_rule[rule][metric]["value"], 4)
    return row | cost(run)


def cost(run: Path) -> dict:
    """Return the FLOPs of a trial under all classes: each class alone, and with what is shared."""
    model = DiffusionModel.load(run)
    count = len(model.classes)
    z_t, logsnr, y = torch.zeros(1, *model.shape), torch.zeros(1), torch.arange(count)
    owner = torch.zeros(count, dtype=torch.int64)
    flops = []
    for call in (
        lambda: model.denoiser(z_t[owner], logsnr[owner], y),
        lambda: model.denoiser.under_classes(z_t, logsnr, y, owner),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
        flops.append(counter.get_total_flops() / 1e9)
    return {"gflop_alone": round(flops[0], 4), "gflop_shared": round(flops[1], 4)}


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--levels", nargs="+", default=list(LEVELS))
    parser.add_argument("--images-seen", type=int, default=45_000)
    parser.add_argument("--trials", type=int, default=31)
    parser.add_argument("--out", type=Path, default=Path("out/class-levels"))
    options = parser.parse_args()
    each = options.images_seen, options.trials, options.out
    rows = [
        measure(options.data, level, seed, *each)
        for seed in options.seeds
        for level in options.levels
    ]
    figures = [name for name in rows[0] if name not in ("class_levels", "seed")]
    means = [
        {"class_levels": level}
        | {
            name: round(float(np.mean([r[name] for r in rows if r["class_levels"] == level])), 4)
            for name in figures
        }
        for level in options.levels
    ]
    settings = {"images_seen": options.images_seen, "trials": options.trials}
    write_json(RESULT, {"name": "class-levels", **settings, "mean": means, "runs": rows})
    for row in means:
        print(row)


if __name__ == "__main__":
    main()
