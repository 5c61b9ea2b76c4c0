"""How well does the look of an image, without its anatomy, tell its class?

    python benchmarks/style.py DATA --splits SPLITS.csv [--contrary NEW.csv [--half]]

Each image is described by numbers that hold no place but its borders: the spread of its grey
levels, the power of each octave of its spatial frequencies, the brightness of its corners and
edges. A logistic regression and boosted trees are fitted to the train images; their AUROC on the
validation images is what a model could reach without looking at a lung. Writes
benchmarks/results/style.json.

`--contrary` writes the same roles with another validation set: the fifth of the patients of each
class whose looks speak most for the other class, by a logistic regression that had not seen the
patient. The other train and validation patients are the train set. There a model that goes by looks
is worse than chance. With `--half` only every second of these patients, at random, is held out, so
that the train set has others like them.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from decision_statistics import ranked
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffdx._files import atomic_path, write_json
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
LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
CONTRARY_SHARE = 0.2
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


def contrary_patients(x: np.ndarray, sick: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return the fifth of each class's patients whose looks x speak most for the other class."""
    scores = cross_val_predict(
        LOGISTIC, x, sick, groups=patients, cv=GroupKFold(5), method="decision_function"
    )
    for_own = np.where(sick, 1, -1) * scores
    found = pd.DataFrame({"sick": sick, "patient": patients, "for_own": for_own})
    rank = found.groupby(["sick", "patient"])["for_own"].mean().groupby("sick").rank(pct=True)
    return rank[rank <= CONTRARY_SHARE].index.get_level_values("patient").to_numpy()


def main() -> None:
    """Describe the images, fit, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--contrary", type=Path, help="Only write these roles.")
    parser.add_argument("--half", action="store_true", help="Hold out half of these patients.")
    asked = parser.parse_args()
    dataset = open_dataset(asked.data)
    frame = align_splits(load_splits([asked.splits]), dataset)
    role = dict(zip(frame["image_id"], frame["role"], strict=True))
    records = [r for r in dataset.records if role[r.image_id] in ("train", "val")]
    spec = PixelSpec(SIDE_PX)
    described = [style(spec.store(dataset.pixels(record))[0]) for record in records]
    sick = np.array([record.label == dataset.positive for record in records])
    fitting = np.array([role[record.image_id] == "train" for record in records])
    if asked.contrary:
        patients = np.array([record.patient_id or record.image_id for record in records])
        looks = np.stack([np.hstack(one) for one in described])
        held_out = np.unique(contrary_patients(looks, sick, patients))
        if asked.half:
            held_out = np.random.default_rng(0).permutation(held_out)[len(held_out) // 2 :]
        roles = np.where(np.isin(patients, held_out), "val", "train")
        new_role = dict(zip((record.image_id for record in records), roles, strict=True))
        frame["role"] = frame["image_id"].map(new_role).fillna(frame["role"])
        with atomic_path(asked.contrary) as new:
            frame.to_csv(new, index=False)
        print(frame.groupby(["role", "label"]).size())
        return
    groups = {name: np.stack([one[i] for one in described]) for i, name in enumerate(GROUPS)}
    found = {}
    for name, x in {**groups, "all": np.hstack(list(groups.values()))}.items():
        for kind, model in (
            ("logistic", LOGISTIC),
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
