"""The cases of a page: which images to show, chosen by rule and not by taste, and their pictures.

An image is read through the data layer where its file is; maps are taken from `evidence.zarr` and
from the pictures of `diffdx explain`. What is missing is said and stops nothing. No name of a file
or patient is shown: a case is named by its row in `predictions.csv`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from diffdx._typing import Pixels
from diffdx.classification.evidence_store import EVIDENCE_FILE, EvidenceStore
from diffdx.classification.predictions import read_predictions
from diffdx.data.dataset import Dataset, FileSource, Record
from diffdx.errors import DataError
from diffdx.evaluation import StoredPredictions
from diffdx.explain.evidence import evidence_parts
from diffdx.report.explanation_figures import overlay, smoothed
from diffdx.report.facts import RunFacts
from diffdx.uncertainty import vote_entropy

Kind = Literal["wrong", "right", "unsure", "explained"]
KINDS: dict[Kind, str] = {
    "wrong": "Wrong, the most certain first",
    "right": "Right, the most certain first",
    "unsure": "The most uncertain",
    "explained": "Also explained",
}
_SHOWN_PX = 320
"""Longest side of a picture on the page."""
_MAP_PX = 256


class Picture(NamedTuple):
    """A picture on the page."""

    name: str
    """What it shows."""
    media: str
    """Such as `image/png`."""
    data: bytes


@dataclass(frozen=True)
class Case:
    """One image that is shown."""

    kind: Kind
    position: int
    """In the stored predictions."""
    row: int
    """In `predictions.csv`, as a spreadsheet counts: the header is row 1."""
    pictures: list[Picture] = field(default_factory=list)
    missing: str = ""
    """Why the image itself is not shown; empty if it is."""


class Explanations:
    """The pictures that `diffdx explain` has written, by image."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Open folders of explanations.

        Raises:
            DataError: if one holds none.
        """
        self._folders: dict[str, Path] = {}
        self.targets: dict[str, tuple[str, str]] = {}
        for folder in folders:
            path = folder / "explanations.parquet"
            try:
                table = pd.read_parquet(path)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path} cannot be read; name a folder that `diffdx explain --out` wrote"
                ) from error
            for row in table[table["status"] == "ok"].to_dict("records"):
                self._folders.setdefault(row["image_id"], folder / row["folder"])
                self.targets.setdefault(row["image_id"], (row["y_src"], row["y_cf"]))

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._folders

    def pictures(self, image_id: str) -> list[Picture]:
        """Return the pictures of an image; none where it was not explained."""
        if image_id not in self:
            return []
        own, other = self.targets[image_id]
        shown = {
            "factual": f"as {own}",
            "counterfactual": f"as {other}",
            "difference": "what changed",
            "evidence": f"evidence for {own}",
        }
        files = {name: self._folders[image_id] / f"{name}.png" for name in shown}
        return [
            Picture(shown[name], "image/png", file.read_bytes())
            for name, file in files.items()
            if file.is_file()
        ]


def choose_cases(
    stored: StoredPredictions, *, each: int = 4, explained: Explanations | None = None
) -> list[tuple[Kind, int]]:
    """Return kinds and positions of the images to show.

    At most `each` images of each kind, none twice: wrong predictions, most certain first; right
    ones, most certain first; then the most uncertain of the rest; then explained ones. Certain
    means small entropy of votes or softmax; equals keep the order of the table. Unlabelled images
    are only shown as uncertain or explained.

    Args:
        stored: Predictions.
        each: Images of a kind.
        explained: Images of which there are explanations.
    """
    y_hat, y = stored.own.y_hat, stored.labels
    entropy = vote_entropy(stored.shares)
    certain = np.argsort(entropy, kind="stable").tolist()
    chosen: dict[int, Kind] = {}
    orders: dict[Kind, list[int]] = {
        "wrong": [i for i in certain if y[i] >= 0 and y[i] != y_hat[i]],
        "right": [i for i in certain if y[i] == y_hat[i]],
        "unsure": np.argsort(-entropy, kind="stable").tolist(),
        "explained": [
            i for i, name in enumerate(stored.table["image_id"]) if name in (explained or ())
        ],
    }
    for kind, order in orders.items():
        for i in [i for i in order if i not in chosen][:each]:
            chosen[i] = kind
    return [(kind, i) for kind in orders for i, of in chosen.items() if of == kind]


def make_cases(
    run: RunFacts,
    *,
    dataset: Dataset | None = None,
    explained: Explanations | None = None,
    each: int = 4,
) -> list[Case]:
    """Return the cases of a run with their pictures.

    Args:
        run: Where predictions and, with `classify --evidence`, maps are.
        dataset: Where the pixels are; by default the files named in the table.
        explained: Pictures of explanations.
        each: Cases of a kind.
    """
    stored = run.stored
    rows = {name: i + 2 for i, name in enumerate(read_predictions(stored.folder)["image_id"])}
    known = {} if dataset is None else {record.image_id: record for record in dataset.records}
    source = dataset or FileSource()
    has_maps = (stored.folder / EVIDENCE_FILE).is_dir()
    maps = EvidenceStore(stored.folder) if has_maps else None
    cases = []
    for kind, i in choose_cases(stored, each=each, explained=explained):
        image_id, path = stored.table[["image_id", "path"]].iloc[i]
        pixels, missing = None, ""
        try:
            pixels = source.pixels(known.get(image_id) or Record(image_id=image_id, path=path))
        except DataError:
            missing = "The image cannot be read where it was; --data says where it is now."
        shown = [] if pixels is None else [_picture("image", _eight_bits(pixels))]
        others = [] if explained is None else explained.pictures(image_id)
        if maps is not None and not any(one.name.startswith("evidence") for one in others):
            others += _evidence(run, maps, image_id, i, pixels)
        cases.append(Case(kind, i, rows[image_id], [*shown, *others], missing))
    return cases


def _evidence(
    run: RunFacts, maps: EvidenceStore, image_id: str, i: int, pixels: Pixels | None
) -> list[Picture]:
    """Return the map of what speaks for the predicted class, on what the network saw if known."""
    try:
        found = maps.read(image_id)
    except DataError:
        return []
    k = int(run.stored.own.y_hat[i])
    parts = evidence_parts(found, k, k)
    if pixels is not None and run.model is not None:
        seen = run.model.pixels.store(_eight_bits(pixels)).mean(axis=0).astype(np.uint8)
    else:
        seen = np.full(parts.shape[:2], 128, np.uint8)
    return [_picture(f"evidence for {run.stored.classes[k]}", overlay(seen, *smoothed(parts)))]


def _eight_bits(pixels: Pixels) -> Pixels:
    top = np.iinfo(pixels.dtype).max
    return np.rint(pixels * (255.0 / top)).astype(np.uint8)


def _picture(name: str, pixels: np.ndarray) -> Picture:
    """Return a picture of moderate size: maps are enlarged in whole pixels, images made smaller."""
    image = Image.fromarray(pixels)
    if max(image.size) <= _MAP_PX // 2:
        factor = _MAP_PX // max(image.size)
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    image.thumbnail((_SHOWN_PX, _SHOWN_PX), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, format="png", optimize=True)
    return Picture(name, "image/png", stream.getvalue())
