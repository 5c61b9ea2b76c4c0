"""metadata.csv: which image has which label, patient and split.

Columns: `path` (relative to the table), `label`, `patient_id`, `split`; others are kept as the
record's metadata. Only `path` is needed to classify, `path` and `label` to train. Delimiter comma,
semicolon or tab; UTF-8 with or without a byte order mark. A row is counted as a spreadsheet shows
it: the header is row 1.
"""

import csv
import gzip
import io
import os
import posixpath
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffdx.data.dataset import Record, listing
from diffdx.errors import DataError

COLUMNS = ("path", "label", "patient_id", "split")
DELIMITERS = ",;\t"
ROLES_BY_NAME = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "calib": "calib",
    "calibration": "calib",
    "test": "test",
}
_FLAGS = frozenset({"", "0", "1", "-1", "0.0", "1.0", "-1.0"})


@dataclass
class Table:
    """The rows of a table by column name, each with its row number."""

    path: Path
    columns: list[str]
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    def column(self, name: str) -> Iterator[tuple[int, str]]:
        """Return the cells of a column with their row numbers."""
        return ((number, row[name]) for number, row in self.rows)

    def require(self, *names: str) -> None:
        """Check that the table has these columns.

        Raises:
            DataError: naming those that it lacks, so that it can be seen which table was meant.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise DataError(
                f"{str(self.path)!r}: no column {listing(missing)}; found "
                f"{listing(self.columns)}, expected {', '.join(names)}: is this the right table?"
            )


def read_table(path: Path) -> tuple[list[Record], list[str]]:
    """Return the records of a metadata table, in its order, and warnings about gaps in it.

    Raises:
        DataError: naming row and column, if the text is not UTF-8, a row has too few or too many
            cells, the column `path` is missing, a path is blank or listed twice (its rows could
            disagree), a label has outer spaces (it would become a class of its own) or holds
            several findings, a split is unknown, or none of the files exists.
    """
    table = parse_table(path)
    if "path" not in table.columns:
        raise DataError(
            f"{str(path)!r}: no column 'path'; found {listing(table.columns)}, "
            "expected path, label, patient_id, split: rename a column"
        )
    warnings = []
    if "label" in table.columns:
        _check_labels(table)
    else:
        warnings.append(_explain_missing_label(table))
    if "split" in table.columns:
        _check_roles(table)
    records = [_record(path, row) for _, row in table.rows]
    _check_paths(table, records)
    blank = sum(record.patient_id is None for record in records)
    if "patient_id" in table.columns and blank:
        warnings.append(
            f"{path.name}: {blank} of {len(records)} rows have a blank patient_id: "
            "each is taken for a patient of its own."
        )
    return records, warnings + check_presence(path, records, "give paths relative to the table")


def check_presence(table: Path, records: Sequence[Record], advice: str) -> list[str]:
    """Return a warning if some files that a table lists do not exist.

    Raises:
        DataError: if none does, with the advice: the place is wrong then, not the files.
    """
    missing = [record.image_id for record in records if not os.path.lexists(record.path)]
    if missing and len(missing) == len(records):
        raise DataError(
            f"{str(table)!r}: none of the {len(records)} files that it lists exists "
            f"({listing(missing)}); {advice}"
        )
    if missing:
        return [f"{table.name}: {len(missing)} files do not exist ({listing(missing)})."]
    return []


def parse_table(path: Path, *, keep: Callable[[dict[str, str]], bool] = bool) -> Table:
    """Return a CSV file's rows for which `keep` holds, by column name; `.gz` is unpacked.

    Raises:
        DataError: naming row and column, if the text is not UTF-8 or not CSV, a row has too few or
            too many cells, or there are no rows.
    """
    text = _read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        doubled = sorted({name for name in columns if columns.count(name) > 1})
        if doubled:
            raise DataError(f"{str(path)!r}: two columns are called {listing(doubled)}; rename one")
        table, empty = Table(path, columns), True
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"{str(path)!r}: row {reader.line_num} has {len(cells)} cells, the header has "
                    f"{len(columns)}; quote cells that hold {delimiter!r}"
                )
            row = dict(zip(columns, cells, strict=True))
            if keep(row):
                table.rows.append((reader.line_num, row))
            empty = False
    except csv.Error as error:
        raise DataError(
            f"{str(path)!r}: row {reader.line_num} is not valid CSV ({error}); "
            "save the table again as CSV"
        ) from error
    if empty:
        raise DataError(f"{str(path)!r}: the table has no rows; list one image per row")
    return table


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "not a whole gzip file"
        raise DataError(f"{str(path)!r}: cannot be read ({reason}); check the path") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # latin-1 maps every byte to a character: the place can be named whatever the encoding is.
        before = error.object[: error.start].decode("latin-1")
        header, line = before.partition("\n")[0], before.rpartition("\n")[2]
        delimiter = max(DELIMITERS, key=header.count)
        columns = [name.strip() for name in header.split(delimiter)]
        column = columns[min(line.count(delimiter), len(columns) - 1)]
        raise DataError(
            f"{str(path)!r}: row {before.count(chr(10)) + 1}, column {column!r} is not UTF-8; "
            "save the table as CSV UTF-8"
        ) from error


def _record(table_path: Path, row: dict[str, str]) -> Record:
    label = row.get("label", "")
    role = row.get("split", "").strip().lower()
    return Record(
        image_id=posixpath.normpath(row["path"]),
        path=str(table_path.parent / row["path"]),
        label=None if label.strip().lower() in ("", "nan") else label,
        patient_id=row.get("patient_id", "").strip() or None,
        role=ROLES_BY_NAME[role] if role else None,
        metadata={name: value for name, value in row.items() if name not in COLUMNS},
    )


def _check_paths(table: Table, records: list[Record]) -> None:
    first_row: dict[str, int] = {}
    for (number, row), record in zip(table.rows, records, strict=True):
        if not row["path"].strip():
            raise DataError(f"{str(table.path)!r}: row {number}, column 'path' is blank; fill it")
        if record.image_id in first_row:
            raise DataError(
                f"{str(table.path)!r}: {record.image_id!r} is in row {first_row[record.image_id]} "
                f"and again in row {number}, column 'path'; keep one row per image"
            )
        first_row[record.image_id] = number


def _check_labels(table: Table) -> None:
    spaced = [f"row {n}: {label}" for n, label in table.column("label") if label != label.strip()]
    spaced = [entry for entry in spaced if entry.partition(": ")[2].strip()]
    if spaced:
        raise DataError(
            f"{str(table.path)!r}: column 'label' has spaces around {listing(spaced)}; remove them"
        )
    several = [f"row {n}: {label}" for n, label in table.column("label") if "|" in label]
    if several:
        raise DataError(
            f"{str(table.path)!r}: column 'label' holds several findings in {listing(several)}; "
            "one label per image is needed: choose a finding, or name the combination without '|'"
        )


def _check_roles(table: Table) -> None:
    unknown = [
        f"row {n}: {role}"
        for n, role in table.column("split")
        if role.strip() and role.strip().lower() not in ROLES_BY_NAME
    ]
    if unknown:
        raise DataError(
            f"{str(table.path)!r}: column 'split' holds {listing(unknown)}; "
            "use train, val, calib, test or leave it blank"
        )


def _explain_missing_label(table: Table) -> str:
    flags = [
        name
        for name in table.columns
        if name not in COLUMNS and all(value.strip() in _FLAGS for _, value in table.column(name))
    ]
    if len(flags) > 1:
        return (
            f"{table.path.name} looks like a multi-label table (0/1 columns {listing(flags)}): one "
            "label per image is needed, so write a column 'label' with the finding to be learned."
        )
    return (
        f"{table.path.name} has no column 'label' (found {listing(table.columns)}): "
        "the images are unlabelled."
    )
