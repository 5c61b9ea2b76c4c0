"""The images of a dataset as network input, read ahead of the network."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffdx._interrupt import StopRequest
from diffdx._typing import Pixels
from diffdx.data.dataset import Dataset, Record
from diffdx.errors import DataError

_READ_AHEAD = 8

Preprocess = Callable[[Pixels], Float[np.ndarray, "C S S"]]


def read_ahead(
    dataset: Dataset, records: Sequence[Record], preprocess: Preprocess, stop: StopRequest
) -> Iterator[Tensor | DataError]:
    """Yield each record's image, or why it cannot be read, until asked to stop.

    Background threads, as many as torch has, are a few images ahead.

    Args:
        dataset: Decodes images.
        records: Which ones, in this order.
        preprocess: Makes a model's input of decoded pixels.
        stop: Asked before each image.
    """

    def read(record: Record) -> Tensor | DataError:
        try:
            return torch.from_numpy(preprocess(dataset.pixels(record)))
        except DataError as error:
            return error

    ahead: deque[Future[Tensor | DataError]] = deque()
    remaining = iter(records)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as reader:
        while stop.signal_number is None:
            while (
                len(ahead) < max(_READ_AHEAD, 2 * threads)
                and (record := next(remaining, None)) is not None
            ):
                ahead.append(reader.submit(read, record))
            if not ahead:
                return
            yield ahead.popleft().result()
        reader.shutdown(cancel_futures=True)


def reason(failure: Exception) -> str:
    """Return why an image failed as one line."""
    return " ".join(str(failure).split())


def inputs_hash(dataset: Dataset) -> str:
    """Return a hash of what is classified: the dataset's fingerprint and the paths as given."""
    paths = "\n".join(record.path for record in dataset.records)
    return hashlib.sha256(f"{dataset.fingerprint}\n{paths}".encode(errors="replace")).hexdigest()
