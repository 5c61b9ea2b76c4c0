"""Prepared images: decoded and resized once, kept as one file of integers, mapped when used again.

A set is known by the names, sizes and times of change of its files and by the transform, as `make`
knows what is new. It lies in the cache (`DIFFDX_CACHE`); the least recently used sets are removed
when all of them exceed `MAX_BYTES`. Images are written as they come and read back as pages, so that
a set may be larger than memory. Two processes that want the same set prepare it once.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from diffdx._cache import cache_folder
from diffdx._files import exclusive, write_json
from diffdx.data.dataset import Dataset, Record
from diffdx.errors import ConfigError, DataError
from diffdx.transforms.pixels import PixelSpec

MAX_BYTES = 50 << 30
"""Of all prepared sets together."""
FORMAT = 1
_IMAGES, _INDEX = "images.bin", "index.json"


@dataclass
class Prepared:
    """Images in the model's size.

    Attributes:
        stored: (N, C, S, S) uint8 or uint16, mapped from a file.
        kept: Positions of the images among the records that were asked for.
        unreadable: A line for each of the others.
    """

    stored: Shaped[np.ndarray, "N C S S"]
    kept: list[int]
    unreadable: list[str] = field(default_factory=list)


def prepared_key(dataset: Dataset, records: Sequence[Record], spec: PixelSpec) -> str:
    """Return what the prepared images depend on, as a hash."""
    digest = hashlib.sha256(f"{FORMAT} {spec} {dataset.source!r}".encode())
    for record in records:
        try:
            status = os.stat(record.path)
            stamp = f"{status.st_size} {status.st_mtime_ns} {os.path.abspath(record.path)}"
        except (OSError, ValueError):
            stamp = dataset.source.stamp(record)
        digest.update(f"{record.image_id}\0{stamp}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def prepare(
    key: str, images: Iterable[np.ndarray | DataError], shape: tuple[int, ...]
) -> tuple[Prepared, bool]:
    """Return the prepared set of this key, and whether it had to be written from `images`.

    Args:
        key: See `prepared_key`.
        images: In order, (C, S, S) uint8 or uint16 each, or why there is none.
        shape: (C, S, S).

    Raises:
        ConfigError: if there is no room to write it.
    """
    with _home() as home:
        folder = home / key
        try:
            with exclusive(folder):
                is_new = not (folder / _INDEX).is_file()
                if is_new:
                    _write(folder, images, shape)
                os.utime(folder)
                prepared = _open(folder, shape)
        except OSError as error:
            raise ConfigError(
                f"{folder}: prepared images cannot be kept ({error.strerror}); free space, or set "
                "DIFFDX_CACHE to a folder that has it"
            ) from error
        _make_room(home, folder)
    return prepared, is_new


@contextmanager
def _home() -> Iterator[Path]:
    """Give the cache's folder, or a temporary one where there can be no cache."""
    try:
        home = cache_folder("prepared")
    except ConfigError:
        home = Path(tempfile.mkdtemp(prefix="diffdx-"))
        try:
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)  # what is mapped stays until it is let go
    else:
        yield home


def _write(folder: Path, images: Iterable[np.ndarray | DataError], shape: tuple[int, ...]) -> None:
    kept: list[int] = []
    unreadable: list[str] = []
    dtype: np.dtype[np.uint8 | np.uint16] = np.dtype(np.uint8)
    path = folder / _IMAGES
    with path.open("w+b") as file:
        for position, image in enumerate(images):
            if isinstance(image, DataError):
                unreadable.append(str(image))
                continue
            if image.dtype == np.uint16 and dtype == np.uint8:
                file.flush()
                _widen(path, file.tell())
                file.seek(0, os.SEEK_END)
                dtype = np.dtype(np.uint16)
            file.write((image if image.dtype == dtype else _wide(image)).tobytes())
            kept.append(position)
    index = {"dtype": dtype.name, "shape": shape, "kept": kept, "unreadable": unreadable}
    write_json(folder / _INDEX, index)


def _widen(path: Path, size: int) -> None:
    """Rewrite 8 bit images as 16 bit ones, in place and from the end."""
    with path.open("r+b") as file:
        step = 1 << 20
        for start in reversed(range(0, size, step)):
            file.seek(start)
            narrow = np.frombuffer(file.read(min(step, size - start)), dtype=np.uint8)
            file.seek(2 * start)
            file.write(_wide(narrow).tobytes())


def _wide(image: np.ndarray) -> np.ndarray:
    # 255 * 257 = 65535: 8-bit images among 16-bit ones keep their value in model range exactly.
    return image.astype(np.uint16) * np.uint16(257)


def _open(folder: Path, shape: tuple[int, ...]) -> Prepared:
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    whole = (len(index["kept"]), *shape)
    if not index["kept"]:
        return Prepared(np.zeros(whole, dtype=np.uint8), [], index["unreadable"])
    stored = np.memmap(folder / _IMAGES, dtype=index["dtype"], mode="r", shape=whole)
    return Prepared(stored, index["kept"], index["unreadable"])


def _make_room(home: Path, mine: Path) -> None:
    """Remove the least recently used sets until the rest fit; what is mapped stays readable."""
    sizes = {}
    for folder in home.iterdir():
        with suppress(OSError):
            sizes[folder] = (folder.stat().st_mtime, (folder / _IMAGES).stat().st_size)
    total = sum(size for _, size in sizes.values())
    for folder, (_, size) in sorted(sizes.items(), key=lambda item: item[1][0]):
        if total <= MAX_BYTES:
            return
        if folder != mine:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
