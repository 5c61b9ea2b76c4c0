"""Which degrades more slowly as images get worse: a diffusion classifier or a CNN?

    python benchmarks/robustness.py DATA RUN RUN ... --work FOLDER [--images 120] [--trials 51]

Validation images at the side that the runs see, as they are and worse in five ways, each at four
strengths; every run classifies the same files:

    noise       Gaussian, standard deviation as a fraction of the range
    blur        Gaussian, standard deviation in pixels
    contrast    factor of the distance from mid-grey
    jpeg        quality of the compression
    tag         side of a white square with a dark bar in the upper left corner, in pixels

AUROC and balanced accuracy of each run (of a diffusion model: by the mean of v) with intervals by
patients, and the paired difference of the losses: how much more the first run lost against the
clean images than each other run.
Writes benchmarks/results/robustness.json. RUNs must share their splits: the first one's decide.
"""

import argparse
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from decision_statistics import ranked
from PIL import Image
from running import diffdx
from scipy.ndimage import gaussian_filter

from diffdx._files import write_json
from diffdx.backbones.classifiers import is_baseline
from diffdx.data import open_dataset
from diffdx.evaluation import read_predictions
from diffdx.metrics import balanced_accuracy, bootstrap_by_patient, patient_resamples
from diffdx.transforms.pixels import PixelSpec

RESULT = Path(__file__).parent / "results" / "robustness.json"
Pixels = np.ndarray
"""(S, S) or (S, S, 3), uint8."""


def noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Return the image with Gaussian noise."""
    return pixels + rng.normal(0, 255 * sigma, pixels.shape)


def blur(pixels: Pixels, sigma_px: float, rng: np.random.Generator) -> Pixels:
    """Return the image with less detail."""
    return gaussian_filter(pixels.astype(float), sigma_px, axes=(0, 1))


def contrast(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    """Return the image nearer to mid-grey."""
    return 127.5 + factor * (pixels - 127.5)


def jpeg(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    """Return the image as it comes back from compression."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stream))


def tag(pixels: Pixels, side_px: float, rng: np.random.Generator) -> Pixels:
    """Return the image with a marker in a corner."""
    marked, side = pixels.copy(), int(side_px)
    marked[:side, :side] = 255
    marked[side // 4 : side - side // 4, side // 3 : side - side // 3] = 30
    return marked


CHANGES: dict[str, tuple[Callable[..., Pixels], tuple[float, ...]]] = {
    "noise": (noise, (0.02, 0.05, 0.1, 0.2)),
    "blur": (blur, (0.5, 1.0, 1.5, 2.0)),
    "contrast": (contrast, (0.8, 0.6, 0.4, 0.2)),
    "jpeg": (jpeg, (50, 25, 10, 5)),
    "tag": (tag, (4, 8, 12, 16)),
}


def write_folder(data: str, run: Path, folder: Path, count: int) -> pd.DataFrame:
    """Write validation images, as they are and changed, as PNG; return their table."""
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    side_px = config["model"]["data"]["image_size"]
    splits = pd.read_csv(run / "splits.csv", dtype=str)
    chosen = splits[splits["role"] == "val"].sample(frac=1, random_state=0)[:count]
    dataset = open_dataset(data).select(list(chosen["image_id"]))
    colours = 3 if dataset.source.pixels(dataset.records[0]).ndim == 3 else 1
    spec = PixelSpec(side_px, colours)
    rows = []
    for number, record in enumerate(dataset.records):
        stored = spec.store(dataset.source.pixels(record))
        pixels = stored[0] if colours == 1 else np.moveaxis(stored, 0, -1)
        made = {"clean": pixels}
        for name, (change, strengths) in CHANGES.items():
            rng = np.random.default_rng([number, len(name)])
            for strength in strengths:
                changed = change(pixels, strength, rng)
                made[f"{name}-{strength:g}"] = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
        for name, image in made.items():
            file = folder / name / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
        patient = record.patient_id or record.image_id
        rows.append({"label": record.label, "patient": patient})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Reading:
    """What a run says of the same images as they are and changed, by name of the change."""

    scores: dict[str, np.ndarray]
    called: dict[str, np.ndarray]

    @classmethod
    def of(cls, run: Path, folder: Path, names: list[str], trials: int) -> "Reading":
        """Classify, or read what was classified."""
        out = folder.parent / f"{folder.name}-{run.name}"
        if not (out / "classify.json").is_file():
            inputs = [folder / name for name in names]
            options = [] if is_baseline(run) else ["--trials", trials]
            diffdx("classify", run, *inputs, "--out", out, *options, "--no-progress")
        stored = read_predictions(out)
        decided = stored.decide("mean_v" if stored.rules else "softmax")
        files = [Path(str(name)) for name in stored.table["image_id"]]
        rows = {
            name: sorted(
                (i for i, file in enumerate(files) if file.parent.name == name),
                key=lambda i: files[i].name,
            )
            for name in names
        }
        positive = stored.positive
        return cls(
            {name: decided.scores[chosen, positive] for name, chosen in rows.items()},
            {name: decided.y_hat[chosen] == positive for name, chosen in rows.items()},
        )

    def metric(self, kind: str, name: str, sick: np.ndarray, weights: np.ndarray) -> float:
        """Return AUROC or balanced accuracy on a variant."""
        if kind == "auroc":
            return ranked(sick, self.scores[name], weights)
        called = self.called[name].astype(int)
        return balanced_accuracy(sick, called, num_classes=2, weights=weights)


def main() -> None:
    """Write the images, classify them by every run, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--trials", type=int, default=51)
    asked = parser.parse_args()
    folder = asked.work / "images"
    table = write_folder(asked.data, asked.runs[0], folder, asked.images)
    names = sorted(path.name for path in folder.iterdir())
    sick = (table["label"] == open_dataset(asked.data).positive).to_numpy().astype(int)
    drawn = patient_resamples(list(table["patient"]))
    readings = {run.name: Reading.of(run, folder, names, asked.trials) for run in asked.runs}
    first = asked.runs[0].name
    rows: dict[str, Any] = {}
    for name, kind in product(names, ("auroc", "balanced_accuracy")):
        row = rows.setdefault(name, {})
        for run, reading in readings.items():
            worth = partial(reading.metric, kind, name, sick)
            row[f"{run} {kind}"] = asdict(bootstrap_by_patient(worth, drawn))
            if run == first or name == "clean":
                continue

            def lost_more(
                w: np.ndarray, kind: str = kind, name: str = name, run: str = run
            ) -> float:
                """Return how much more than the other the first run lost."""
                lost = [
                    readings[one].metric(kind, "clean", sick, w)
                    - readings[one].metric(kind, name, sick, w)
                    for one in (first, run)
                ]
                return lost[0] - lost[1]

            row[f"{kind} lost more than {run}"] = asdict(bootstrap_by_patient(lost_more, drawn))
        print(name, {key: round(value["value"], 3) for key, value in row.items()}, flush=True)
    write_json(
        RESULT,
        {"name": "robustness", "images": len(table), "trials": asked.trials, "variants": rows},
    )


if __name__ == "__main__":
    main()
