"""Carries a plan out, cell by cell; what fails is told and does not stop the others.

Each look at test images is written down once, in OUT/test-looks.jsonl: when, which weights, how,
and what was seen.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffdx._files import write_text
from diffdx.errors import DiffdxError
from diffdx.evaluation import evaluate_predictions
from diffdx.evaluation.summary import METRICS
from diffdx.paper.cells import Cell, Step
from diffdx.paper.plan import Plan

LOOKS_FILE = "test-looks.jsonl"
FAILED_FILE = "failed.txt"
LOG_FILE = "log.txt"
SOME_FAILED = 3
"""Exit code of a command that finished although some images failed; the tables say which."""

Execute = Callable[[Step, Path], int]
"""Does a step, its words appended to a file; returns its exit code."""
_SETTINGS = ("model_sha256", "trials", "bank", "seed", "rule", "space", "precision", "device")


class StepError(DiffdxError):
    """A step whose command failed."""


def make_cells(
    plan: Plan,
    cells: Sequence[Cell],
    execute: Execute,
    tell: Callable[[str], None],
) -> list[str]:
    """Make the cells that are not done; return the names of those that failed.

    Args:
        plan: How.
        cells: Which.
        execute: Does a step.
        tell: Told of each cell what became of it, and `n of N done`.
    """
    failed = []
    for cell in cells:
        reason = plan.missing(cell)
        outcome = "absent" if reason else "done"
        if reason is None:
            try:
                make_cell(plan, cell, execute)
                (plan.folder(cell) / FAILED_FILE).unlink(missing_ok=True)
            except DiffdxError as error:
                outcome, reason = "failed", str(error)
                failed.append(cell.name)
                write_text(plan.folder(cell) / FAILED_FILE, reason + "\n")
        finished = sum(is_finished(plan, one) for one in cells)
        because = f" ({reason})" if reason else ""
        tell(f"{cell.name}: {outcome}{because}; {finished} of {len(cells)} done")
    return failed


def make_cell(plan: Plan, cell: Cell, execute: Execute) -> None:
    """Do what a cell still needs, and score it.

    Raises:
        StepError: with the words of the command that failed.
        DataError: if predictions cannot be scored.
    """
    folder = plan.folder(cell)
    do_steps(plan.steps_of(cell), execute, folder / LOG_FILE)
    predictions = folder / "predictions"
    if not (predictions / "summary.json").is_file():
        summary = evaluate_predictions(predictions)
        log_look(plan.out / LOOKS_FILE, f"reproduce table1: {cell.name}", summary)


def do_steps(steps: Sequence[Step], execute: Execute, log: Path) -> None:
    """Do those of the steps whose results are not there.

    Raises:
        StepError: with the words of the command that failed.
    """
    for step in steps:
        if step.is_done:
            continue
        log.parent.mkdir(parents=True, exist_ok=True)
        code = execute(step, log)
        if code not in (0, SOME_FAILED):
            command = shlex.join([step.program, *step.arguments[:2]])
            raise StepError(f"{command} ...: exit code {code}: {_last_words(log)}; see {log}")


def is_finished(plan: Plan, cell: Cell) -> bool:
    """Say whether a cell has been scored."""
    return (plan.folder(cell) / "predictions" / "summary.json").is_file()


def log_look(file: Path, why: str, summary: dict[str, Any], **more: Any) -> None:
    """Append one look at test images to a log, one JSON object a line, with what else is known."""
    rules = summary["by_rule"] or {"softmax": {name: summary[name] for name in METRICS}}
    look = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
        "why": why,
        **{name: summary.get(name) for name in _SETTINGS},
        "n": summary["n"],
        "by_rule": {
            rule: {name: score and round(score["value"], 4) for name, score in scores.items()}
            for rule, scores in rules.items()
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(look) + "\n")


def _last_words(log: Path) -> str:
    """Return the last error that a command printed, or its last line."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no words"])[-1]
