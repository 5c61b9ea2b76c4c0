"""`evidence.zarr`: the evidence maps of a predictions folder, image by image.

One array `maps`, (B, K, H, W, 4) float32: image, class, row, column, part by log-SNR from noisy to
clean. An image is a chunk of its own, so that it is written whole or not at all, shards may write
side by side, and a reader takes one at a time; images that failed or are still to come are NaN.
Attributes: image_ids, classes, edges (log-SNRs between the parts, in nats), and rule, what a map's
sum over pixels and parts is: the mean error of its class in that space, or its weighted sum.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from diffdx._files import exclusive
from diffdx.errors import ConfigError, DataError

ErrorMaps = Float[np.ndarray, "K H W parts"]
"""Of each class's errors, in parts by log-SNR, noisy to clean."""
PARTS = 4
"""Parts of a map by log-SNR."""

EVIDENCE_FILE = "evidence.zarr"
_ARRAY = "maps"


class EvidenceStore:
    """The maps of a predictions folder, open for reading or writing.

    Attributes:
        image_ids: In the order of the array.
        classes: Class names in the order of the class axis.
        edges: log-SNRs between the parts, ascending, in nats.
        rule: What a map adds up to.
    """

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        """Open the maps that a folder has.

        Raises:
            ConfigError: if zarr is not installed.
            DataError: if there are none, or they cannot be read.
        """
        path = folder / EVIDENCE_FILE
        try:
            self._maps: Any = _zarr().open_array(path / _ARRAY, mode="r+" if writable else "r")
            about = dict(self._maps.attrs)
            self.image_ids: list[str] = about["image_ids"]
            self.classes: list[str] = about["classes"]
            self.edges: list[float] = about["edges"]
            self.rule: str = about["rule"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path} holds no evidence maps; run `diffdx classify` with --evidence"
            ) from error
        self._rows = {image_id: row for row, image_id in enumerate(self.image_ids)}

    @staticmethod
    def create(
        folder: Path,
        image_ids: Sequence[str],
        classes: Sequence[str],
        side_px: tuple[int, int],
        *,
        edges: Sequence[float],
        rule: str,
        overwrite: bool = False,
    ) -> "EvidenceStore":
        """Return the folder's store, made now unless another shard or an earlier run made it.

        Args:
            folder: The predictions folder.
            image_ids: The whole dataset's, in its order.
            classes: Class names in the order of the class axis.
            side_px: Height and width of a map.
            edges: log-SNRs between the parts, ascending, in nats.
            rule: What a map adds up to.
            overwrite: Start afresh.

        Raises:
            ConfigError: if zarr is not installed.
        """
        zarr = _zarr()
        image_shape = (len(classes), *side_px, PARTS)
        about = {
            "image_ids": list(image_ids),
            "classes": list(classes),
            "edges": list(edges),
            "rule": rule,
            "notice": "Research use only, not a medical device.",
        }
        with exclusive(folder):
            if overwrite or not (folder / EVIDENCE_FILE / _ARRAY).is_dir():
                zarr.create_array(
                    folder / EVIDENCE_FILE / _ARRAY,
                    shape=(len(image_ids), *image_shape),
                    chunks=(1, *image_shape),
                    dtype="float32",
                    fill_value=np.nan,
                    attributes=about,
                    overwrite=overwrite,
                )
        return EvidenceStore(folder, writable=True)

    def write(self, image_id: str, maps: ErrorMaps) -> None:
        """Write the maps of one image."""
        self._maps[self._rows[image_id]] = maps

    def read(self, image_id: str) -> ErrorMaps:
        """Return the maps of one image.

        Raises:
            DataError: if the store has none of it.
        """
        row = self._rows.get(image_id)
        maps: ErrorMaps = np.array(self._maps[row]) if row is not None else np.empty(0)
        if row is None or np.isnan(maps).any():
            raise DataError(
                f"{EVIDENCE_FILE} has no maps of '{image_id}'; classify it with --evidence"
            )
        return maps


def _zarr() -> ModuleType:
    try:
        import zarr
    except ImportError:
        raise ConfigError(
            "evidence maps need zarr: pip install 'diffdx[explain]', or leave out --evidence"
        ) from None
    return zarr
