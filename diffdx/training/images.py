"""Training images, decoded and resized once and kept as integers; see `training.prepared`.

At 64 px grey a hundred thousand images take 400 MB; at 256 px RGB the paper's 16,324 take 3.2 GB.
They lie in a file that is mapped, so that a batch costs its own images and no more.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped

from diffdx._tensors import Images
from diffdx._typing import Labels
from diffdx.data.dataset import Dataset, Record
from diffdx.errors import DataError
from diffdx.training.prepared import prepare, prepared_key
from diffdx.transforms.pixels import PixelSpec, to_model_range

AHEAD = 512
"""Images that are decoded before the ones before them are stored."""
SAMPLE_BYTES = 1 << 30
"""Of images in model range, for statistics of the whole set."""


@dataclass
class ImageTable:
    """Images of one role in the model's size, with labels.

    Attributes:
        stored: (N, C, S, S) uint8 or uint16, in memory or mapped.
        labels: (N,) class indices.
        records: Where they come from.
        unreadable: A line for each image that could not be read and was left out.
    """

    stored: Shaped[np.ndarray, "N C S S"]
    labels: Labels
    records: list[Record]
    unreadable: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self) -> Images:
        """Return images spread evenly over all, as many as `SAMPLE_BYTES` holds, in [-1, 1]."""
        count = max(1, SAMPLE_BYTES // (4 * int(np.prod(self.stored.shape[1:]))))
        if count >= len(self):
            return self.x()
        return self.x(np.linspace(0, len(self) - 1, count).astype(np.int64))

    def x(self, indices: Labels | slice = slice(None)) -> Images:
        """Return these images as float32 in [-1, 1]."""
        return torch.from_numpy(to_model_range(self.stored[indices]))


def detect_channels(dataset: Dataset, *, looked_at: int = 16) -> Literal[1, 3]:
    """Return 1 if the first readable images are grey (also when stored as RGB), else 3."""
    for record in dataset.records[:looked_at]:
        try:
            pixels = dataset.pixels(record)
        except DataError:
            continue
        if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
            return 3
    return 1


def load_images(
    dataset: Dataset,
    records: Sequence[Record],
    spec: PixelSpec,
    *,
    num_workers: int,
    strict: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> ImageTable:
    """Return the readable ones of these images, from the cache or decoded by `num_workers` threads.

    Raises:
        DataError: with `strict`, for the first image that cannot be read; else if a class has no
            readable image left.
        ConfigError: if there is no room for the prepared images.
    """

    def decoded() -> Iterator[np.ndarray | DataError]:
        """Yield the images in order; no more of them wait than a few batches."""
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            for start in range(0, len(records), AHEAD):
                images = pool.map(read, records[start : start + AHEAD])
                for done, image in enumerate(images, start + 1):
                    if strict and isinstance(image, DataError):
                        raise image
                    progress(done)
                    yield image

    def read(record: Record) -> np.ndarray | DataError:
        try:
            return spec.store(dataset.pixels(record))
        except DataError as error:
            return error

    key = prepared_key(dataset, records, spec)
    prepared, is_new = prepare(key, decoded(), (spec.channels, spec.size_px, spec.size_px))
    if not is_new:
        progress(len(records))
    if strict and prepared.unreadable:
        raise DataError(prepared.unreadable[0])
    kept = [records[position] for position in prepared.kept]
    labels = np.array([dataset.classes.index(str(r.label)) for r in kept], dtype=np.int64)
    for k, name in enumerate(dataset.classes):
        if not (labels == k).any():
            first = f" (first: {prepared.unreadable[0]})" if prepared.unreadable else ""
            raise DataError(f"class '{name}' has no readable image among {len(records)}{first}")
    return ImageTable(prepared.stored, labels, kept, prepared.unreadable)
