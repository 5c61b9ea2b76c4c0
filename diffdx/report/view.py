"""A run as the templates see it: its files as sources of marked numbers, and its figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from diffdx.classification.rules import rule_name
from diffdx.evaluation import StoredPredictions
from diffdx.evaluation.predictions import BASELINE
from diffdx.report import calibration_figures, curve_figures, figures
from diffdx.report.cases import Case
from diffdx.report.facts import RunFacts
from diffdx.report.marked import Source
from diffdx.report.svg import inline_svg


@dataclass(frozen=True)
class RunView:
    """One run, its files numbered as the run is on the page."""

    name: str
    facts: RunFacts
    known: StoredPredictions
    """Those with a label."""
    cases: Sequence[Case]
    summary: Source
    subgroups: Source
    record: Source
    audit: Source
    table: Source
    """Of the cases: by row of `predictions.csv`, then column."""

    @classmethod
    def of(cls, number: int, run: RunFacts, cases: Sequence[Case]) -> "RunView":
        """Return the view of the run with this number on the page."""
        shown = {case.row: run.stored.table.iloc[case.position].to_dict() for case in cases}
        model = run.model
        return cls(
            name=run.name,
            facts=run,
            known=run.stored.labelled(),
            cases=cases,
            summary=Source(f"{number}/summary.json", run.summary),
            subgroups=Source(f"{number}/subgroups.json", run.subgroups),
            record=Source(f"{number}/run.json", None if model is None else model.record),
            audit=Source(f"{number}/audit.json", None if model is None else model.audit),
            table=Source(f"{number}/predictions.csv", shown),
        )

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.known.classes

    @property
    def is_baseline(self) -> bool:
        """Whether it has a softmax in place of votes."""
        return self.known.kind == BASELINE

    @property
    def own_rule(self) -> str:
        """The rule that decided, by its name under `by_rule`."""
        return rule_name(str(self.facts.summary["rule"]), str(self.facts.summary["space"]))

    @property
    def calibration(self) -> Any:
        """The entry `calibration` of the summary; None if there is none."""
        return self.facts.summary["calibration"]

    @property
    def has_two_labels(self) -> bool:
        """Whether there is something to tell apart."""
        return len(set(self.known.labels.tolist())) > 1


Draw = Callable[[StoredPredictions], Figure]
DrawAll = Callable[[curve_figures.Runs], Figure]

JOINT: dict[str, tuple[DrawAll, str]] = {
    "roc": (
        curve_figures.roc_figure,
        "Receiver operating characteristic. Dots: the decisions as they were made. Shaded: 95%, "
        "by patient.",
    ),
    "precision_recall": (
        curve_figures.precision_recall_figure,
        "Precision and recall. Dotted: the share of the class among these images.",
    ),
    "selective": (
        curve_figures.selective_figure,
        "Accuracy if only the surest images are answered and the others are left to a reader.",
    ),
}
SINGLE: dict[str, tuple[Draw, str]] = {
    "share": (
        figures.share_figure,
        "Votes or softmax by label: a score, no probability.",
    ),
    "entropy": (
        figures.entropy_figure,
        "Entropy where the prediction is right and where it is wrong.",
    ),
    "trials": (
        figures.trials_figure,
        "What more trials bring, from the first trials of the same store.",
    ),
    "logsnr": (
        figures.logsnr_figure,
        "Share of trials that vote for the labelled class, by noise level. Dotted: chance.",
    ),
    "reliability": (
        calibration_figures.reliability_figure,
        "How often the class is true where its probability is so large; dotted: as claimed. Grey: "
        "how many images.",
    ),
    "decision": (
        calibration_figures.decision_figure,
        "Net benefit: true positives an image, less false ones at the odds of the threshold.",
    ),
    "gate": (
        calibration_figures.gate_figure,
        "Out-of-distribution gate: p values, before any class is named.",
    ),
}


class Figures:
    """Draws the figures that the templates ask for; each has ids of its own."""

    def __init__(self, runs: Sequence[RunView]) -> None:
        """Draw figures of these runs."""
        self._runs, self._drawn = runs, 0

    def joint(self, name: str) -> Markup:
        """Return one figure of all runs that can be drawn; nothing if there is none."""
        draw, caption = JOINT[name]
        chosen = [run for run in self._runs if run.has_two_labels]
        if name != "selective" and len(chosen) > 1:
            chosen = [run for run in chosen if run.known.positive is not None]
        if not chosen:
            return Markup("")
        return self._shown(draw({run.name: run.known for run in chosen}), caption)

    def single(self, name: str, run: RunView) -> Markup:
        """Return a figure of one run."""
        draw, caption = SINGLE[name]
        of = f"{run.name}: " if len(self._runs) > 1 else ""
        return self._shown(draw(run.known), of + caption)

    def _shown(self, figure: Figure, caption: str) -> Markup:
        self._drawn += 1
        drawn = inline_svg(figure, f"f{self._drawn}", caption)
        return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(drawn, caption)
