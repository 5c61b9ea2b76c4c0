"""The paper's figures as data: which cells each needs, what else must be computed, how it is drawn.

Pictures that a figure needs and no cell has (samples, counterfactuals) are made by ordinary
commands into OUT/samples and OUT/explained, once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image

from diffdx.backbones.parts import build_schedule
from diffdx.config import RunConfig
from diffdx.errors import DataError
from diffdx.evaluation import read_predictions
from diffdx.paper.carry_out import LOG_FILE, Execute, do_steps, is_finished
from diffdx.paper.cells import CELLS, Cell, Step
from diffdx.paper.plan import FINE_TUNED, ZERO_SHOT, Plan
from diffdx.paper.published import DATASETS, DatasetName
from diffdx.report import paper_figures
from diffdx.report.explanation_figures import Counterfactual, sheet_figure, write_figure
from diffdx.transforms.pixels import to_uint8

SAMPLES = 8
"""Generated images of a prompt."""
T_START: dict[DatasetName, float] = {"chexpert": 0.5, "isic": 0.3}
"""Time that an edit starts from (paper appendix F), under the schedule of the run."""
EXPLAINED_TRIALS = 11


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper.

    Attributes:
        name: As on the command line, and of its files.
        methods: Rows of Table 1 that it shows.
        datasets: Their sets.
        drawn: Makes it from the cells.
    """

    name: str
    methods: tuple[str, ...]
    datasets: tuple[DatasetName, ...]
    drawn: Callable[[Plan, Sequence[Cell], Execute], Figure]

    @property
    def cells(self) -> list[Cell]:
        """The cells that it is drawn from."""
        return [
            cell
            for name in self.methods
            for cell in CELLS
            if cell.method.name == name and cell.dataset in self.datasets
        ]


def draw(figure: PaperFigure, plan: Plan, execute: Execute) -> list[Path]:
    """Draw a figure into OUT/figures as PDF and PNG; return the files.

    Raises:
        DataError: if a cell is not there, naming the command that makes it.
        StepError: if a command that makes its pictures failed.
    """
    missing = [cell.name for cell in figure.cells if not is_finished(plan, cell)]
    if missing:
        raise DataError(
            f"{plan.out}: {figure.name} needs cells that are not there; make them with `diffdx "
            f"reproduce table1 --root DATASETS --out {plan.out} --only {' '.join(missing)}`"
        )
    drawn = figure.drawn(plan, figure.cells, execute)
    paths = [plan.out / "figures" / f"{figure.name}.{suffix}" for suffix in ("pdf", "png")]
    for path in paths:
        write_figure(path, drawn)
    return paths


def _of_predictions(
    drawing: Callable[[paper_figures.Predictions], Figure],
) -> Callable[[Plan, Sequence[Cell], Execute], Figure]:
    """Return how a figure is drawn from predictions alone."""

    def drawn(plan: Plan, cells: Sequence[Cell], execute: Execute) -> Figure:
        found = {
            (plan.title(cell), plan.scale.sources[cell.dataset].folder): read_predictions(
                plan.folder(cell) / "predictions"
            ).labelled()
            for cell in cells
        }
        return drawing(found)

    return drawn


def _by_trials(found: paper_figures.Predictions) -> Figure:
    return paper_figures.trials_figure({place: [stored] for place, stored in found.items()})


def _validation(plan: Plan, cells: Sequence[Cell], execute: Execute) -> Figure:
    history = {}
    for cell in cells:
        lines = (plan.folder(cell) / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        name = f"{plan.title(cell)}, {plan.scale.sources[cell.dataset].folder}"
        history[name] = [(e["step"], e["validation"]) for e in entries if "validation" in e]
    return paper_figures.validation_figure(history)


def _samples(plan: Plan, cells: Sequence[Cell], execute: Execute) -> Figure:
    rows = []
    for cell in cells:
        run = plan.folder(cell) / "run"
        prompts = yaml.safe_load((run / "config.yaml").read_text("utf-8"))["model"]["backbone"]
        for name, texts in prompts["prompts"].items():
            folder = plan.out / "samples" / cell.method.name / cell.dataset / name.replace(" ", "-")
            options = ["--class", name, "--n", str(SAMPLES), "--guidance", "2", "--overwrite"]
            arguments = ("sample", str(run), "--out", str(folder), "--device", plan.device)
            step = Step("diffdx", (*arguments, *options), folder, folder / "grid.png")
            do_steps([step], execute, plan.out / "samples" / LOG_FILE)
            files = sorted(folder.glob("*-[0-9][0-9][0-9][0-9].png"))
            rows.append((texts[0], [_picture(file) for file in files]))
    return paper_figures.samples_figure(rows)


def _picture(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _counterfactuals(count: int) -> Callable[[Plan, Sequence[Cell], Execute], Figure]:
    """Return how a sheet of `count` explained images a set is drawn."""

    def drawn(plan: Plan, cells: Sequence[Cell], execute: Execute) -> Figure:
        cases = [case for cell in cells for case in _explained(plan, cell, count, execute)]
        return sheet_figure(cases)

    return drawn


def _explained(plan: Plan, cell: Cell, count: int, execute: Execute) -> list[Counterfactual]:
    """Return a set's surest sick images as they are, and shown healthy."""
    folder = plan.out / "explained" / cell.dataset / str(count)
    run, sick = plan.folder(cell) / "run", plan.scale.sources[cell.dataset].classes[1]
    healthy = plan.scale.sources[cell.dataset].classes[0]
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    schedule = build_schedule(RunConfig.model_validate(config).model.schedule)
    logsnr = float(schedule.logsnr(torch.tensor(T_START[cell.dataset])))
    chosen = _surest(plan.folder(cell) / "predictions", sick, count)
    arguments = (
        *("explain", str(run), *chosen, "--from", sick, "--to", healthy, "--method", "noise"),
        *("--t-start", f"{logsnr:.4f}", "--trials", str(EXPLAINED_TRIALS), "--out", str(folder)),
        *("--device", plan.device, "--no-progress", "--overwrite"),
    )
    step = Step("diffdx", arguments, folder, folder / "explanations.json")
    do_steps([step], execute, plan.out / "explained" / LOG_FILE)
    table = pd.read_parquet(folder / "explanations.parquet")
    rows = table[table["status"] == "ok"].to_dict("records")
    return [_case(folder, {str(name): value for name, value in row.items()}) for row in rows]


def _surest(predictions: Path, sick: str, count: int) -> list[str]:
    """Return the images called sick, and rightly, by the largest share of the votes.

    Raises:
        DataError: if there is none.
    """
    stored = read_predictions(predictions).labelled()
    table = stored.table
    right = table[(table["label"] == sick) & (table["prediction"] == sick)]
    ordered = right.sort_values([f"vote_share_{sick}", "image_id"], ascending=[False, True])
    if ordered.empty:
        raise DataError(
            f"{predictions}/predictions.parquet: no image labelled {sick} was called so; the model "
            "has learned too little to be explained: train it longer (--steps)"
        )
    return [str(path) for path in ordered["path"][:count]]


def _case(folder: Path, row: dict[str, Any]) -> Counterfactual:
    with np.load(folder / str(row["folder"]) / "arrays.npz") as arrays:
        x = {name: arrays[name] for name in ("x", "x_factual", "x_cf")}
        evidence = arrays["evidence"]
    pictures = {name: np.moveaxis(to_uint8(image), 0, -1) for name, image in x.items()}
    original, factual, counterfactual = (
        p[..., 0] if p.shape[-1] == 1 else p for p in pictures.values()
    )
    return Counterfactual(
        source=str(row["y_src"]),
        target=str(row["y_cf"]),
        original=original,
        factual=factual,
        counterfactual=counterfactual,
        difference=(x["x_cf"] - x["x_factual"]).mean(axis=0),
        evidence=evidence,
        caption=f"called {row['prediction']}; its counterfactual {row['prediction_cf']}",
    )


DIFFUSION = ("dit", "unet", FINE_TUNED)

FIGURES = {
    figure.name: figure
    for figure in (
        PaperFigure("fig2", ("unet", "dit"), DATASETS, _of_predictions(_by_trials)),
        PaperFigure("fig3", DIFFUSION, DATASETS, _of_predictions(paper_figures.filtered_figure)),
        PaperFigure("fig4", ("unet",), DATASETS, _counterfactuals(1)),
        PaperFigure("fig5", ("unet", "dit"), ("isic",), _validation),
        PaperFigure("fig6", (ZERO_SHOT,), DATASETS, _samples),
        PaperFigure("fig7", (FINE_TUNED,), DATASETS, _samples),
        PaperFigure(
            "fig8", DIFFUSION, DATASETS, _of_predictions(paper_figures.filtered_by_model_figure)
        ),
        PaperFigure("fig9", DIFFUSION, DATASETS, _of_predictions(paper_figures.entropy_figure)),
        PaperFigure("fig10", ("unet",), ("chexpert",), _counterfactuals(6)),
        PaperFigure("fig11", ("unet",), ("isic",), _counterfactuals(6)),
    )
}
