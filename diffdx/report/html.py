"""One self-contained HTML page about one predictions folder.

Tables quote `summary.json`; figures are drawn from the stored errors. The page asks nothing of any
server: styles and pictures are inside, and its content policy forbids the rest.
"""

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from diffdx._files import write_text
from diffdx._notice import NOTICE
from diffdx.errors import DataError
from diffdx.evaluation import StoredPredictions, read_predictions
from diffdx.evaluation.comparison import COMPARISON_FILE
from diffdx.evaluation.predictions import DIFFUSION
from diffdx.report import calibration_figures, figures, tables
from diffdx.report.comparison_table import comparison_table
from diffdx.report.explanation_figures import Counterfactual, counterfactual_figure

Picture = bytes | UInt8[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"]
"""A PNG file's bytes, or pixels."""

_FIGURES = (
    (figures.roc_figure, "Receiver operating characteristic; dots: the built-in thresholds."),
    (
        figures.share_figure,
        "Vote shares (or softmax) by label: a score, not a calibrated probability.",
    ),
    (
        figures.uncertainty_figure,
        "Left: accuracy as the most uncertain images are filtered out. Right: entropy where "
        "the prediction is right and wrong.",
    ),
)
_TRIAL_FIGURES = (
    (figures.trials_figure, "What more trials bring, from the first trials of the same store."),
    (
        figures.logsnr_figure,
        "Share of trials that vote for the labelled class, by noise level; dotted: chance.",
    ),
)
_CALIBRATED_FIGURES = (
    (
        calibration_figures.reliability_figure,
        "Left: how often the class is true where its probability is so large; dotted: as claimed. "
        "Right: the probabilities.",
    ),
)
_GATE_FIGURE = (
    calibration_figures.gate_figure,
    "Out-of-distribution gate: p values, before any class is named.",
)
_DECISION_FIGURE = (
    calibration_figures.decision_figure,
    "Net benefit: true positives per image, less false ones at the odds of the threshold.",
)


def write_report(
    folder: Path,
    *,
    title: str = "Predictions",
    gallery: Sequence[tuple[str, Picture]] = (),
    counterfactuals: Sequence[Counterfactual] = (),
) -> Path:
    """Write `report.html` into an evaluated predictions folder and return its path.

    Args:
        folder: Output of `diffdx classify` after `diffdx evaluate`; a `comparison.json` in it is
            shown too.
        title: Heading of the page.
        gallery: Captions and pictures to show; `pick_gallery` chooses which.
        counterfactuals: Explained images to show.

    Raises:
        DataError: if there is no `summary.json` yet, or if the files contradict each other.
    """
    source = folder / "summary.json"
    if not source.is_file():
        raise DataError(f"{source}: no such file; run `diffdx evaluate {folder}` first")
    summary = json.loads(source.read_text(encoding="utf-8"))
    sections = [
        tables.headline(summary),
        tables.run_table(summary),
        tables.rule_table(summary),
        tables.confusion_table(summary),
        tables.calibration_table(summary),
        _comparison(folder / COMPARISON_FILE),
        _figures(read_predictions(folder).labelled()),
        _gallery(gallery),
        _counterfactuals(counterfactuals),
    ]
    shell = files("diffdx.report").joinpath("page.html").read_text(encoding="utf-8")
    page = Template(shell).substitute(
        title=escape(title), notice=NOTICE, body="\n".join(filter(None, sections))
    )
    target = folder / "report.html"
    write_text(target, page)
    return target


def _comparison(source: Path) -> str:
    if not source.is_file():
        return ""
    return comparison_table(json.loads(source.read_text(encoding="utf-8")))


def _figures(known: StoredPredictions) -> str:
    if len(set(known.labels)) < 2:
        return "<h2>Figures</h2><p>None: they compare images of at least two labelled classes.</p>"
    drawn, chosen = "", [*_FIGURES, *(_TRIAL_FIGURES if known.kind == DIFFUSION else ())]
    if known.calibration is not None:
        chosen += _CALIBRATED_FIGURES
        chosen += [_GATE_FIGURE] if known.calibration.gate is not None else []
        chosen += [_DECISION_FIGURE] if known.positive is not None else []
    for draw, caption in chosen:
        figure = draw(known)
        drawn += _shown(_encoded(figure), caption, is_wide=len(figure.axes) > 1)
    return f'<h2>Figures</h2><div class="figures">{drawn}</div>'


def _gallery(gallery: Sequence[tuple[str, Picture]]) -> str:
    shown = "".join(_shown(_encoded(picture), caption) for caption, picture in gallery)
    return f'<h2>Images</h2><div class="gallery">{shown}</div>' if shown else ""


def _counterfactuals(counterfactuals: Sequence[Counterfactual]) -> str:
    shown = ""
    for one in counterfactuals:
        caption = f"{one.source} shown as {one.target}. Red: brighter than as {one.source}."
        shown += _shown(_encoded(counterfactual_figure(one)), f"{caption} Blue: darker.")
    explained = "<p>The same noisy image, denoised as its own class and as the other.</p>"
    return f"<h2>Counterfactual</h2>{explained}{shown}" if shown else ""


def _shown(png: bytes, caption: str, *, is_wide: bool = False) -> str:
    data, text = base64.b64encode(png).decode("ascii"), escape(caption)
    picture = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    mark = ' class="wide"' if is_wide else ""
    return f"<figure{mark}>{picture}<figcaption>{text}</figcaption></figure>"


def _encoded(picture: Picture | Figure) -> bytes:
    if isinstance(picture, bytes):
        return picture
    stream = BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(stream, format="png", dpi=130)
    else:
        Image.fromarray(picture).save(stream, format="png")
    return stream.getvalue()
