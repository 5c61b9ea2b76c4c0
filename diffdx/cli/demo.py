"""`diffdx demo`: the whole path on drawn phantoms, on any machine, without network or data.

Train, classify by vote, measure uncertainty, explain by a counterfactual, report as one page.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffdx.cli import options
from diffdx.cli.console import NOTICE, Reporter
from diffdx.cli.folders import require_room

if TYPE_CHECKING:
    from diffdx.backbones.model import DiffusionModel
    from diffdx.data.dataset import Dataset
    from diffdx.report.explanation_figures import Counterfactual

PHANTOMS = "phantoms:chest?n=2400&size=32"
SAME_LOOKS = tuple(
    f"train.augment.{value}" for value in ("gamma=1", "contrast=1", "blur_sigma_px=null")
)
"""No changes of brightness and sharpness: the drawn lesions are told by them."""
LOGSNR_START = 1.0
"""Noise level of the demo's counterfactual, in nats: the anatomy survives, the lesion does not."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("out/demo"),
    minutes: Annotated[float | None, typer.Option(help="Train by time, not by steps.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 600,
    trials: Annotated[int, typer.Option(min=1, help="Trials per test image.")] = 51,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    as_json: options.Json = False,
) -> None:
    """Train, classify, explain and report on built-in phantoms; under 5 minutes on 2 cores.

    Phantoms are drawings: the result says that the installation works and how the method behaves,
    and nothing about patients. Research use only, not a medical device.
    """
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        from diffdx._device import resolve_device, resolve_precision
        from diffdx.backbones.model import DiffusionModel
        from diffdx.classification.runner import ClassifySettings, classify_dataset
        from diffdx.cli.evaluate import describe
        from diffdx.cli.report import cases
        from diffdx.cli.training import run_training
        from diffdx.config import resolve_config
        from diffdx.data.readers import open_dataset
        from diffdx.data.splits import make_splits
        from diffdx.evaluation.summary import evaluate_predictions
        from diffdx.report.facts import gather_facts
        from diffdx.report.html import PAGE_FILE, write_report
        from diffdx.training.run import TrainRequest, train

        require_room(out, overwrite=overwrite)
        where = resolve_device(device)
        dataset = open_dataset(PHANTOMS)
        splits = make_splits(dataset, seed=seed)
        config = resolve_config(
            "tiny",
            options={
                "seed": seed,
                "train.minutes": minutes,
                "train.steps": None if minutes else steps,
            },
            assignments=SAME_LOOKS,
        )
        request = TrainRequest(
            dataset=dataset,
            splits=splits,
            config=config,
            out=out / "run",
            device=where,
            precision=resolve_precision(precision, where),
            arguments=["demo"],
        )
        run_training(reporter, request, train)
        model = DiffusionModel.load(out / "run").to(where)
        test = dataset.select(splits.image_id[splits.role == "test"])
        folder = out / "predictions"
        with reporter.progress(f"classifying {len(test)} images") as line:
            classify_dataset(
                model,
                test,
                folder,
                ClassifySettings(num_trials=trials, seed=seed, device=device, precision=precision),
                line.count,
            )
        summary = evaluate_predictions(folder)
        reporter.say("explaining one image by its counterfactual")
        facts = gather_facts([folder], [out / "run"])
        page = write_report(
            facts,
            folder / PAGE_FILE,
            title="diffdx demo: chest phantoms",
            cases=cases(facts, test),
            counterfactuals=[_counterfactual(model, test)],
        )
        text = f"{describe(str(folder), summary)}\nThese are drawings, not patients.\n{page}"
        reporter.result(text, {"page": str(page), "notice": NOTICE, **summary})


def _counterfactual(model: "DiffusionModel", dataset: "Dataset") -> "Counterfactual":
    """Return the first abnormal image, shown as it is and as if it were normal."""
    import torch

    from diffdx.explain.counterfactual import EditSettings, counterfactuals
    from diffdx.report.explanation_figures import Counterfactual
    from diffdx.transforms.pixels import to_uint8

    positive = str(model.positive)
    record = next(r for r in dataset.records if r.label == positive)
    target = next(name for name in model.classes if name != positive)
    x = torch.from_numpy(model.preprocess(dataset.pixels(record)))[None]
    y_src, y_cf = (torch.tensor([model.classes.index(name)]) for name in (positive, target))
    settings = EditSettings.of(model, logsnr_start=LOGSNR_START, method="noise")
    pair = counterfactuals(model, x, y_src, y_cf, settings)
    original, factual, counterfactual = (
        to_uint8(image[0].mean(0).cpu().numpy()) for image in (x, pair.x_factual, pair.x_cf)
    )
    return Counterfactual(
        source=positive,
        target=target,
        original=original,
        factual=factual,
        counterfactual=counterfactual,
        difference=pair.difference[0].mean(0).cpu().numpy(),
    )
