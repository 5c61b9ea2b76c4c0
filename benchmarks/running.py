"""Commands of diffdx that a benchmark starts: each a process, as a user would run it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL import Image

from diffdx._typing import Pixels
from diffdx.data import Dataset, Record


def diffdx(
    *arguments: object,
    log: Path | None = None,
    core: int | None = None,
    threads: int | None = None,
) -> None:
    """Run one command; fail with it.

    Args:
        arguments: As on the command line.
        log: Takes its words, after those that are there already; None shows them.
        core: It alone works; None leaves that to the machine.
        threads: Of OpenMP; None leaves that to the machine.
    """
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    few = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)) if threads else {}
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") if log else nullcontext() as words:
        code = subprocess.run(
            [*pinned, sys.executable, "-m", "diffdx", *map(str, arguments)],
            stdout=words,
            stderr=words,
            env=os.environ | few,
            check=False,
        ).returncode
    # 3: some images could not be read, which the tables say.
    if code not in (0, 3):
        raise RuntimeError(f"{arguments[0]}: exit code {code}; see {log or 'above'}")


def train(run: Path, *arguments: object, **how: Any) -> None:
    """Train a run, or continue it where it was cut; nothing is done if it is finished.

    Args:
        run: The run folder.
        arguments: As on the command line, without what this decides.
        how: As `diffdx` takes it.
    """
    record = run / "run.json"
    if record.is_file() and json.loads(record.read_text("utf-8"))["status"] == "done":
        return
    more = "--resume" if (run / "checkpoints" / "last").exists() else "--overwrite"
    diffdx(*arguments, "--out", run, "--no-progress", more, **how)


def write_images(folder: Path, dataset: Dataset, pixels_of: Callable[[Record], Pixels]) -> None:
    """Write images into one folder a class, as PNG; once the folder is there, it is whole."""
    new = folder.with_suffix(".new")
    for record in dataset.records:
        file = new / str(record.label) / f"{Path(record.image_id).stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_of(record)).save(file)
    new.rename(folder)
