"""Counterfactuals of the chest X-ray reference run, scored: which settings, and what they give.

    python benchmarks/scorecard.py DATA --judge RESNET_RUN --role val --grid --limit 24
    python benchmarks/scorecard.py DATA --judge RESNET_RUN --role test --limit 100
    python benchmarks/scorecard.py DATA --judge RESNET_RUN --run RUN --guidance 1 1.5 2 3

PNEUMONIA is turned NORMAL, and NORMAL images are the controls. `--grid` scores every setting below
on the first images of each class of a seeded shuffle; without it the one in CHOSEN, chosen on
`val`, is scored, and the diffusion classifier is asked as well. The judge is a ResNet-18 trained on
the same splits (`diffdx baseline DATA --splits assets/cxr64/splits.csv`). Sick images are explained
as the diffusion classifier calls them; those it calls NORMAL are left out and counted. `--guidance`
scores the chosen setting at other scales, `--run` another run than the reference run. Writes
benchmarks/results/scorecard[-RUN][-grid][-ROLE].json.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch

from diffdx._device import cpu_name, resolve_device, resolve_precision
from diffdx._files import write_json
from diffdx._random import epoch_order
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.voting import majority_vote
from diffdx.data.dataset import Record
from diffdx.data.readers import open_dataset
from diffdx.data.splits import load_splits
from diffdx.explain.counterfactual import EditSettings, counterfactuals
from diffdx.explain.explained import Explained
from diffdx.explain.judges import BaselineJudge
from diffdx.explain.scorecard import scorecard

ROOT = Path(__file__).parent.parent
RUN, RESULTS = ROOT / "assets" / "cxr64", Path(__file__).parent / "results"
SICK, HEALTHY = "PNEUMONIA", "NORMAL"
GRID = [
    {"method": method, "logsnr_start": start, "guidance_scale": scale}
    for method, starts, scales in (
        ("noise", (-2.8, -1.0, 0.5), (2.0, 4.0)),
        ("ddim", (-4.2, -2.8), (2.0, 4.0)),
        ("contrast", (-4.2, -3.2, -2.5), (2.0, 2.5, 3.0)),
    )
    for start, scale in itertools.product(starts, scales)
]
CHOSEN = {"method": "contrast", "logsnr_start": -2.5, "guidance_scale": 3.0}
STEPS = 20
TRIALS = 51
BATCH = 32


class Cases:
    """The images to explain, as the diffusion classifier calls them."""

    def __init__(
        self, model: DiffusionModel, data: str, splits: Path, role: str, limit: int
    ) -> None:
        """Read `limit` images of each class, and classify them."""
        self.model, self.dataset = model, open_dataset(data)
        frame = load_splits([splits])
        ids = dict.fromkeys(frame.image_id[frame.role == role])
        records = self.dataset.select(ids).records
        shuffled = [records[i] for i in epoch_order(0, 0, len(records)).tolist()]
        sick, healthy = ([r for r in shuffled if r.label == c][:limit] for c in (SICK, HEALTHY))
        self.y_hat = self.called(sick + healthy)
        self.sick = [r for r in sick if self.y_hat[r.image_id] == model.classes.index(SICK)]
        self.healthy, self.missed = healthy, len(sick) - len(self.sick)

    def pictures(self, records: list[Record]) -> torch.Tensor:
        """Return images in model range."""
        return torch.from_numpy(
            np.stack([self.model.preprocess(self.dataset.pixels(r)) for r in records])
        )

    def called(self, records: list[Record]) -> dict[str, int]:
        """Return what the diffusion classifier calls each image, by vote."""
        errors = votes_of(self.model, self.pictures(records))
        return {r.image_id: int(k) for r, k in zip(records, errors.argmax(1), strict=True)}

    def explained(
        self, records: list[Record], y_src: list[int], edit: EditSettings
    ) -> list[Explained]:
        """Return the explanations of these images, toward HEALTHY."""
        classes, rows = self.model.classes, []
        for first in range(0, len(records), BATCH):
            part = records[first : first + BATCH]
            x, y = self.pictures(part), torch.tensor(y_src[first : first + BATCH])
            target = torch.full_like(y, classes.index(HEALTHY))
            made = counterfactuals(self.model, x, y, target, edit, controls=True)
            images = (x, made.x_factual, made.x_cf, made.x_null, made.x_back)
            for n, r in enumerate(part):
                names = r.image_id, r.patient_id or r.image_id, classes.index(str(r.label))
                arrays = [image[n].numpy() for image in images]
                rows.append(Explained(*names, int(y[n]), int(target[n]), *arrays, nfe=made.nfe))
        return rows


def votes_of(model: DiffusionModel, x: torch.Tensor) -> np.ndarray:
    """Return votes (n, K) of the diffusion classifier."""
    errors = denoising_errors(
        model.denoiser,
        model.schedule,
        list(x),
        TrialBank(),
        num_trials=TRIALS,
        encode=model.transform.encode,
        precision=resolve_precision("auto", resolve_device("cpu")),
    )
    return majority_vote(np.stack([one.errors for one in errors]))


def scored(cases: Cases, judge: BaselineJudge, setting: dict, *, ask_itself: bool) -> dict:
    """Return the scorecard of one setting."""
    started = time.perf_counter()
    edit = EditSettings(**setting, num_steps=STEPS)
    sick = cases.model.classes.index(SICK)
    called = [cases.y_hat[r.image_id] for r in cases.healthy]
    rows = cases.explained(cases.sick, [sick] * len(cases.sick), edit)
    rows += cases.explained(cases.healthy, called, edit)
    forced = cases.explained(cases.healthy, [sick] * len(cases.healthy), edit)

    def itself(pictures: np.ndarray) -> np.ndarray:
        return votes_of(cases.model, torch.from_numpy(pictures))

    scores = scorecard(
        rows,
        judge,
        itself if ask_itself else None,
        seed=0,
        forced=forced,
        features=judge.features,
    )
    short = {
        name: {k: v if v is None else round(v, 4) for k, v in score.items()}
        for name, score in scores.items()
        if score["n"]
    }
    seconds = round(time.perf_counter() - started, 1)
    return {**setting, "nfe": rows[0].nfe, "seconds": seconds, "scores": short}


def main() -> None:
    """Score the grid, or the chosen setting, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--role", default="val", choices=["val", "test"])
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--guidance", type=float, nargs="+")
    parser.add_argument("--limit", type=int, default=24, help="images of each class")
    options = parser.parse_args()
    chooses = options.grid or options.guidance
    if chooses and options.role != "val":
        parser.error("settings are chosen on val: leave out --grid and --guidance, or --role val")
    settings = GRID if options.grid else [CHOSEN]
    if options.guidance:
        settings = [CHOSEN | {"guidance_scale": scale} for scale in options.guidance]
    model = DiffusionModel.load(options.run)
    cases = Cases(model, options.data, options.run / "splits.csv", options.role, options.limit)
    judge = BaselineJudge(options.judge, model)
    rows = []
    for setting in settings:
        rows.append(scored(cases, judge, setting, ask_itself=not options.grid))
        values = {name: score["value"] for name, score in rows[-1]["scores"].items()}
        print(setting, json.dumps(values), f"{rows[-1]['seconds']} s", flush=True)
    result = {
        "name": "scorecard",
        "role": options.role,
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "model_sha256": model.sha256,
        "steps": STEPS,
        "sick": len(cases.sick),
        "sick_called_healthy": cases.missed,
        "healthy": len(cases.healthy),
        "cases": rows,
    }
    suffix = ("" if options.run == RUN else f"-{options.run.name}") + ("-grid" if chooses else "")
    suffix += "" if options.role == "test" else "-val"
    write_json(RESULTS / f"scorecard{suffix}.json", result)


if __name__ == "__main__":
    main()
