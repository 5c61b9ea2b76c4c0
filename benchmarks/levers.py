"""What helps a diffusion classifier: one change of the training at a time, judged on validation.

    python benchmarks/levers.py DATA --work FOLDER [--only NAME ...] [--steps 1091] [--core N]

DATA is the chest X-ray folder (`chest-xray` of the data guide). Every training is the preset
`small`, `small-dit` or `small-patch` at 64 px with the same seed and splits, for ten minutes of one
core, given as steps of 32 images (58.2 images a second, measured by `fair.py --measure`); a lever
that makes a step dearer gets as many fewer. Each model classifies the validation images and an
altered copy of each (brightness, contrast, frame, sharpness: another site), with the same trials. A
lever is kept if the paired 95% interval, by patients, of its gain in AUROC (the mean of that on
images and that on copies) is above 0: over `base`, or over the lever that it adds to; of the vote,
and of the means of v and eps.

FOLDER keeps the runs: what is finished is not repeated, and processes may share the levers between
them once the first, which makes the splits, is trained. Writes benchmarks/results/levers.json.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import running
from decision_statistics import Trials, mean_lead, ranked
from fair import CONTRASTIVE, HEAVY, LOOKS, OCTAVES, PLAIN, STYLED, setting
from PIL import Image, ImageOps

from diffdx._files import write_json
from diffdx._typing import Pixels
from diffdx.data import Record, open_dataset
from diffdx.data.alterations import altered_copies
from diffdx.data.splits import align_splits, load_splits
from diffdx.evaluation import read_predictions
from diffdx.metrics import balanced_accuracy, bootstrap_by_patient, patient_resamples
from diffdx.transforms.pixels import PixelSpec

RESULT = Path(__file__).parent / "results" / "levers.json"
SIDE_PX = 64
RULES = ("vote", "mean_v", "mean_eps")
PARTS = ("val", "copies")
FEW = (1, 3, 5, 11, 31)


def percentiles(pixels: Pixels) -> Pixels:
    """Return an image whose 1st and 99th percentile are black and white."""
    low, high = np.percentile(pixels, (1, 99))
    return (np.clip((pixels - low) / max(high - low, 1), 0, 1) * 255).astype(np.uint8)


def equalised(pixels: Pixels) -> Pixels:
    """Return an image in which all grey levels are equally frequent."""
    return np.asarray(ImageOps.equalize(Image.fromarray(pixels)))


class Lever(NamedTuple):
    """One change."""

    assignments: list[str]
    cost: float = 1.0
    """Of a step, relative to that of `base`."""
    prepare: Callable[[Pixels], Pixels] | None = None
    """Change of every image, for training and for use."""
    preset: str = "small"
    over: str = "base"
    """The lever that its gain is over."""


def patched(
    *assignments: str,
    over: str = "patch late contrastive looks",
    cost: float = 0.95,
    prepare: Callable[[Pixels], Pixels] | None = None,
) -> Lever:
    """Return a change of the contrastive training of `small-patch`."""
    return Lever([CONTRASTIVE, *assignments], cost, prepare, preset="small-patch", over=over)


WIDER = [f"train.augment.{v}" for v in ("rotate_degrees=15", "zoom=0.2", "shift=0.1")]
LIGHT_LOOKS = ["train.augment.gamma=1.3", "train.augment.contrast=1.2"]
DROPOUT = "model.backbone.dropout=0.1"
PATCH_OF_4 = "model.backbone.patch_px=4"
LATE = "model.backbone.class_levels=2"
COARSE = "train.contrastive_scale=0.2"
HEAVIER = "train.contrastive_weight=2"
STYLED_NAME = "styled patch late contrastive looks"
CLEAR = ["model.schedule.logsnr_min=-4", "model.schedule.logsnr_max=8"]
LEVERS = {
    "base": Lever([]),
    "looks": Lever(LOOKS),
    "contrastive": Lever([CONTRASTIVE], cost=1.9),
    "strong contrastive looks": Lever(
        ["train.contrastive_weight=1", *LOOKS], cost=1.9, over="contrastive looks"
    ),
    "fine contrastive looks": Lever(
        [CONTRASTIVE, *LOOKS, "train.contrastive_scale=0.01"], cost=1.9, over="contrastive looks"
    ),
    "fast contrastive looks": Lever(
        [CONTRASTIVE, *LOOKS, "train.learning_rate=0.0006"], cost=1.9, over="contrastive looks"
    ),
    "small batch contrastive looks": Lever(
        [CONTRASTIVE, *LOOKS, "train.batch_size=12", "train.warmup_steps=100"],
        cost=1.9 * 12 / 32,
        over="contrastive looks",
    ),
    "late contrastive looks": Lever(
        [CONTRASTIVE, *LOOKS, LATE], cost=1.4, over="contrastive looks"
    ),
    "patch late contrastive looks": patched(*LOOKS, over="contrastive looks"),
    "wide patch late contrastive looks": patched(*LOOKS, *WIDER),
    "coarse patch late contrastive looks": patched(*LOOKS, COARSE),
    "averaged patch late contrastive looks": patched(*LOOKS, "train.ema.inv_gamma=3"),
    "patch late contrastive light looks": patched(*LIGHT_LOOKS),
    "patch late contrastive": patched(),
    "clear patch late contrastive looks": patched(*LOOKS, *CLEAR),
    "unscaled patch late contrastive looks": patched(*LOOKS, "model.data.band_scaling=none"),
    STYLED_NAME: patched(*LOOKS, STYLED),
    "styled heavy": patched(*LOOKS, STYLED, HEAVY, over=STYLED_NAME),
    "styled heavier": patched(*LOOKS, STYLED, HEAVIER, over=STYLED_NAME),
    "styled heavier coarse": patched(*LOOKS, STYLED, HEAVIER, COARSE, over=STYLED_NAME),
    "heavy": patched(*LOOKS, HEAVY),
    "patch of 4": patched(*LOOKS, PATCH_OF_4, cost=0.347),
    "octaves patch of 4": patched(*LOOKS, OCTAVES, PATCH_OF_4, cost=0.347, over="patch of 4"),
    "dropout patch of 4": patched(*LOOKS, DROPOUT, PATCH_OF_4, cost=0.347, over="patch of 4"),
    "octaves patch": patched(*LOOKS, OCTAVES),
    "equalised patch": patched(*LOOKS, prepare=equalised),
    "percentiles": Lever([], prepare=percentiles),
    "equalised": Lever([], prepare=equalised),
    "contrastive looks": Lever([CONTRASTIVE, *LOOKS], cost=1.9, over="looks"),
    "transformer": Lever([], cost=2.0, preset="small-dit"),
    "contrastive transformer": Lever([CONTRASTIVE], cost=3.8, preset="small-dit"),
    "wider affine": Lever(WIDER),
    "narrow noise": Lever(["model.schedule.logsnr_min=-4", "model.schedule.logsnr_max=4"]),
    "uniform weight": Lever(["train.weighting=uniform"]),
    "no dropout": Lever(["train.label_dropout=0"]),
    "longer average": Lever(["train.ema.beta=0.9995"]),
    "higher rate": Lever(["train.learning_rate=0.0006"]),
}


def write_images(
    data: str, splits: Path, folder: Path, roles: list[str], lever: Lever, *, altered: bool
) -> Path:
    """Write images of some roles as the lever has them, at the side of the network; once."""
    if folder.is_dir():
        return folder
    dataset = open_dataset(data)
    frame = align_splits(load_splits([splits]), dataset)
    chosen = dataset.select(list(frame.loc[frame["role"].isin(roles), "image_id"]))
    chosen, spec = altered_copies(chosen, seed=1) if altered else chosen, PixelSpec(SIDE_PX)

    def pixels_of(record: Record) -> Pixels:
        pixels = spec.store(chosen.pixels(record))[0]
        return lever.prepare(pixels) if lever.prepare else pixels

    running.write_images(folder, chosen, pixels_of)
    return folder


def splits_of(images: Path, splits: Path) -> Path:
    """Return the same roles for images that were written anew."""
    table = pd.read_csv(splits, dtype=str)
    table = table[table["role"].isin(["train", "val"])]
    pairs = zip(table["label"], table["image_id"], strict=True)
    names = [f"{label}/{Path(name).stem}.png" for label, name in pairs]
    file = images.with_suffix(".csv")
    table.assign(image_id=names, path=[str(images / n) for n in names]).to_csv(file, index=False)
    return file


def run_of(work: Path, name: str) -> Path:
    """Return the run folder of a lever."""
    return work / name.replace(" ", "-")


def make(name: str, asked: argparse.Namespace) -> None:
    """Train a lever's model and classify by it, or what of this is missing."""
    lever, run, splits = LEVERS[name], run_of(asked.work, name), asked.work / "splits.csv"
    if not splits.is_file() and lever.prepare:
        raise SystemExit("first make a lever that leaves images alone: its splits are everyone's")
    data, own_splits, copies = asked.data, splits, "copies"
    if lever.prepare:
        copies = f"{run.name}-copies"
        images, roles = asked.work / f"{run.name}-images", ["train", "val"]
        data = str(write_images(asked.data, splits, images, roles, lever, altered=False))
        own_splits = splits_of(images, splits)
    options = ["--preset", lever.preset, PLAIN, "--steps", round(asked.steps / lever.cost)]
    options += ["--image-size", SIDE_PX, "--set=train.validate_every=100000", "--num-workers=1"]
    options += setting(*lever.assignments)
    options += ["--splits", own_splits] if own_splits.is_file() else []
    how = {"log": run.with_suffix(".log"), "core": asked.core, "threads": 1}
    running.train(run, "train", data, *options, **how)
    if not splits.is_file():
        splits.write_bytes((run / "splits.csv").read_bytes())
    folder = asked.work / copies
    written = write_images(asked.data, splits, folder, ["val"], lever, altered=True)
    for part, inputs in (("val", [data, "--split", "val"]), ("copies", [written])):
        if not (run / part / "classify.json").is_file():
            options = ["--out", run / part, "--trials", asked.trials, "--no-progress"]
            running.diffdx("classify", run, *inputs, *options, **how)


@dataclass(frozen=True)
class Reading:
    """What a model says of validation images or their copies, in the order of the file names."""

    names: list[str]
    sick: np.ndarray
    scores: dict[str, np.ndarray]
    called: dict[str, np.ndarray]
    few: dict[int, np.ndarray]
    """Score of the mean of v by the trials that it is of."""

    @classmethod
    def of(cls, folder: Path) -> "Reading":
        """Read stored predictions."""
        stored = read_predictions(folder)
        names = [Path(str(image_id)).stem for image_id in stored.table["image_id"]]
        order = np.argsort(names)
        decided = {rule: stored.decide(rule) for rule in RULES}
        positive, trials = stored.positive, Trials.of(stored).take(order)
        return cls(
            [names[i] for i in order],
            (stored.labels[order] == positive).astype(int),
            {rule: d.scores[order, positive] for rule, d in decided.items()},
            {rule: (d.y_hat[order] == positive).astype(int) for rule, d in decided.items()},
            {n: mean_lead("v")(trials.first(n)) for n in FEW},
        )

    def auroc(self, rule: str | int, weights: np.ndarray | None = None) -> float:
        """Return the AUROC of a rule, or that of the mean of v over so many trials."""
        score = self.few[rule] if isinstance(rule, int) else self.scores[rule]
        return ranked(self.sick, score, weights)

    def balanced_accuracy(self, rule: str) -> float:
        """Return the balanced accuracy of a rule."""
        return float(balanced_accuracy(self.sick, self.called[rule], num_classes=2))


def patients_of(splits: Path, names: list[str]) -> list[str]:
    """Return the patient of each image."""
    table = pd.read_csv(splits, dtype=str)
    stems = [Path(image_id).stem for image_id in table["image_id"]]
    known = dict(zip(stems, table["patient_id"].fillna(table["image_id"]), strict=True))
    return [known[name] for name in names]


def compare(work: Path) -> dict[str, Any]:
    """Return the scores of every finished lever, and its gain where the one below it is there."""
    done = [name for name in LEVERS if (run_of(work, name) / "copies/classify.json").is_file()]
    read = {n: {part: Reading.of(run_of(work, n) / part) for part in PARTS} for n in done}
    first = next(iter(read.values()))
    drawn = patient_resamples(patients_of(work / "splits.csv", first["val"].names))
    rows: dict[str, Any] = {}
    for name, parts in read.items():
        record = json.loads((run_of(work, name) / "run.json").read_text("utf-8"))
        row: dict[str, Any] = {"steps": record["steps"], "model_sha256": record["model_sha256"]}
        for part, reading in parts.items():
            if reading.names != first[part].names:
                raise SystemExit(f"{name}: other images than those of other levers")
            for rule in RULES:
                row[f"{part} {rule} auroc"] = round(reading.auroc(rule), 4)
                row[f"{part} {rule} balanced"] = round(reading.balanced_accuracy(rule), 4)
            row[f"{part} mean_v auroc by trials"] = {n: round(reading.auroc(n), 4) for n in FEW}
        if name != "base" and LEVERS[name].over in read:
            old, row["over"] = read[LEVERS[name].over], LEVERS[name].over
            for rule in RULES:

                def gain(
                    w: np.ndarray, rule: str = rule, new: Any = parts, old: Any = old
                ) -> float:
                    """Return by how much more the lever ranks right, mean of images and copies."""
                    gains = [new[p].auroc(rule, w) - old[p].auroc(rule, w) for p in PARTS]
                    return sum(gains) / len(gains)

                row[f"gain {rule}"] = asdict(bootstrap_by_patient(gain, drawn))
            row["kept"] = {rule: row[f"gain {rule}"]["low"] > 0 for rule in RULES}
        rows[name] = row
    return rows


def main() -> None:
    """Train, classify, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=LEVERS, default=list(LEVERS))
    parser.add_argument("--steps", type=int, default=1091)
    parser.add_argument("--trials", type=int, default=31)
    parser.add_argument("--core", type=int, help="Pin everything to it.")
    parser.add_argument("--result", type=Path, default=RESULT)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    for name in asked.only:
        make(name, asked)
        rows = compare(asked.work)
        print(name, json.dumps(rows[name]), flush=True)
        settings = {"steps": asked.steps, "trials": asked.trials}
        write_json(asked.result, {"name": "levers", **settings, "levers": rows})


if __name__ == "__main__":
    main()
