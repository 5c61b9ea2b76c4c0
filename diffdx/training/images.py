"""Training images, decoded and resized once and kept in memory as integers.

At 64 px grey a hundred thousand images take 400 MB; at 256 px RGB the paper's 16,324 take 3.2 GB.
"""

from collections.abc import Callable, Sequence
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
from diffdx.transforms.pixels import PixelSpec, to_model_range


@dataclass
class ImageTable:
    """Images of one role in the model's size, with labels.

    Attributes:
        stored: (N, C, S, S) uint8 or uint16.
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
    """Return the readable ones of these images, decoded by `num_workers` threads.

    Raises:
        DataError: with `strict`, for the first image that cannot be read; else if a class has no
            readable image left.
    """

    def read(record: Record) -> np.ndarray | DataError:
        try:
            return spec.store(dataset.pixels(record))
        except DataError as error:
            return error

    good: list[np.ndarray] = []
    kept: list[Record] = []
    unreadable: list[str] = []
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        for done, (record, image) in enumerate(zip(records, pool.map(read, records), strict=True)):
            progress(done + 1)
            if isinstance(image, DataError):
                if strict:
                    raise image
                unreadable.append(str(image))
            else:
                good.append(image)
                kept.append(record)
    labels = np.array([dataset.classes.index(str(r.label)) for r in kept], dtype=np.int64)
    for k, name in enumerate(dataset.classes):
        if not (labels == k).any():
            first = f" (first: {unreadable[0]})" if unreadable else ""
            raise DataError(f"class '{name}' has no readable image among {len(records)}{first}")
    return ImageTable(_stack(good), labels, kept, unreadable)


def _stack(images: list[np.ndarray]) -> Shaped[np.ndarray, "N C S S"]:
    if len({image.dtype for image in images}) == 1:
        return np.stack(images)
    # 255 * 257 = 65535: 8-bit images among 16-bit ones keep their value in model range exactly.
    wide = [i if i.dtype == np.uint16 else i.astype(np.uint16) * np.uint16(257) for i in images]
    return np.stack(wide)
