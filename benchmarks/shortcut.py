"""A planted shortcut: does the evidence map show it, and which classifier falls for it more?

    python benchmarks/shortcut.py --work out/shortcut [--role calib]

Chest phantoms get a bright tag in the upper left corner, as side markers are on radiographs: in
training on 95% of the images with an opacity and on 5% of the others, in the calib and test roles
on half of each, so that the tag says nothing there. A diffusion model and a ResNet-18 are trained
for the same minutes. Reported are the accuracy of the four groups (class by tag), and where the
maps for OPACITY lie on tagged images. Writes benchmarks/results/shortcut.json (`shortcut-ROLE.json`
for a role other than test).
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from phantom_runs import BATCH, TINY, Scored, baseline_scores, classified, preprocessed, trained
from PIL import Image

from diffdx._device import cpu_name
from diffdx._files import write_json
from diffdx.backbones.classifiers import Baseline
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.data.dataset import Dataset
from diffdx.data.readers import open_dataset
from diffdx.data.splits import make_splits
from diffdx.explain.localisation import energy_in_mask, hits_mask, smoothed
from diffdx.explain.saliency import grad_cam

RESULTS = Path(__file__).parent / "results"
PHANTOMS = "phantoms:chest?n=3000&size=32&difficulty=0.7"
SHARE_WITH_TAG = {"NORMAL": 0.05, "OPACITY": 0.95}
BALANCED = ("calib", "test")
TAG = (slice(2, 7), slice(2, 6))
"""Rows and columns of the tag, an L of bright pixels."""
IMAGES_SEEN = 60_000
RESNET = ("train.augment.blur_sigma_px=null", "train.augment.rotate_degrees=10")
TRIALS = 51
SMOOTHING_PX = 1.0


def write_tagged(folder: Path) -> None:
    """Write the images with their tags, and metadata.csv with a column that says which have one."""
    phantoms = open_dataset(PHANTOMS)
    role = make_splits(phantoms).set_index("image_id")["role"]
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for record in phantoms.records:
        pixels = phantoms.pixels(record).copy()
        split, label = role[record.image_id], str(record.label)
        tagged = rng.random() < (0.5 if split in BALANCED else SHARE_WITH_TAG[label])
        if tagged:
            window = pixels[TAG]
            window[:, 0] = window[-1, :] = 230
        path = f"images/{record.image_id}.png"
        Image.fromarray(pixels).save(folder / path)
        row = (path, label, record.patient_id, split, int(tagged))
        rows.append(row)
    columns = ["path", "label", "patient_id", "split", "tag"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv", index=False)


def by_group(y: np.ndarray, y_hat: np.ndarray, tag: np.ndarray, images: Dataset) -> dict:
    """Return the accuracy of every class with and without a tag, and the worst of the four."""
    score, right = Scored(images), (y == y_hat).astype(float)
    groups = {
        f"{images.classes[k]}, {'tag' if t else 'no tag'}": (y == k) & (tag == t)
        for k, t in product((0, 1), (False, True))
    }
    sums = np.stack([row for chosen in groups.values() for row in (right * chosen, chosen)])

    def worst(weights: np.ndarray) -> float:
        means = (sums @ weights).reshape(-1, 2)
        return float((means[:, 0] / means[:, 1]).min())

    return {
        "accuracy": score.mean(right),
        "worst_group": score.metric(worst, len(y)),
        "groups": {name: score.mean(right, chosen) for name, chosen in groups.items()},
    }


def on_tag(maps: np.ndarray, tagged: Dataset) -> dict:
    """Return how often maps for OPACITY peak in the tag's corner, and their energy in it."""
    corner = np.zeros(maps.shape[1:], dtype=bool)
    corner[slice(TAG[0].start - 1, TAG[0].stop + 1), slice(TAG[1].start - 1, TAG[1].stop + 1)] = 1
    score, wide = Scored(tagged), [smoothed(m, SMOOTHING_PX) for m in maps]
    hits = np.array([hits_mask(m, corner) for m in wide])
    energy = np.nan_to_num([energy_in_mask(m, corner) for m in wide])
    return {
        "share_that_points_at_the_tag": score.mean(hits),
        "energy_in_the_tag": score.mean(energy),
        "area_of_the_tag": round(float(corner.mean()), 4),
    }


def main() -> None:
    """Write the images, train what is missing, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("out/shortcut"))
    parser.add_argument("--role", default="test", choices=BALANCED)
    options = parser.parse_args()
    work, data = options.work, options.work / "data"
    if not (data / "metadata.csv").is_file():
        write_tagged(data)
    source = [str(data), "--positive", "OPACITY", "--image-size", "32"]
    settings = [part for text in RESNET for part in ("--set", text)]
    runs = {
        "diffusion": trained(
            ["train", *source, *TINY, "--images-seen", str(IMAGES_SEEN)],
            work / "diffusion",
        )
    }
    minutes = str(round(runs["diffusion"]["train_seconds"] / 60, 1))
    runs["resnet18"] = trained(
        ["baseline", *source, "--minutes", minutes, *settings], work / "resnet18"
    )
    dataset = open_dataset(data, positive="OPACITY")
    images = dataset.subset([r for r in dataset.records if r.role == options.role])
    table = pd.read_csv(data / "metadata.csv").set_index("path")
    tag = table.loc[[r.image_id for r in images.records], "tag"].to_numpy() == 1
    y = np.array([images.classes.index(str(r.label)) for r in images.records])
    model, resnet = DiffusionModel.load(work / "diffusion"), Baseline.load(work / "resnet18")
    positive = model.classes.index("OPACITY")
    errors, maps = classified(model, images, TRIALS)
    y_hat = {
        "diffusion, vote": vote_share(majority_vote(errors)).argmax(axis=1),
        "diffusion, mean of v": errors.mean(axis=2).argmin(axis=1),
        "ResNet-18": baseline_scores(resnet, images).argmax(axis=1),
    }
    where = np.flatnonzero(tag)
    tagged = images.subset([images.records[i] for i in where])
    evidence = (maps[:, 1 - positive] - maps[:, positive]).sum(-1)[where]
    x = preprocessed(resnet, tagged).split(BATCH)
    layer = resnet.network.layer2  # 4 x 4 at this size; the last layer has one pixel
    cams = np.concatenate([grad_cam(resnet, layer, b, torch.full((len(b),), positive)) for b in x])
    result = {
        "name": "shortcut",
        "role": options.role,
        "data": f"{PHANTOMS}, tagged",
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "trials": TRIALS,
        "runs": runs,
        "accuracy": {name: by_group(y, made, tag, images) for name, made in y_hat.items()},
        "maps_on_tagged_images": {
            "evidence": on_tag(evidence, tagged),
            "Grad-CAM": on_tag(cams, tagged),
        },
    }
    suffix = "" if options.role == "test" else f"-{options.role}"
    write_json(RESULTS / f"shortcut{suffix}.json", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
