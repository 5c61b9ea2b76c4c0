"""Figures of explained images: what the class changes, and where the decision comes from.

Every difference is drawn on one fixed scale, so that maps compare; evidence has no unit that a
reader knows and is drawn up to its own maximum. Red and blue lie on the image in grey, fading to
nothing where a map is zero. Arrays in, figures out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter

from diffdx._files import atomic_path
from diffdx.report.figures import plain

Panel = Shaped[np.ndarray, "H W"] | Shaped[np.ndarray, "H W 3"]
PixelMap = Float[np.ndarray, "H W"]

DIFFERENCE_LIMIT = 0.5
"""End of the colour scale of difference maps, in model range (-1 to 1)."""
SIGNIFICANT_Z = 2.0
_EVIDENCE_BLUR_PX = 1.0
"""Evidence is a sum of squared noise residuals: single pixels mean little."""
_COLOURS = "RdBu_r"
_PARTS = ("noisiest: coarse", "noisy", "clean", "cleanest: fine")
_PICTURE_PX = 512
"""Maps are written at least this wide."""


@dataclass(frozen=True)
class Counterfactual:
    """One image explained: what it would look like in another class (paper Eq. 5)."""

    source: str
    target: str
    original: Panel
    """uint8, as the two generated ones."""
    factual: Panel
    """Noised, and denoised as its own class."""
    counterfactual: Panel
    """Noised with the same noise, and denoised as the target class."""
    difference: PixelMap
    """Counterfactual minus factual in model range, mean of the channels."""
    evidence: Float[np.ndarray, "H W parts"] | None = None
    """What speaks for the source against the target, in parts by log-SNR, noisy to clean."""
    significance: PixelMap | None = None
    """z of the difference against redrawn noise."""
    caption: str = ""
    """What is known of the image: label, decision."""


def counterfactual_figure(shown: Counterfactual) -> Figure:
    """Draw an image, its factual and counterfactual, the difference of these two, the evidence."""
    return sheet_figure([shown], width=2.6)


def sheet_figure(cases: Sequence[Counterfactual], *, width: float = 1.5) -> Figure:
    """Draw one row for each image (paper Fig. 4, 10, 11).

    Args:
        cases: At least one; all with evidence, or none.
        width: Of a panel, in inches.
    """
    columns = 4 + (cases[0].evidence is not None)
    figure, grid, floor = _grid(len(cases), columns, width, below=0.55)
    for row, shown in zip(grid, cases, strict=True):
        _draw_row(row, shown)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-DIFFERENCE_LIMIT, DIFFERENCE_LIMIT), _COLOURS),
        cax=figure.add_axes((0.3, 0.78 * floor, 0.4, 0.12 * floor)),
        orientation="horizontal",
        extend="both",
    )
    bar.ax.tick_params(labelsize=6)
    bar.set_label(
        "difference = counterfactual - factual, image range -1 to 1\n"
        "Research use only, not a medical device",
        fontsize=6,
    )
    return figure


def parts_figure(shown: Counterfactual) -> Figure:
    """Draw the evidence of an image in its parts by noise level, on one scale, and their sum.

    Raises:
        ValueError: if the image has no evidence.
    """
    if shown.evidence is None:
        raise ValueError("the image has no evidence map to draw")
    count = shown.evidence.shape[-1]
    maps = [*np.moveaxis(shown.evidence, -1, 0), shown.evidence.sum(axis=-1)]
    maps = [_blurred(one) for one in maps]
    limit = max(float(np.abs(one).max()) for one in maps)
    figure, (row,), _ = _grid(1, count + 1, 2.0)
    names = _PARTS if count == len(_PARTS) else tuple(map(str, range(count)))
    for axes, one, name in zip(row, maps, [*names, f"all: for {shown.source}"], strict=True):
        axes.imshow(overlay(shown.original, one, limit))
        axes.set_title(plain(name), fontsize=8, pad=3)
    return figure


def overlay(picture: Panel, values: PixelMap, limit: float) -> UInt8[np.ndarray, "H W 3"]:
    """Return a signed map over an image in grey: red above zero, blue below, clear at zero.

    Args:
        picture: uint8.
        values: The map, of the picture's size.
        limit: The value of full colour, > 0; larger ones look alike.
    """
    grey = picture if picture.ndim == 2 else picture.mean(axis=-1)
    scaled = np.clip(values / max(limit, float(np.finfo(np.float32).tiny)), -1, 1)
    colours = matplotlib.colormaps[_COLOURS]((scaled + 1) / 2)[..., :3]
    # The root keeps weak changes visible.
    opacity = np.sqrt(np.abs(scaled))[..., None]
    mixed = (1 - opacity) * grey[..., None] + opacity * 255 * colours
    drawn: UInt8[np.ndarray, "H W 3"] = np.rint(mixed).astype(np.uint8)
    return drawn


def smoothed(evidence: Float[np.ndarray, "H W parts"]) -> tuple[PixelMap, float]:
    """Return the evidence as it is drawn, all parts in one and smoothed, and its largest value."""
    values = _blurred(evidence.sum(axis=-1))
    return values, float(np.abs(values).max())


def write_pictures(folder: Path, shown: Counterfactual) -> None:
    """Write an image's pictures as PNG: the three images as they are, and the maps on them."""
    maps = {"difference": overlay(shown.factual, shown.difference, DIFFERENCE_LIMIT)}
    if shown.evidence is not None:
        maps["evidence"] = overlay(shown.original, *smoothed(shown.evidence))
        write_figure(folder / "evidence_parts.png", parts_figure(shown), dpi=150)
    factor = -(-_PICTURE_PX // shown.difference.shape[1])
    pictures = {
        "image": shown.original,
        "factual": shown.factual,
        "counterfactual": shown.counterfactual,
        **{name: one.repeat(factor, axis=0).repeat(factor, axis=1) for name, one in maps.items()},
    }
    for name, picture in pictures.items():
        with atomic_path(folder / f"{name}.png") as temporary:
            Image.fromarray(picture).save(temporary)


def write_figure(path: Path, figure: Figure, *, dpi: int = 300) -> None:
    """Write a figure in one piece, in the format of the file's name."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def _draw_row(row: Sequence[Axes], shown: Counterfactual) -> None:
    titles = ["image", f"as {shown.source}", f"as {shown.target}", "difference"]
    pictures = [shown.original, shown.factual, shown.counterfactual]
    pictures.append(overlay(shown.factual, shown.difference, DIFFERENCE_LIMIT))
    if shown.significance is not None:
        titles[3] = f"difference, |z| > {SIGNIFICANT_Z:g}"
        beyond = np.abs(shown.significance) >= SIGNIFICANT_Z
        if beyond.any() and not beyond.all():
            row[3].contour(beyond, levels=[0.5], colors="black", linewidths=0.6)
    if shown.evidence is not None:
        titles.append(f"evidence for {shown.source}")
        pictures.append(overlay(shown.original, *smoothed(shown.evidence)))
    for axes, title, picture in zip(row, titles, pictures, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(plain(title), fontsize=7, pad=2)
    if shown.caption:
        row[0].annotate(
            plain(shown.caption), (0, 1), (0, 12), "axes fraction", "offset points", fontsize=7
        )


def _blurred(values: PixelMap) -> PixelMap:
    smooth: PixelMap = gaussian_filter(values, _EVIDENCE_BLUR_PX)
    return smooth


def _grid(
    rows: int, columns: int, width: float, *, below: float = 0.02
) -> tuple[Figure, list[list[Axes]], float]:
    """Return a figure of square panels, outside pyplot, and the share of its height below them.

    Placed by arithmetic: a layout engine takes seconds for a sheet.

    Args:
        rows: Rows of panels.
        columns: Panels in a row.
        width: Of a panel, in inches.
        below: Inches under the last row.
    """
    gap, above = 0.04, 0.36
    size = columns * (width + gap), rows * (width + above) + below
    figure = Figure(figsize=size)
    panels = [
        [
            figure.add_axes(
                (
                    column * (width + gap) / size[0],
                    (below + (rows - 1 - row) * (width + above)) / size[1],
                    width / size[0],
                    width / size[1],
                )
            )
            for column in range(columns)
        ]
        for row in range(rows)
    ]
    for axes in (one for row in panels for one in row):
        axes.set_axis_off()
    return figure, panels, below / size[1]
