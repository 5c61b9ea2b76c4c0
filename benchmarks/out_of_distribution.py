"""Does the out-of-distribution gate tell foreign images from chest X-rays?

    python benchmarks/out_of_distribution.py --images 200 --trials 101 --errors FOLDER

Makes four foreign sets and one of the model's own kind from the project's public data, computes
their denoising errors with the reference run, and asks the gate that was fitted on the run's stored
calib errors:

    dermoscopy     skin lesions, turned grey
    noise          uniform and Gaussian noise, drawn at 64 px and at 224 px (resizing smooths it)
    inverted       chest X-rays of the val role, black for white
    upside_down    chest X-rays of the val role, turned by 180 degrees
    val            chest X-rays of the val role as they are: every flag is a false alarm

The errors are kept under --errors, so that the gate can be judged again without the network; the
results are written to benchmarks/results/out_of_distribution.json.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from diffdx._device import cpu_name
from diffdx._files import write_json
from diffdx._typing import Errors, LogSNRs
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.classifier import DiffusionClassifier
from diffdx.data.images import read_image
from diffdx.data.splits import load_splits
from diffdx.evaluation import StoredPredictions, read_predictions
from diffdx.metrics import auroc
from diffdx.transforms.pixels import LUMA
from diffdx.uncertainty.out_of_distribution import fit_gate
from diffdx.uncertainty.triage import fit_triage

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
RUN = ROOT / "assets" / "cxr64"
RESULT = ROOT / "benchmarks" / "results" / "out_of_distribution.json"
FALSE_ALARM = 0.05


def xrays(count: int) -> list[np.ndarray]:
    """Return X-rays of the run's val role in a seeded order, one of each patient."""
    splits = load_splits(RUN / "splits.csv")
    val = splits[splits["role"] == "val"].sample(frac=1, random_state=0)
    patient = val["patient_id"].where(val["patient_id"].notna(), val["image_id"])
    chosen = val.assign(patient=patient).drop_duplicates("patient")["image_id"][:count]
    return [read_image(DATA / "chest-xray" / image_id) for image_id in chosen]


def inverted(count: int) -> list[np.ndarray]:
    """Return X-rays with black and white exchanged."""
    return [np.iinfo(pixels.dtype).max - pixels for pixels in xrays(count)]


def upside_down(count: int) -> list[np.ndarray]:
    """Return X-rays turned by 180 degrees."""
    return [np.ascontiguousarray(np.rot90(pixels, 2)) for pixels in xrays(count)]


def dermoscopy(count: int) -> list[np.ndarray]:
    """Return grey pictures of skin lesions in a seeded order."""
    folder = DATA / "isic-melanoma"
    names = pd.read_csv(folder / "train.csv")["image_name"].sample(count, random_state=0)
    pictures = (read_image(folder / "train" / f"{name}.jpg") for name in names)
    return [np.rint(pixels @ LUMA).astype(np.uint8) for pixels in pictures]


def noise(count: int) -> list[np.ndarray]:
    """Return white noise: uniform and Gaussian in turn, each at two sizes in turn."""
    rng = np.random.default_rng(0)

    def one(index: int) -> np.ndarray:
        shape = (64, 64) if index % 4 < 2 else (224, 224)
        drawn = rng.uniform(0, 255, shape) if index % 2 else rng.normal(127.5, 40, shape)
        return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)

    return [one(index) for index in range(count)]


SETS: dict[str, Callable[[int], list[np.ndarray]]] = {
    "val": xrays,
    "dermoscopy": dermoscopy,
    "noise": noise,
    "inverted": inverted,
    "upside_down": upside_down,
}


def errors_of(name: str, images: int, trials: int, folder: Path) -> tuple[Errors, LogSNRs]:
    """Return the errors of a set, from the folder where they were computed before."""
    path = folder / f"{name}-{images}x{trials}.npz"
    if not path.is_file():
        classifier = DiffusionClassifier.from_pretrained(RUN, num_trials=trials)
        errors, logsnr = classifier.errors(SETS[name](images))
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, errors=errors, logsnr=logsnr)
    with np.load(path) as stored:
        return stored["errors"], stored["logsnr"]


def main() -> None:
    """Compute what is missing, judge every set, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200, help="images of each set")
    parser.add_argument("--trials", type=int, default=101, help="trials of each image")
    parser.add_argument("--errors", type=Path, required=True, help="folder that keeps the errors")
    chosen = parser.parse_args()
    sets = {name: errors_of(name, chosen.images, chosen.trials, chosen.errors) for name in SETS}
    result = {
        "name": "out_of_distribution",
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "images": chosen.images,
        "trials": chosen.trials,
        "false_alarm_stated": FALSE_ALARM,
        "cases": judge(read_predictions(RUN / "errors" / "calib"), sets, chosen.trials),
    }
    write_json(RESULT, result)
    print(json.dumps(result, indent=2))


def judge(
    calib: StoredPredictions, sets: dict[str, tuple[Errors, LogSNRs]], trials: int
) -> list[dict[str, Any]]:
    """Return for each set the share flagged, the AUROC against val, and confident answers.

    The triage takes vote shares: only the order of the probabilities matters to it.
    """
    patients = calib.table["patient_id"].tolist()
    errors, logsnr = calib.errors[:, :, :trials], calib.logsnr[:, :trials]
    gate = fit_gate(errors, logsnr, false_alarm=FALSE_ALARM, groups=patients)
    triage = fit_triage(_share(errors), calib.labels, positive=calib.positive, groups=patients)
    usual = gate.surprise(*sets["val"])
    cases = []
    for name, (own, own_logsnr) in sets.items():
        score = np.concatenate([usual, gate.surprise(own, own_logsnr)])
        is_foreign = np.repeat([0, 1], [len(usual), len(score) - len(usual)])
        flagged = gate.flags(own, own_logsnr)
        answered = np.array([answer != "refer" for answer in triage.decide(_share(own))])
        cases.append(
            {
                "case": name,
                "auroc": None
                if name == "val"
                else auroc(is_foreign, np.stack([-score, score], axis=1), positive=1),
                "flagged": float(flagged.mean()),
                "answered_by_triage": float(answered.mean()),
                "answered_and_unflagged": float((answered & ~flagged).mean()),
            }
        )
    return cases


def _share(errors: Errors) -> np.ndarray:
    return vote_share(majority_vote(errors))


if __name__ == "__main__":
    main()
