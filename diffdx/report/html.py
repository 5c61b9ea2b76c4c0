"""One self-contained HTML page about one or several predictions folders.

Tables quote the result files, each number marked with its place there (`report.marked`); figures
are drawn from the stored errors. The page asks nothing of any server: styles, figures and pictures
are inside, and its content policy forbids the rest.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

from jinja2 import Environment
from matplotlib.figure import Figure

from diffdx._files import write_text
from diffdx._notice import NOTICE
from diffdx.report import rows
from diffdx.report.cases import KINDS, Case
from diffdx.report.explanation_figures import Counterfactual, counterfactual_figure
from diffdx.report.facts import Facts
from diffdx.report.limits import limits, warnings
from diffdx.report.marked import Source
from diffdx.report.templating import environment
from diffdx.report.view import Figures, RunView

PAGE_FILE = "report.html"


def write_report(
    facts: Facts,
    target: Path,
    *,
    title: str = "Predictions",
    cases: Mapping[str, Sequence[Case]] | None = None,
    counterfactuals: Sequence[Counterfactual] = (),
) -> Path:
    """Write the page and return its path.

    Args:
        facts: From `gather_facts`.
        target: The file to write.
        title: Heading of the page.
        cases: Images to show, by the name of the run; from `make_cases`.
        counterfactuals: Explained images to show besides.
    """
    views = [
        RunView.of(number, run, (cases or {}).get(run.name, ()))
        for number, run in enumerate(facts.runs)
    ]
    page = _environment().get_template("page.html")
    text = page.render(
        title=title,
        notice=NOTICE,
        version=version("diffdx"),
        sections=_sections(facts, views, has_explained=bool(counterfactuals)),
        runs=views,
        models=_first_of_each(views),
        warnings=warnings(facts),
        limits=limits(facts),
        figures=Figures(views),
        comparison=Source("comparison.json", facts.comparison),
        rows=rows,
        kinds=KINDS,
        counterfactuals=[(one, _png(counterfactual_figure(one))) for one in counterfactuals],
    )
    write_text(target, text)
    return target


def _sections(
    facts: Facts, views: Sequence[RunView], *, has_explained: bool
) -> list[tuple[str, str]]:
    """Return name of the template and title of each section that has something to say."""
    ran = bool(views)
    groups = any(run.subgroups and run.subgroups["columns"] for run in facts.runs)
    wanted = {
        "short": ("In short", ran),
        "compared": ("Compared", facts.comparison is not None),
        "data": ("Data and audit", ran),
        "decisions": ("Decisions", ran),
        "probabilities": ("Probabilities", any(view.calibration for view in views)),
        "fewer": ("Answering fewer", any(view.has_two_labels for view in views)),
        "groups": ("Groups", groups),
        "cases": ("Cases", has_explained or any(view.cases for view in views)),
        "cost": ("Cost", ran),
        "limits": ("Limits", True),
        "made": ("How it was made", ran),
    }
    return [(name, title) for name, (title, is_there) in wanted.items() if is_there]


def _first_of_each(views: Sequence[RunView]) -> list[RunView]:
    """Return a run of each model whose run folder is known."""
    first: dict[str, RunView] = {}
    for view in views:
        if view.facts.model is not None:
            first.setdefault(view.facts.model.sha256, view)
    return list(first.values())


@lru_cache
def _environment() -> Environment:
    return environment(autoescape=True, base64=lambda data: base64.b64encode(data).decode("ascii"))


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
