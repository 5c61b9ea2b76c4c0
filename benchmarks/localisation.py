"""Does the map point at the lesion? Evidence maps against Grad-CAM, on phantoms with known masks.

    python benchmarks/localisation.py --work out/localisation --role val
    python benchmarks/localisation.py --work out/localisation --role test

Trains a diffusion model and a ResNet-18 on the same phantoms, each for as many images as it sees in
the same time alone on one thread, by the commands that the result names; a run that is there
already is used as it is. What a map leaves open (which log-SNRs count, how it is smoothed, which
layer of the ResNet) is chosen by the pointing game on the `val` role, for every kind of map alike,
and kept in WORK/chosen.json; other roles take it from there. Scored are all images with a lesion,
called rightly or not. Writes
benchmarks/results/localisation.json (`localisation-ROLE.json` for a role other than test).
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from phantom_runs import BATCH, TINY, Scored, baseline_scores, classified, preprocessed, trained
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffdx._device import cpu_name
from diffdx._files import write_json
from diffdx.backbones.classifiers import Baseline
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.data.dataset import Dataset
from diffdx.data.readers import open_dataset
from diffdx.data.splits import load_splits
from diffdx.explain.counterfactual import EditSettings, counterfactuals
from diffdx.explain.localisation import energy_in_mask, hits_mask, smoothed
from diffdx.explain.saliency import grad_cam, integrated_gradients
from diffdx.metrics import auroc

RESULTS = Path(__file__).parent / "results"
DATA = "phantoms:chest?n=6000&size=32&difficulty=0.84"
# In the same time on one thread: 240 images/s of the one network, 310 of the other.
IMAGES_SEEN = {"diffusion": 80_000, "resnet18": 100_000}
# The sign of these phantoms is a texture of 3 to 4.5 pixels, which blur would wipe out.
RESNET = ("train.augment.blur_sigma_px=null", "train.augment.rotate_degrees=10")
TRIALS = 51
PARTS = [range(a, b) for a, b in combinations(range(5), 2)]
SMOOTHING_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
LAYERS = ("layer1", "layer2", "layer3", "layer4")

Maps = dict[str, np.ndarray]
"""Candidates of one kind of map, by the name of what they leave open: (n, H, W)."""


def by_pixels(dataset: Dataset, role: dict[str, str], test: Dataset) -> np.ndarray:
    """Return the score of a logistic regression on pixels, fitted on the train role."""
    train = dataset.select([i for i, r in role.items() if r == "train"])

    def features(part: Dataset) -> np.ndarray:
        return np.stack([part.pixels(r).ravel().astype(float) for r in part.records])

    y = [r.label == dataset.positive for r in train.records]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return model.fit(features(train), y).decision_function(features(test))


def evidence(maps: np.ndarray, positive: int) -> Maps:
    """Return the evidence for the positive class, from every run of neighbouring parts."""
    toward = maps[:, 1 - positive] - maps[:, positive]
    return {f"parts {p[0]}-{p[-1]}": toward[..., list(p)].sum(-1) for p in PARTS}


def of_baseline(model: Baseline, x: torch.Tensor, positive: int) -> dict[str, Maps]:
    """Return Grad-CAM at several layers, and integrated gradients."""

    def in_batches(make: Callable[[torch.Tensor, torch.Tensor], np.ndarray]) -> np.ndarray:
        return np.concatenate([make(b, torch.full((len(b),), positive)) for b in x.split(BATCH)])

    cams = {
        name: in_batches(lambda b, y, n=name: grad_cam(model, getattr(model.network, n), b, y))
        for name in LAYERS
    }
    gradients = in_batches(lambda b, y: integrated_gradients(model, b, y))
    return {"Grad-CAM": cams, "integrated gradients": {"-": gradients}}


def differences(model: DiffusionModel, x: torch.Tensor, positive: int) -> Maps:
    """Return |x_cf - x_factual| from the lesion's class to the other one."""
    edit = EditSettings(method="contrast", logsnr_start=0.0, guidance_scale=3.0, num_steps=15)
    parts = []
    for batch in x.split(BATCH):
        y = torch.full((len(batch),), positive)
        parts.append(counterfactuals(model, batch, y, 1 - y, edit).difference.abs().mean(1))
    return {"contrast, logsnr_start 0, guidance 3": torch.cat(parts).numpy()}


def settings_of(kinds: dict[str, Maps], masks: np.ndarray) -> dict[str, dict]:
    """Return for each kind of map the candidate and smoothing that hit most masks."""

    def tried(maps: Maps) -> Iterator[tuple[float, float, str]]:
        for name, candidates in maps.items():
            for sigma in SMOOTHING_PX:
                pairs = zip(candidates, masks, strict=True)
                hits = np.mean([hits_mask(smoothed(m, sigma), mask) for m, mask in pairs])
                yield float(hits), -sigma, name

    best = {kind: max(tried(maps)) for kind, maps in kinds.items()}
    return {k: {"from": name, "smoothing_px": -sigma} for k, (_, sigma, name) in best.items()}


def scored(
    kinds: dict[str, Maps], masks: np.ndarray, chosen: dict[str, dict], lesions: Dataset
) -> list[dict]:
    """Return pointing game and energy of each kind of map, and its energy against Grad-CAM's."""
    score, energies, rows = Scored(lesions), {}, []
    for kind, setting in chosen.items():
        maps = [smoothed(m, setting["smoothing_px"]) for m in kinds[kind][setting["from"]]]
        pairs = list(zip(maps, masks, strict=True))
        energies[kind] = np.nan_to_num([energy_in_mask(*pair) for pair in pairs])
        hits = np.array([hits_mask(*pair) for pair in pairs])
        row = {"pointing_game": score.mean(hits), "energy_in_mask": score.mean(energies[kind])}
        rows.append({"case": kind, **setting, **row})
    for row in rows:
        ratio = score.quotient(energies[row["case"]], energies["Grad-CAM"])
        row["energy_against_grad_cam"] = ratio
    return rows


def main() -> None:
    """Train what is missing, choose on val or take what was chosen, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("out/localisation"))
    parser.add_argument("--role", default="test", choices=["val", "calib", "test"])
    parser.add_argument("--limit", type=int, help="first N images of the role")
    options = parser.parse_args()
    work = options.work
    runs = {
        "diffusion": trained(
            ["train", DATA, *TINY, "--images-seen", str(IMAGES_SEEN["diffusion"])],
            work / "diffusion",
        )
    }
    common = ["--image-size", "32", "--images-seen", str(IMAGES_SEEN["resnet18"])]
    settings = [part for text in RESNET for part in ("--set", text)]
    splits = work / "diffusion" / "splits.csv"
    runs["resnet18"] = trained(
        ["baseline", DATA, "--splits", str(splits), *common, *settings], work / "resnet18"
    )
    dataset, frame = open_dataset(DATA), load_splits([splits])
    role = dict(zip(frame.image_id, frame.role, strict=True))
    chosen_role = dataset.select([i for i, r in role.items() if r == options.role])
    images = chosen_role.subset(chosen_role.records[: options.limit])
    model, resnet = DiffusionModel.load(work / "diffusion"), Baseline.load(work / "resnet18")
    positive = model.classes.index(str(model.positive))
    y = np.array([int(r.label == model.positive) for r in images.records])

    errors, error_maps = classified(model, images, TRIALS)
    ill = np.flatnonzero(y)
    lesions = images.subset([images.records[i] for i in ill])
    masks = np.stack([lesions.mask(r) for r in lesions.records])
    x = preprocessed(model, lesions)
    every = evidence(error_maps[ill], positive)
    kinds = {"evidence": {"parts 0-3": every["parts 0-3"]}, "evidence, chosen parts": every}
    kinds["difference"] = differences(model, x, positive)
    kinds |= of_baseline(resnet, x, positive)
    settings_file = work / "chosen.json"
    if options.role == "val":
        write_json(settings_file, settings_of(kinds, masks))
    chosen = json.loads(settings_file.read_text())

    everyone, mean_error = Scored(images), errors.mean(axis=2)
    scores = {
        "logistic regression on pixels": by_pixels(dataset, role, images),
        "ResNet-18": baseline_scores(resnet, images)[:, positive],
        "diffusion, vote": vote_share(majority_vote(errors))[:, positive],
        "diffusion, mean of v": mean_error[:, 1 - positive] - mean_error[:, positive],
    }
    ranked = {
        name: everyone.metric(
            lambda w, s=s: auroc(y, np.stack([-s, s], 1), positive=1, weights=w), len(y)
        )
        for name, s in scores.items()
    }
    result = {
        "name": "localisation",
        "role": options.role,
        "data": DATA,
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "trials": TRIALS,
        "runs": runs,
        "auroc": ranked,
        "mask_share_of_image": round(float(masks.mean()), 4),
        "cases": scored(kinds, masks, chosen, lesions),
    }
    suffix = "" if options.role == "test" else f"-{options.role}"
    write_json(RESULTS / f"localisation{suffix}.json", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
