"""The error store: every denoising error, so that any rule can be recomputed without a network.

`errors.parquet` has a row per image and trial: image_id, trial (int16), logsnr (float32),
error_<class> (float32), the mean squared v error in the network's coordinates, and stopped_by, what
ended the image (`none` if all its trials were run). A null error means the image had stopped, or
(under some classes only) that the class had been eliminated.

While a run goes on, finished images are flushed to `errors.parts/`, each part whole or absent; at
the end the parts are merged in input order. A part carries the settings that made it, so a run that
was cut goes on where it stopped, and one with other settings is refused. Several processes may add
parts to one folder at a time, each under a name of its own.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from diffdx._files import atomic_path
from diffdx._typing import Errors, LogSNRs
from diffdx.classification.merging import in_order, regrouped
from diffdx.errors import CheckpointError, ConfigError, DataError

ERRORS_FILE = "errors.parquet"
PARTS_FOLDER = "errors.parts"
_SETTINGS = b"diffdx.settings"
# 8 images of 501 trials: a killed run loses seconds, and a long one has hundreds of parts at most.
_ROWS_PER_PART = 4_096
# Fixed, so that the bytes do not depend on where the parts were cut.
_ROWS_PER_GROUP = 262_144


class ErrorStore:
    """Collects the errors of a run and continues one that was cut.

    Attributes:
        classes: Class names in the order of the errors' class axis.
        finished: Ids of the images whose errors are stored.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        settings: Mapping[str, str | int | bool],
        *,
        writer: str = "all",
        overwrite: bool = False,
    ) -> None:
        """Open the store of a predictions folder, empty or with what an earlier run left.

        Args:
            folder: The predictions folder.
            classes: Class names in the order of the errors' class axis.
            settings: What the errors depend on (model, bank, trials, ...); the same in every part.
            writer: Names the parts of this process; another for each process at work.
            overwrite: Start afresh.

        Raises:
            ConfigError: if the folder holds errors made with other settings: they must not be
                mixed.
            CheckpointError: if a part cannot be read.
        """
        self.folder, self.classes = folder, list(classes)
        self.settings = {"classes": list(classes), **settings}
        self._schema = _schema(classes).with_metadata({_SETTINGS: json.dumps(self.settings)})
        self._pending: list[pa.Table] = []
        self._writer = writer
        if overwrite:
            (folder / ERRORS_FILE).unlink(missing_ok=True)
            shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)
        self.finished: set[str] = set()
        self.reload()

    def reload(self) -> None:
        """Take in what other processes have stored since.

        Raises:
            ConfigError: if something was made with other settings.
            CheckpointError: if a part cannot be read.
        """
        for path in self._files():
            self._check_settings(path)
            ids = _read_table(path, columns=["image_id"])["image_id"]
            self.finished.update(ids.unique().to_pylist())

    def add(
        self,
        image_id: str,
        errors: Float[np.ndarray, "K N"],
        logsnr: Float[np.ndarray, "N"],
        stopped_by: str = "none",
    ) -> None:
        """Store one image's errors; they reach the disk with the next flush, a few images on.

        Args:
            image_id: Not stored before.
            errors: NaN under every class in trials not run, `inf` where a class was eliminated.
            logsnr: In nats.
            stopped_by: What ended the image; `none` if all trials were run.
        """
        num_trials = logsnr.shape[0]
        columns = [
            pa.array([image_id] * num_trials, pa.string()),
            pa.array(np.arange(num_trials), pa.int16()),
            pa.array(logsnr, pa.float32()),
            # NaN becomes null: the trial was not run, or not under this class.
            *(
                pa.array(np.where(np.isinf(row), np.nan, row), pa.float32(), from_pandas=True)
                for row in errors
            ),
            pa.array([stopped_by] * num_trials, pa.string()),
        ]
        self._pending.append(pa.Table.from_arrays(columns, schema=self._schema))
        self.finished.add(image_id)
        if sum(map(len, self._pending)) >= _ROWS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last flush as one part."""
        if not self._pending:
            return
        parts = self.folder / PARTS_FOLDER
        number = 1 + max(
            (int(p.stem.rsplit("-")[-1]) for p in parts.glob(f"part-{self._writer}-*.parquet")),
            default=-1,
        )
        path = parts / f"part-{self._writer}-{number:06d}.parquet"
        self._write(self._pending, path)
        self._pending = []

    def merge(self, order: Sequence[str]) -> Path:
        """Write `errors.parquet` in the order given, remove the parts, and return its path.

        Args:
            order: Image ids in input order. Ids without stored errors (failed images) are passed
                over, and stored images that are not asked for are left out.
        """
        self.flush()
        path = self.folder / ERRORS_FILE
        self._write(in_order(self._files(), order, self._read_group), path)
        shutil.rmtree(self.folder / PARTS_FOLDER, ignore_errors=True)
        return path

    def _read_group(self, path: Path, group: int, columns: tuple[str, ...] | None) -> pa.Table:
        """Return a row group, or these columns of it; what an earlier version lacked is null."""
        try:
            table = pq.ParquetFile(path).read_row_group(group, columns=columns and list(columns))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path) from error
        if columns is not None:
            return table
        table = table.replace_schema_metadata(self._schema.metadata)
        return pa.concat_tables([self._schema.empty_table(), table], promote_options="default")

    def _files(self) -> list[Path]:
        merged = self.folder / ERRORS_FILE
        parts = sorted((self.folder / PARTS_FOLDER).glob("part-*.parquet"))
        return [merged, *parts] if merged.exists() else parts

    def _check_settings(self, path: Path) -> None:
        metadata = _open(path).schema_arrow.metadata or {}
        stored = json.loads(metadata.get(_SETTINGS, b"{}"))
        names = sorted(
            name for name in stored | self.settings if stored.get(name) != self.settings.get(name)
        )
        if names:
            differences = "; ".join(
                f"{name}: {stored.get(name)} there, {self.settings.get(name)} now" for name in names
            )
            raise ConfigError(
                f"{path} was made with other settings ({differences}); "
                "choose another --out, or --overwrite"
            )

    def _write(self, tables: Iterable[pa.Table], path: Path) -> None:
        # Splitting floats into byte planes lets zstd find what is regular in them.
        floats = [field.name for field in self._schema if field.type == pa.float32()]
        with (
            atomic_path(path) as temporary,
            pq.ParquetWriter(
                temporary,
                self._schema,
                compression="zstd",
                use_dictionary=["image_id", "trial", "stopped_by"],
                use_byte_stream_split=floats,
            ) as writer,
        ):
            for table in regrouped(tables, _ROWS_PER_GROUP):
                writer.write_table(table, row_group_size=_ROWS_PER_GROUP)


def read_errors(
    path: Path, classes: Sequence[str] | None = None
) -> tuple[list[str], Errors, LogSNRs]:
    """Return (image ids, errors (B, K, N), log-SNR (B, N)) of an error store, both float32.

    NaN under every class marks a trial that was not run, `inf` a class that was eliminated in it.

    Args:
        path: An `errors.parquet`.
        classes: Class names in the order wanted; None takes the file's.

    Raises:
        CheckpointError: if the file cannot be read as Parquet: it is damaged.
        DataError: if it is no error store, lacks a class, or its rows are not the same trials
            0..N-1 of each image.
    """
    return _grid(_read_table(path), classes, path)[:3]


class StoredImages(NamedTuple):
    """Images of an error store."""

    image_ids: list[str]
    errors: Errors
    logsnr: LogSNRs
    stops: dict[str, str]
    """What ended each image, `none` if all its trials were run; empty if the file does not say."""


def read_in_parts(path: Path, classes: Sequence[str], *, images: int) -> Iterator[StoredImages]:
    """Yield the images of an error store, so many at a time.

    Args:
        path: An `errors.parquet`.
        classes: Class names in the order wanted.
        images: How many at a time.

    Raises:
        CheckpointError, DataError: as `read_errors`.
    """
    file = _open(path)
    tables = (file.read_row_group(group) for group in range(file.num_row_groups))
    first = next(tables, None)
    if first is None or not len(first):
        return
    num_trials = int(first["trial"].to_numpy().max()) + 1
    for table in regrouped(chain([first], tables), images * num_trials):
        yield _grid(table, classes, path)


def _grid(table: pa.Table, classes: Sequence[str] | None, path: Path) -> StoredImages:
    """Return the images of a table that has the same trials of each."""
    if classes is None:
        classes = [
            name.removeprefix("error_") for name in table.column_names if name.startswith("error_")
        ]
    needed = [name for name in _schema(classes).names if name != "stopped_by"]
    missing = [name for name in needed if name not in table.column_names]
    if missing or not classes:
        raise DataError(
            f"{path} is not an error store of these classes: it has no column "
            f"{', '.join(missing) or 'error_*'}; name the errors.parquet of this model"
        )
    trial = table["trial"].to_numpy()
    num_trials = int(trial.max()) + 1 if len(trial) else 0
    heads = table[::num_trials] if num_trials else table
    image_ids = heads["image_id"].to_pylist()
    whole = len(table) == len(image_ids) * num_trials
    if not whole or not (trial.reshape(-1, num_trials or 1) == np.arange(num_trials or 1)).all():
        raise DataError(
            f"{path}: images have different or unordered trials; classify them again in one run"
        )
    grid = (len(image_ids), num_trials)
    logsnr = table["logsnr"].to_numpy().astype(np.float32).reshape(grid)
    columns = [
        table[f"error_{name}"].to_numpy().astype(np.float32).reshape(grid) for name in classes
    ]
    errors = np.stack(columns, axis=1)
    eliminated = np.isnan(errors) & ~np.isnan(errors).all(axis=1, keepdims=True)
    stops = {}
    if "stopped_by" in table.column_names:
        ended = heads["stopped_by"].to_pylist()
        stops = {name: by or "none" for name, by in zip(image_ids, ended, strict=True)}
    errors = np.where(eliminated, np.float32(np.inf), errors)
    return StoredImages(image_ids, errors, logsnr, stops)


def _schema(classes: Sequence[str]) -> pa.Schema:
    errors = [(f"error_{name}", pa.float32()) for name in classes]
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("trial", pa.int16()),
            ("logsnr", pa.float32()),
            *errors,
            ("stopped_by", pa.string()),
        ]
    )


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        # As text these columns of a large store would be gigabytes.
        return pq.read_table(path, columns=columns, read_dictionary=["image_id", "stopped_by"])
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path) from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as Parquet: it is damaged or cut short; delete it and run again"
    )
