"""The fair comparison: diffusion classifiers against discriminative ones on equal budgets.

    python benchmarks/fair.py --chest DATA --skin DATA --work FOLDER [--measure] [--parallel 2]
                              [--minutes 8] [--seeds 0 1 2] [--only small/chest-xray/0 ...]
                              [--networks NAME ...] [--sets NAME ...] [--lesions DATA]
                              [--trials 51] [--images 400] [--calib-images 200]

Four networks (`small` UNet and `small-dit` as diffusion classifiers, ResNet-18, ViT-S), two sets,
three seeds: 24 cells, all from random weights at 64 px, on the same splits, with the same
augmentation of a set and a learning rate that falls to zero. `--networks` and `--sets` ask for
others: HAM10000, shares of the train patients, 128 px, a training with a contrastive term.

Equal is the time of one core: a first stage (`--measure`, while nothing else runs) trains each
network alone on one thread for a few steps and keeps its images a second in FOLDER/rates.json; from
then on a cell's budget is a number of steps, so that what else the machine does changes nothing and
a cut cell continues bit-equal.

The calib images fit each model's probabilities; with an altered copy of each, which stands for
another site, they fit the rules that end in `_fitted`: the threshold, to the largest balanced
accuracy, and the scale of log odds. The test images are looked at once a cell, which
test-looks.jsonl records. A cell that is finished is a line of results/fair/cells.jsonl, decisions
and scores by image in the order of the set (no image is named), and is not repeated: a later
session continues from these lines alone, without FOLDER. At the end, and with `--table` alone, they
are pooled into results/fair/fair.json and fair.md: each metric as the mean over the seeds with a
95% interval by patients and the spread between the seeds, and for each pair of networks the
difference of the means, resampled the same way, with McNemar's and DeLong's tests of each seed.
While FOLDER is there, the paper's Fig. 2 is drawn from the same errors into results/fair/fig2.pdf
and .png.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import running
from decision_statistics import best_threshold
from fair_table import FITTED, OWN_RULES, markdown, pool
from log_look import LOG, log_with_commit
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from diffdx._files import atomic_path, write_json
from diffdx.data import open_dataset
from diffdx.data.alterations import altered_copies
from diffdx.errors import DiffdxError
from diffdx.evaluation import evaluate_predictions, read_predictions
from diffdx.evaluation.matching import matched
from diffdx.report.explanation_figures import write_figure
from diffdx.report.paper_figures import trials_figure
from diffdx.transforms.pixels import PixelSpec

RESULTS = Path(__file__).parent / "results" / "fair"
BATCH = 32
MEASURED_STEPS = 30
FEW_CHECKS = ("--set=train.validate_every=250", "--set=train.validation_images=128")
AUGMENTED = ("rotate_degrees=7", "zoom=0.1", "shift=0.05")


class Images(NamedTuple):
    """A set as its cells see it."""

    of: str
    """Whose images and splits they are."""
    flip: bool = False
    """Of a lesion; the heart has a side."""
    side_px: int = 64
    share: float = 1.0
    """Of the train patients; a larger share has all those of a smaller one."""


def setting(*assignments: str) -> list[str]:
    """Return the options that set these."""
    return [f"--set={assignment}" for assignment in assignments]


FAIR_SETS = {
    "chest-xray": Images("chest-xray"),
    "isic-melanoma": Images("isic-melanoma", flip=True),
}
SETS = {
    **FAIR_SETS,
    "ham10000": Images("ham10000", flip=True),
    "chest-xray-128px": Images("chest-xray", side_px=128),
    **{f"chest-xray-{p}pc": Images("chest-xray", share=p / 100) for p in (5, 10, 25, 50)},
}
LOOKS = ["train.augment.gamma=1.7", "train.augment.contrast=1.4"]
LOOKS += ["train.augment.blur_sigma_px=[0.1,0.8]"]
CONTRASTIVE = "train.contrastive_weight=0.1"
HEAVY = "train.contrastive_weight=0.5"
STYLED = "train.balanced_style=true"
OCTAVES = "train.augment.octaves=1.4"
PLAIN = "--recipe=denoising"
DIFFUSION = {
    "small": ["--preset=small", PLAIN],
    "small-dit": ["--preset=small-dit", PLAIN],
    "small-looks": ["--preset=small", PLAIN, *setting(*LOOKS)],
    "small-contrastive": ["--preset=small", PLAIN, *setting(CONTRASTIVE)],
    "small-contrastive-looks": ["--preset=small"],
    "small-patch-contrastive-looks": ["--preset=small-patch"],
    "small-patch-heavy": ["--preset=small-patch", *setting(HEAVY)],
    "small-patch-heavy-styled": ["--preset=small-patch", *setting(HEAVY, STYLED)],
    "small-patch4-contrastive-looks": ["--preset=small-patch4"],
    "small-patch4-octaves": ["--preset=small-patch4", *setting(OCTAVES)],
}
DISCRIMINATIVE = {
    "resnet18": ["--model", "resnet18"],
    "resnet18-looks": ["--model", "resnet18", *setting(*LOOKS)],
    "vit_small": ["--model", "vit_small"],
}
FAIR_NETWORKS = ("small", "small-dit", "resnet18", "vit_small")
DISCRIMINATIVE_SETTINGS = (
    "learning_rate=0.0003",
    "learning_rate_decay=cosine",
    "warmup_steps=50",
    "balanced=true",
    "patience=null",
    "augment.flip_vertical=false",
    "augment.blur_sigma_px=null",
)
SMALLEST = 1e-12
"""Probability that counts as 0, and its distance from 1 that counts as none."""
_written = Lock()


class Cell(NamedTuple):
    """One training."""

    network: str
    dataset: str
    seed: int

    @property
    def name(self) -> str:
        """As `--only` takes it."""
        return "/".join(map(str, self))


def training(cell: Cell, asked: argparse.Namespace, steps: int) -> list[object]:
    """Return the command that trains a cell."""
    images = SETS[cell.dataset]
    data, splits = asked.data[images.of], splits_of(asked.work, images)
    augmented = (*AUGMENTED, f"flip={str(images.flip).lower()}")
    settings = setting(*(f"train.augment.{value}" for value in augmented))
    if cell.network in DIFFUSION:
        command = ["train", data, *settings, *DIFFUSION[cell.network]]
    else:
        settings += setting(*(f"train.{value}" for value in DISCRIMINATIVE_SETTINGS))
        command = ["baseline", data, *settings, *DISCRIMINATIVE[cell.network]]
    size = ["--image-size", images.side_px, "--batch-size", BATCH, "--seed", cell.seed]
    known = ["--splits", splits] if splits.is_file() else []
    return [
        *(*command, *size, "--steps", steps, *known),
        *(*FEW_CHECKS, "--device", "cpu", "--num-workers", "1"),
    ]


def run_of(work: Path, cell: Cell) -> Path:
    """Return the run folder of a cell."""
    return work / cell.name.replace("/", "-")


def splits_of(work: Path, images: Images) -> Path:
    """Return the file of the roles; that of a share of the patients is written where it is not."""
    whole = work / f"{images.of}-splits.csv"
    if images.share == 1 or not whole.is_file():
        return whole
    part = work / f"{images.of}-{images.share:g}-splits.csv"
    if part.is_file():
        return part
    table = pd.read_csv(whole, dtype=str)
    owner = table["patient_id"].fillna(table["image_id"])
    train = table["role"] == "train"
    patients = np.random.default_rng(0).permutation(np.unique(owner[train].astype(str)))
    kept = owner.isin(patients[: round(images.share * len(patients))])
    with atomic_path(part) as new:
        table[~train | kept].to_csv(new, index=False)
    return part


def rate_key(network: str, dataset: str) -> str:
    """Return the name of a speed; a share of the patients is not another one."""
    images = SETS[dataset]
    return f"{network}/{images.of if images.share < 1 else dataset}"


def measure_rates(asked: argparse.Namespace) -> dict[str, float]:
    """Return images a second of each network alone on each set, measured where it is not yet."""
    file = asked.work / "rates.json"
    rates = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for network, dataset in itertools.product(asked.networks, asked.sets):
        key, images = rate_key(network, dataset), SETS[dataset]
        if key in rates:
            continue
        run = asked.work / "measured" / key.replace("/", "-")
        splits = asked.work / f"{images.of}-splits.csv"
        command = training(Cell(network, dataset, 0), asked, asked.measured_steps)
        # Never resumed: the speed of a part is not that of the whole.
        more = ["--out", run, "--no-progress", "--overwrite"]
        log = asked.work / "measured.log"
        running.diffdx(*command, *more, log=log, core=asked.core, threads=1)
        record = json.loads((run / "run.json").read_text("utf-8"))
        rates[key] = record["images_seen"] / record["train_seconds"]
        if not splits.is_file():
            splits.write_bytes((run / "splits.csv").read_bytes())
        write_json(file, rates)
        print(f"{key}: {rates[key]:.1f} images/s", flush=True)
    return dict(rates)


def classify(
    cell: Cell, run: Path, asked: argparse.Namespace, how: dict[str, Any]
) -> dict[str, Any]:
    """Classify calib images, altered copies of them, and test images; return the test's summary.

    A diffusion model classifies validation images too, by which its statistic is chosen. With more
    than two classes nothing is fitted: of the rarest of HAM10000 there are too few.
    """
    data = asked.data[SETS[cell.dataset].of]
    trials = ["--trials", asked.trials] if cell.network in DIFFUSION else []

    def ask(part: str, *inputs: object) -> None:
        if not (run / part / "classify.json").is_file():
            options = ["--out", run / part, "--device", "cpu", "--no-progress", *trials]
            running.diffdx("classify", run, *inputs, *options, **how)

    if trials:
        ask("val", data, "--split", "val", "--limit", asked.calib_images)
    if len(json.loads((run / "run.json").read_text("utf-8"))["classes"]) == 2:
        ask("calib", data, "--split", "calib", "--limit", asked.calib_images)
        if not (run / "calibration.json").is_file():
            running.diffdx("calibrate", run, run / "calib", *trials, "--device", "cpu", **how)
        ask("copies", copies_of(cell, run, asked))
    ask("test", data, "--split", "test", "--limit", asked.images)
    return evaluate_predictions(run / "test")


def copies_of(cell: Cell, run: Path, asked: argparse.Namespace) -> Path:
    """Return altered copies of the calib images, as if from another site, which all cells share."""
    images = SETS[cell.dataset]
    folder: Path = asked.work / f"{images.of}-{images.side_px}px-copies"
    with _written:
        if folder.is_dir():
            return folder
        stored = read_predictions(run / "calib")
        dataset = open_dataset(asked.data[images.of]).select(list(stored.table["image_id"]))
        copies, spec = altered_copies(dataset, seed=1), PixelSpec(images.side_px, channels=3)
        running.write_images(
            folder, copies, lambda record: np.moveaxis(spec.store(copies.pixels(record)), 0, -1)
        )
    return folder


def line_of(cell: Cell, run: Path, summary: dict[str, Any], rate: float) -> dict[str, Any]:
    """Return the line of a finished cell: what was done, what it cost, what it says of images."""
    record = json.loads((run / "run.json").read_text("utf-8"))
    stored = read_predictions(run / "test").labelled()
    order = np.argsort(stored.table["image_id"].to_numpy(dtype=str))
    k = stored.positive if len(stored.classes) == 2 else None
    patients = np.unique([stored.patients[i] for i in order], return_inverse=True)[1]
    rules = ("vote", "mean_v", "mean_eps", "mean_x") if stored.rules else ("softmax",)
    decided = {rule: stored.decide(rule) for rule in rules}
    # Calibrated, or as it comes: a vote share or a softmax.
    prob = decided[rules[0]].scores if stored.calibration is None else stored.probabilities
    decisions = {
        rule: {
            "y_hat": classes_of(made.y_hat[order], k),
            "score": scores_of(made.scores[order], k),
        }
        for rule, made in decided.items()
    }
    for rule in [] if k is None else [rule for rule in rules if rule in OWN_RULES]:
        score = fitted_score(run, rule)(decided[rule].scores[order, k])
        called = (score > 0).astype(int).tolist()
        decisions[rule + FITTED] = {"y_hat": called, "score": rounded(score)}
    validated = evaluate_predictions(run / "val")["by_rule"] if cell.network in DIFFUSION else {}
    return {
        **cell._asdict(),
        "steps": record["steps"],
        "images_per_second_alone": round(rate, 2),
        "parameters": record["parameters"],
        "model_sha256": record["model_sha256"],
        "trials": summary["trials"],
        "calls_per_image": summary["nfe"]["mean"],
        "seconds_per_image": round(summary["seconds"] / summary["n"], 4),
        "validation_auroc": {rule: r["auroc"]["value"] for rule, r in validated.items()},
        "n": len(order),
        "labels": classes_of(stored.labels[order], k),
        "patients": patients.tolist(),
        "prob": scores_of(prob[order].round(4), k),
        "decisions": decisions,
    }


def fitted_score(run: Path, rule: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes log odds of a rule's score, above 0 for sick, as far as two numbers can.

    Both are fitted to the calib images and their copies: the threshold of the largest balanced
    accuracy, and the slope of a logistic regression.
    """

    def wide(score: np.ndarray) -> np.ndarray:
        """Return a softmax as log odds: what is near 0 or 1 stays apart."""
        return logit(np.clip(score, SMALLEST, 1 - SMALLEST)) if rule == "softmax" else score

    scores, sick = [], []
    for part in ("calib", "copies"):
        stored = read_predictions(run / part).labelled()
        scores.append(stored.decide(rule).scores[:, stored.positive])
        sick.append(stored.labels == stored.positive)
    fitting, y = wide(np.concatenate(scores)), np.concatenate(sick)
    threshold, scale = best_threshold(fitting, y), fitting.std()
    model = LogisticRegression(class_weight="balanced").fit(fitting[:, None] / scale, y)
    slope = max(float(model.coef_[0, 0]), 0) / scale
    return lambda score: slope * (wide(score) - threshold)


def classes_of(found: np.ndarray, k: int | None) -> list[int]:
    """Return class numbers, 1 being the positive class k of two; None leaves all as they are."""
    return [int(one) if k is None else int(one == k) for one in found]


def scores_of(scores: np.ndarray, k: int | None) -> list[Any]:
    """Return what the positive class k of two scores, or what every class does, in 5 digits."""
    if k is not None:
        return rounded(scores[:, k])
    return [rounded(row) for row in scores]


def rounded(scores: np.ndarray) -> list[float]:
    """Return numbers in 5 digits."""
    return [float(f"{score:.5g}") for score in scores]


def make(cell: Cell, asked: argparse.Namespace, rates: dict[str, float], core: int | None) -> None:
    """Make one cell and write its line."""
    rate = rates[rate_key(cell.network, cell.dataset)]
    steps = asked.steps or max(1, round(60 * asked.minutes * rate / BATCH))
    started = time.monotonic()
    run = run_of(asked.work, cell)
    how = {"log": run.with_suffix(".log"), "core": core, "threads": 1}
    running.train(run, *training(cell, asked, steps), **how)
    summary = classify(cell, run, asked, how)
    line = line_of(cell, run, summary, rate)
    with _written:
        log_with_commit(f"fair.py: {cell.name}", summary, asked.looks)
        with asked.cells.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        done = sum(cell.name in finished(asked.cells) for cell in asked.all)
        minutes = (time.monotonic() - started) / 60
        print(f"{cell.name}: {minutes:.1f} minutes; {done} of {len(asked.all)} done", flush=True)


def finished(file: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of finished cells by name."""
    if not file.is_file():
        return {}
    lines = map(json.loads, file.read_text("utf-8").splitlines())
    return {Cell(line["network"], line["dataset"], line["seed"]).name: line for line in lines}


def main() -> None:
    """Measure, make the cells that are missing, pool."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chest", help="The chest X-rays.")
    parser.add_argument("--skin", help="isic2020:FOLDER of the melanomas.")
    parser.add_argument("--lesions", help="ham10000:FOLDER.")
    parser.add_argument(
        "--networks", nargs="+", choices=[*DIFFUSION, *DISCRIMINATIVE], default=FAIR_NETWORKS
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(FAIR_SETS))
    parser.add_argument("--work", type=Path, default=Path("runs/fair"))
    parser.add_argument("--minutes", type=float, default=8, help="Of one core, for each training.")
    parser.add_argument("--steps", type=int, help="In place of the minutes; for trying out.")
    parser.add_argument("--measured-steps", type=int, default=MEASURED_STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="Cells as NETWORK/SET/SEED.")
    parser.add_argument("--trials", type=int, default=51)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--calib-images", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=1, help="Cells at once, each on a core.")
    parser.add_argument("--core", type=int, help="Pin the only worker, and the measuring, to it.")
    parser.add_argument("--measure", action="store_true", help="Measure the speeds, then stop.")
    parser.add_argument("--table", action="store_true", help="Only pool what is there.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--looks", type=Path, default=LOG)
    asked = parser.parse_args()
    asked.cells = asked.results / "cells.jsonl"
    asked.data = {
        "chest-xray": asked.chest,
        "isic-melanoma": asked.skin,
        "ham10000": asked.lesions,
    }
    asked.results.mkdir(parents=True, exist_ok=True)
    asked.all = [Cell(*one) for one in itertools.product(asked.networks, asked.sets, asked.seeds)]
    failed: list[str] = []
    if not asked.table:
        missing = {SETS[name].of for name in asked.sets if not asked.data[SETS[name].of]}
        if missing:
            parser.error(f"--chest, --skin, --lesions: the data of {', '.join(missing)} is needed")
        rates = measure_rates(asked)
        if asked.measure:
            return
        failed = make_all(asked, rates)
    lines = list(finished(asked.cells).values())
    if lines:
        found = pool(lines)
        write_json(asked.results / "fair.json", found)
        (asked.results / "fair.md").write_text(markdown(found), encoding="utf-8")
        print(f"{len(lines)} cells; {asked.results / 'fair.json'}")
        draw_trials(asked)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; the same command tries them again")


def draw_trials(asked: argparse.Namespace) -> None:
    """Draw the rules against the number of trials, mean of the seeds whose runs are still there."""
    found = {}
    for network, dataset in itertools.product(DIFFUSION, asked.sets):
        runs = [
            run_of(asked.work, c) for c in asked.all if (c.network, c.dataset) == (network, dataset)
        ]
        folders = [run / "test" for run in runs if (run / "test" / "summary.json").is_file()]
        if folders:
            found[network, dataset] = matched(folders)[0]
    if found:
        figure = trials_figure(found)
        for suffix in ("pdf", "png"):
            write_figure(asked.results / f"fig2.{suffix}", figure)


def make_all(asked: argparse.Namespace, rates: dict[str, float]) -> list[str]:
    """Make the missing cells, each worker on a core of its own; return those that failed."""
    done = finished(asked.cells)
    cells = [cell for cell in asked.all if not asked.only or cell.name in asked.only]
    waiting = [cell for cell in cells if cell.name not in done]
    # Those of the first measured training of a set are everyone's.
    for dataset in asked.sets:
        if not splits_of(asked.work, SETS[dataset]).is_file():
            raise SystemExit(f"{asked.work}: no splits of {dataset}; run with --measure first")
    failed: list[str] = []
    cores = [asked.core] if asked.parallel == 1 else list(range(asked.parallel))

    def work(core: int | None) -> None:
        while True:
            with _written:
                if not waiting:
                    return
                cell = waiting.pop(0)
            try:
                make(cell, asked, rates, core)
            except (DiffdxError, RuntimeError) as error:
                failed.append(cell.name)
                print(f"{cell.name}: failed: {error}", flush=True)

    with ThreadPoolExecutor(len(cores)) as pool_of_workers:
        for result in [pool_of_workers.submit(work, core) for core in cores]:
            result.result()
    return failed


if __name__ == "__main__":
    main()
