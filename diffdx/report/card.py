"""The measured half of a model card: data, audit, metrics, calibration, limits, in Markdown.

Training writes the first half of RUN/model_card.md (`training.card`); this writes the second, from
the same files as the HTML page, and replaces it when it is written again.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffdx._files import write_text
from diffdx._notice import NOTICE
from diffdx.errors import DataError
from diffdx.report import rows
from diffdx.report.facts import Facts, RunFacts
from diffdx.report.limits import limits, warnings
from diffdx.report.templating import environment

CARD_FILE = "model_card.md"
BEGINNING = "<!-- measured: written by diffdx report -->"


def write_card(runs: Sequence[RunFacts]) -> Path:
    """Write what was measured of one model into its card, and return the card's path.

    Args:
        runs: Evaluated predictions of one model whose run folder is known.

    Raises:
        DataError: if the run folder has no card: it is no finished run.
    """
    model = runs[0].model
    assert model is not None, "runs of a model whose run folder is known"
    path = model.folder / CARD_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; name the folder of a finished run")
    trained = path.read_text(encoding="utf-8").partition(BEGINNING)[0].rstrip()
    write_text(path, f"{trained}\n\n{BEGINNING}\n\n{measured(runs)}")
    return path


def measured(runs: Sequence[RunFacts]) -> str:
    """Return the Markdown about these predictions of one model."""
    facts = Facts(list(runs), None)
    templates = environment(autoescape=False, cell=_cell, interval=_interval)
    return templates.get_template("card.md").render(
        notice=NOTICE,
        runs=runs,
        model=runs[0].model,
        warnings=[text for text, _ in warnings(facts)],
        limits=limits(facts),
        rows=rows,
    )


def _cell(text: Any) -> str:
    """Return a text that can do nothing in a Markdown table but be read."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _interval(found: Any, form: str = ".3f") -> str:
    if found is None:
        return "not defined"
    if not isinstance(found, dict):
        return format(found, form)
    value = format(found["value"], form)
    if found["low"] is None:
        return value
    return f"{value} ({found['low']:{form}} to {found['high']:{form}})"
