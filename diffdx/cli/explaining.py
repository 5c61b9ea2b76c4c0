"""Explains a dataset into a folder: arrays, pictures, sheet, scorecard."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdx.cli.console import Reporter
from diffdx.errors import DataError

if TYPE_CHECKING:
    from diffdx.backbones.model import DiffusionModel
    from diffdx.data.dataset import Dataset, Record
    from diffdx.explain.explainer import Explainer, Explanation, Item
    from diffdx.explain.folder import ExplanationFolder
    from diffdx.explain.judges import BaselineJudge
    from diffdx.explain.predicted import Predicted
    from diffdx.report.explanation_figures import Counterfactual

SHEET_ROWS = 12
"""Images on the sheet."""
TRAJECTORY_PICTURES = 10


def explain_dataset(
    reporter: Reporter,
    dataset: "Dataset",
    explainer: "Explainer",
    folder: Path,
    *,
    known: "Predicted | None",
    judge: "BaselineJudge | None",
    seed: int,
) -> dict[str, Any]:
    """Explain every image into an empty folder; return what the run says of itself.

    Args:
        reporter: Where to show warnings and progress.
        dataset: The images.
        explainer: How.
        folder: Where to write.
        known: What is known of the images already.
        judge: Says whether images flipped; None leaves the scorecard to the model itself.
        seed: Of the scorecard's bootstrap.
    """
    from diffdx.explain.folder import ExplanationFolder

    warnings = list(dict.fromkeys([*explainer.model.warnings, *dataset.warnings]))
    for warning in warnings:
        reporter.warn(warning)
    settings = explainer.settings
    edit = settings.edit
    reporter.say(
        f"from log-SNR {edit.logsnr_start:g} nats ({edit.method}), guidance "
        f"{edit.guidance_scale:g}, draws {edit.draws}, trials {settings.num_trials}"
    )
    written = ExplanationFolder(folder, explainer)
    with reporter.working():
        shown = _explain_all(reporter, dataset, explainer, known, written)
    return _finish(written, shown, judge, {"warnings": warnings}, seed)


def _explain_all(
    reporter: Reporter,
    dataset: "Dataset",
    explainer: "Explainer",
    known: "Predicted | None",
    written: "ExplanationFolder",
) -> "list[Counterfactual]":
    """Explain and write every image; return those that go on the sheet."""
    from diffdx._interrupt import stop_requests
    from diffdx.report.explanation_figures import write_pictures

    shown: list[Counterfactual] = []
    title, total = f"explaining {len(dataset)} images", len(dataset)
    with stop_requests() as stop, reporter.progress(title) as line:
        for record, result in _results(dataset, explainer, known):
            folder = written.add(record, result)
            if folder is not None and not isinstance(result, Exception):
                case = _shown(result, explainer.model.classes)
                write_pictures(folder, case)
                _write_trajectory(folder, result)
                shown += [case] if len(shown) < SHEET_ROWS else []
            line.count(len(written.rows), total)
            if stop.signal_number is not None:
                written.finish({"interrupted": True})
            stop.raise_if_made()
    return shown


def _results(
    dataset: "Dataset", explainer: "Explainer", known: "Predicted | None"
) -> "Iterator[tuple[Record, Explanation | Exception]]":
    """Yield each record with its explanation, or with what kept it from one."""
    records = iter(dataset.records)
    while batch := list(islice(records, explainer.settings.images_per_call)):
        items: list[Item] = []
        failed: dict[str, Exception] = {}
        for record in batch:
            try:
                items.append(_item(record, dataset, explainer.model))
            except DataError as error:
                failed[record.image_id] = error
        judged = None if known is None else [known.judged(r.image_id) for r, _, _ in items]
        results = iter(explainer.explain(items, judged) if items else [])
        for record in batch:
            yield record, failed.get(record.image_id) or next(results)


def _item(record: "Record", dataset: "Dataset", model: "DiffusionModel") -> "Item":
    import numpy as np
    import torch

    x = torch.from_numpy(model.preprocess(dataset.pixels(record)))
    mask = dataset.mask(record)
    if mask is None:
        return record, x, None
    # As the pixels were resized, so is the mask.
    return record, x, model.pixels.store(255 * mask.astype(np.uint8))[0] > 127


def _shown(result: "Explanation", classes: tuple[str, ...]) -> "Counterfactual":
    import numpy as np

    from diffdx.report.explanation_figures import Counterfactual
    from diffdx.transforms.pixels import to_uint8

    one = result.explained
    pictures = (np.moveaxis(to_uint8(x), 0, -1) for x in (one.x, one.x_factual, one.x_cf))
    original, factual, counterfactual = (p[..., 0] if p.shape[-1] == 1 else p for p in pictures)
    label = "" if one.label is None else f"labelled {classes[one.label]}, "
    return Counterfactual(
        source=classes[one.y_src],
        target=classes[one.y_cf],
        original=original,
        factual=factual,
        counterfactual=counterfactual,
        difference=one.difference.mean(axis=0),
        evidence=result.evidence,
        significance=result.significance,
        caption=f"{label}called {classes[result.y_hat]}; "
        f"its counterfactual {classes[result.y_hat_cf]}",
    )


def _write_trajectory(folder: Path, result: "Explanation") -> None:
    if result.trajectory is None:
        return
    import numpy as np
    import torch

    from diffdx.transforms.pictures import grid_image, write_png

    count = min(TRAJECTORY_PICTURES, len(result.trajectory))
    chosen = np.linspace(0, len(result.trajectory) - 1, count).round().astype(int)
    pictures = torch.from_numpy(result.trajectory[chosen])
    write_png(folder / "trajectory.png", grid_image(pictures, len(chosen)))


def _finish(
    written: "ExplanationFolder",
    shown: "list[Counterfactual]",
    judge: "BaselineJudge | None",
    facts: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Write sheet, scorecard and table; return what the run says of itself."""
    from diffdx._files import write_json
    from diffdx.explain.scorecard import scorecard
    from diffdx.report.explanation_figures import sheet_figure, write_figure

    info = written.finish({**facts, "judge_sha256": None if judge is None else judge.sha256})
    if not shown:
        return info
    sheet = sheet_figure(shown)
    for suffix in ("png", "pdf"):
        write_figure(written.path / f"sheet.{suffix}", sheet)
    scores = scorecard(
        written.explained,
        judge,
        written.self_judge,
        seed=seed,
        forced=written.forced,
        features=None if judge is None else judge.features,
    )
    write_json(written.path / "scorecard.json", scores)
    return {**info, "scorecard": scores}
