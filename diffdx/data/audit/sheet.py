"""An audit as files: `audit.json`, the images it means as a table, and their thumbnails."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffdx._files import atomic_path, write_json
from diffdx._notice import NOTICE
from diffdx._typing import Pixels
from diffdx.data.audit.findings import Audit, Check
from diffdx.data.audit.subject import Subject
from diffdx.errors import DataError

TILE = 112
_CAPTION = 14
_COLUMNS = 4
_GROUPS_SHOWN = 8


def write_audit(audit: Audit, subject: Subject, folder: Path) -> list[Path]:
    """Write `audit.json`, `findings.csv` and, where pixels are known, `findings.png`.

    Args:
        audit: The answers.
        subject: The images they are about.
        folder: Where to write.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "audit.json", audit.as_json())
    written = [folder / "audit.json"]
    found = [check for check in audit.checks if check.groups]
    if found:
        _write_table(found, subject, folder / "findings.csv")
        written.append(folder / "findings.csv")
    if found and subject.dataset is not None:
        with atomic_path(folder / "findings.png") as temporary:
            _sheet(found, subject).save(temporary)
        written.append(folder / "findings.png")
    return written


def _write_table(found: list[Check], subject: Subject, path: Path) -> None:
    """Write a row for each image: check, group, image id, role, label."""
    known = subject.frame.drop_duplicates("image_id").set_index("image_id")
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["check", "group", "image_id", "role", "label"])
        for check in found:
            for number, group in enumerate(check.groups, start=1):
                for image_id in group:
                    role, label = known.loc[image_id, ["role", "label"]]
                    writer.writerow([check.name, number, image_id, role or "", label or ""])


def _sheet(found: list[Check], subject: Subject) -> Image.Image:
    """Return a row of thumbnails for each group, the first groups of each check."""
    rows = [
        (f"{check.name} {number}: {', '.join(_sides(subject, group))}", group)
        for check in found
        for number, group in enumerate(check.groups[:_GROUPS_SHOWN], start=1)
    ]
    height = TILE + _CAPTION
    sheet = Image.new("RGB", (_COLUMNS * TILE, len(rows) * height + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (caption, group) in enumerate(rows):
        draw.text((2, row * height), caption.encode("latin-1", "replace"), fill="black")
        for column, tile in enumerate(_tiles(subject, group[:_COLUMNS])):
            sheet.paste(tile, (column * TILE, row * height + _CAPTION))
    draw.text((2, len(rows) * height), NOTICE, fill="black")
    return sheet


def _sides(subject: Subject, group: tuple[str, ...]) -> list[str]:
    rows = subject.frame[subject.frame["image_id"].isin(group)]
    return sorted({f"{role}/{label}" for role, label in zip(rows.role, rows.label, strict=True)})


def _tiles(subject: Subject, group: tuple[str, ...]) -> Iterator[Image.Image]:
    assert subject.dataset is not None
    for record in subject.dataset.select(group).records:
        try:
            yield _tile(subject.dataset.pixels(record))
        except DataError:  # gone since it was seen
            yield Image.new("RGB", (TILE, TILE), "grey")


def _tile(pixels: Pixels) -> Image.Image:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((TILE - 2, TILE - 2))
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(image, (0, 0))
    return tile
