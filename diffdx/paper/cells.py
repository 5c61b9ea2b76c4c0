"""The cells of Table 1, and the steps that make one: commands and what they leave behind.

A step whose result is there is not repeated, so what was cut goes on where it was.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffdx.errors import ConfigError
from diffdx.paper.published import BY_NAME, DATASETS, METHODS, DatasetName, Method

Program = Literal["diffdx", "prepare"]


@dataclass(frozen=True)
class Step:
    """A command and its result.

    Attributes:
        program: `diffdx`, or `prepare` for `python -m diffdx.paper.prepare`.
        arguments: Of the program.
        makes: File or folder that the command leaves.
        mark: File whose existence says that the result is whole; of a run, its record.
    """

    program: Program
    arguments: tuple[str, ...]
    makes: Path
    mark: Path

    @property
    def is_run(self) -> bool:
        """Whether the result is a run folder, which can be resumed."""
        return self.mark.name == "run.json"

    @property
    def is_done(self) -> bool:
        """Whether the result is there and whole."""
        if not self.mark.is_file():
            return False
        return not self.is_run or _status(self.mark) == "done"

    def command(self) -> tuple[str, ...]:
        """Return the arguments for now: a run that was cut is resumed, remains are overwritten."""
        if not self.is_run or not self.makes.exists():
            return self.arguments
        resumable = (self.makes / "checkpoints" / "last").exists()
        return (*self.arguments, "--resume" if resumable else "--overwrite")

    def __str__(self) -> str:
        program = "diffdx" if self.program == "diffdx" else "python -m diffdx.paper.prepare"
        return f"{program} {shlex.join(self.arguments)}"


def _status(record: Path) -> str:
    return str(json.loads(record.read_text(encoding="utf-8"))["status"])


@dataclass(frozen=True)
class Cell:
    """A method on a set."""

    method: Method
    dataset: DatasetName

    @property
    def name(self) -> str:
        """METHOD/SET, as `--only` takes it."""
        return f"{self.method.name}/{self.dataset}"


CELLS = tuple(Cell(method, dataset) for method in METHODS for dataset in DATASETS)


def choose_cells(only: Sequence[str] | None) -> list[Cell]:
    """Return the cells that METHOD/SET, METHOD or SET name; all if there are none.

    Raises:
        ConfigError: for a name that fits no cell.
    """
    known = {cell.name for cell in CELLS} | set(BY_NAME) | set(DATASETS)
    unknown = sorted(set(only or ()) - known)
    if unknown:
        raise ConfigError(
            f"--only {', '.join(unknown)}: no such cell; give METHOD/SET, METHOD or SET of methods "
            f"{', '.join(BY_NAME)} and sets {', '.join(DATASETS)}"
        )
    wanted = set(only or known)
    return [c for c in CELLS if wanted & {c.name, c.method.name, c.dataset}]
