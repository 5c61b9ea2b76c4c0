"""How well does the look of an image, without its anatomy, tell its class?

    python benchmarks/style.py DATA --splits SPLITS.csv

Each image is described by numbers that hold no place but its borders: the spread of its grey
levels, the power of each octave of its spatial frequencies, the brightness of its corners and
edges. A logistic regression and boosted trees are fitted to the train images; their AUROC on the
validation images is what a model could reach without looking at a lung. Writes
benchmarks/results/style.json.
"""

import argparse
from pathlib import Path

import numpy as np
from decision_statistics import ranked
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffdx._files import write_json
from diffdx._typing import Pixels
from diffdx.data import open_dataset
from diffdx.data.splits import align_splits, load_splits
from diffdx.transforms.pixels import PixelSpec

RESULT = Path(__file__).parent / "results" / "style.json"
SIDE_PX = 224
BORDER_PX = 16
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
GROUPS = ("grey levels", "octaves", "borders")
FREQUENCY = np.fft.fftfreq(SIDE_PX, 1 / SIDE_PX)
CYCLES = np.hypot(FREQUENCY[:, None], FREQUENCY)
"""Of each coefficient of an image's spectrum, a side."""
OCTAVES = [(f <= CYCLES) & (2 * f > CYCLES) for f in (1, 2, 4, 8, 16, 32, 64)]


def style(pixels: Pixels) -> list[np.ndarray]:
    """Return the numbers of one square image, those of each group."""
    image = pixels / 255
    grey = np.array([image.mean(), image.std(), *np.percentile(image, PERCENTILES)])
    power = np.abs(np.fft.fft2(image)) ** 2
    octaves = [power[octave].mean() for octave in OCTAVES]
    ends = (slice(0, BORDER_PX), slice(-BORDER_PX, None))
    corners = [image[rows, columns].mean() for rows in ends for columns in ends]
    sides = [part.mean() for end in ends for part in (image[end], image[:, end])]
    return [grey, np.log(octaves), np.array([*corners, *sides])]


def main() -> None:
    """Describe the images, fit, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--splits", type=Path, required=True)
    asked = parser.parse_args()
    dataset = open_dataset(asked.data)
    frame = align_splits(load_splits([asked.splits]), dataset)
    role = dict(zip(frame["image_id"], frame["role"], strict=True))
    records = [r for r in dataset.records if role[r.image_id] in ("train", "val")]
    spec = PixelSpec(SIDE_PX)
    described = [style(spec.store(dataset.pixels(record))[0]) for record in records]
    sick = np.array([record.label == dataset.positive for record in records])
    fitting = np.array([role[record.image_id] == "train" for record in records])
    groups = {name: np.stack([one[i] for one in described]) for i, name in enumerate(GROUPS)}
    found = {}
    for name, x in {**groups, "all": np.hstack(list(groups.values()))}.items():
        for kind, model in (
            ("logistic", make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))),
            ("trees", HistGradientBoostingClassifier(random_state=0)),
        ):
            model.fit(x[fitting], sick[fitting])
            score = model.predict_proba(x[~fitting])[:, 1]
            found[f"{name}, {kind}"] = round(ranked(sick[~fitting], score), 4)
    count = {"train": int(fitting.sum()), "val": int((~fitting).sum())}
    numbers = {name: x.shape[1] for name, x in groups.items()}
    write_json(RESULT, {"name": "style", "images": count, "numbers": numbers, "auroc": found})
    print(found)


if __name__ == "__main__":
    main()
