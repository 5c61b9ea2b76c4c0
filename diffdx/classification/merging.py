"""The parts of an error store in input order, image by image, in memory that does not grow.

A first pass notes where each image's rows lie, a second one copies them: an archive's errors are
larger than memory. Parts come nearly in input order, so a few of them at a time are enough.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

_GROUPS_HELD = 64

ReadGroup = Callable[[Path, int, tuple[str, ...] | None], pa.Table]


def in_order(
    files: Sequence[Path], order: Sequence[str], read_group: ReadGroup
) -> Iterator[pa.Table]:
    """Yield the rows of each image in the order given; images that are not asked for are left out.

    An image that two files hold comes once, from the first of them.

    Args:
        files: Parquet files in which the rows of an image lie together.
        order: Image ids; those that no file holds are passed over.
        read_group: Returns a row group of a file, or these columns of it.
    """
    place = {image_id: position for position, image_id in enumerate(order)}
    pieces = [
        piece
        for number, file in enumerate(files)
        for group in range(pq.read_metadata(file).num_row_groups)
        for piece in _pieces(read_group(file, group, ("image_id",)), place, number, group)
    ]
    if not pieces:
        return
    found = np.concatenate(pieces)
    held = lru_cache(_GROUPS_HELD)(read_group)
    taken: dict[int, int] = {}
    # By position, then file: an image's further pieces follow in their order.
    for position, number, group, start, stop in found[np.lexsort(found.T[::-1])].tolist():
        if taken.setdefault(position, number) == number:
            yield held(files[number], group, None).slice(start, stop - start)


def _pieces(
    table: pa.Table, place: dict[str, int], file: int, group: int
) -> list[Int64[np.ndarray, "pieces 5"]]:
    """Return (position, file, group, first row, end) of each image in a row group."""
    if not len(table):
        return []
    ids = pc.dictionary_encode(table["image_id"].combine_chunks())
    codes = ids.indices.to_numpy()
    edges = np.flatnonzero(np.diff(codes, prepend=-1, append=-1))
    positions = np.array([place.get(name, -1) for name in ids.dictionary.to_pylist()])
    here = positions[codes[edges[:-1]]]
    rows = np.stack(
        [here, np.full_like(here, file), np.full_like(here, group), edges[:-1], edges[1:]], axis=1
    )
    return [rows[here >= 0]]


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `rows` rows each; the last may be shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        while count >= rows:
            whole = pa.concat_tables(waiting).combine_chunks()
            yield whole.slice(0, rows)
            waiting, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(waiting).combine_chunks()
