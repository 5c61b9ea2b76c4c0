"""`diffdx report`: one self-contained HTML page, and the model card, from result files."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter
from diffdx.errors import ConfigError

if TYPE_CHECKING:
    from diffdx.data.dataset import Dataset
    from diffdx.report.cases import Case, Explanations
    from diffdx.report.facts import Facts, RunFacts


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Evaluated predictions folders; one of a comparison may be among them."
        ),
    ],
    run: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder of a model: its data, audit and training are shown."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The images, if not where they were; and their columns.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column of the data to group by; default: source, sex, age."),
    ] = None,
    explained: Annotated[
        list[Path] | None, typer.Option(help="Folder of `diffdx explain` with these images.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write; default: report.html in the first folder.")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write what was measured into RUN/model_card.md, too.")
    ] = False,
    uncertain: options.Uncertain = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Write one page that needs no other file. Research use only, not a medical device.

    Several folders stand side by side on it.
    """
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        from diffdx.report.cases import Explanations
        from diffdx.report.facts import gather_facts
        from diffdx.report.html import PAGE_FILE, write_report

        if by and data is None:
            raise ConfigError("--by needs --data: the columns are the data's, not the predictions'")
        if card and not run:
            raise ConfigError("--card needs --run: the card lies in the run folder")
        facts = gather_facts(folders, run or ())
        dataset = None if data is None else _open(data, facts, uncertain)
        if dataset is not None:
            facts = _grouped(facts, dataset, by or [])
        pictures = Explanations(explained) if explained else None
        page = write_report(
            facts,
            out or folders[0] / PAGE_FILE,
            title=title or ", ".join(one.name for one in facts.runs) or folders[0].name,
            cases=cases(facts, dataset, pictures),
        )
        written = [str(page), *(_write_cards(facts) if card else [])]
        reporter.result("\n".join(written), {"pages": [str(page)], "cards": written[1:]})


def cases(
    facts: "Facts", dataset: "Dataset | None" = None, explained: "Explanations | None" = None
) -> "dict[str, list[Case]]":
    """Return the cases to show of each run, fewer where there are several runs."""
    from diffdx.report.cases import make_cases

    each = 4 if len(facts.runs) == 1 else 2
    return {
        run.name: make_cases(run, dataset=dataset, explained=explained, each=each)
        for run in facts.runs
    }


def _open(data: str, facts: "Facts", uncertain: str | None) -> "Dataset":
    from diffdx.data.readers import open_dataset

    dataset = open_dataset(data, uncertain=uncertain)
    known = {record.image_id for record in dataset.records}
    for run in facts.runs:
        if not known & set(run.stored.table["image_id"]):
            raise ConfigError(
                f"--data {data}: holds none of the images of {run.name}; name the data as it was "
                "named to `diffdx classify`"
            )
    return dataset


def _grouped(facts: "Facts", dataset: "Dataset", columns: list[str]) -> "Facts":
    """Return the facts with the metrics of each group of the dataset's images."""
    from diffdx.evaluation.subgroups import evaluate_subgroups

    metadata = {record.image_id: record.metadata for record in dataset.records}
    runs = [
        replace(run, subgroups=evaluate_subgroups(run.stored, metadata, columns))
        for run in facts.runs
    ]
    return replace(facts, runs=runs)


def _write_cards(facts: "Facts") -> list[str]:
    from diffdx.report.card import write_card

    of: dict[Path, list[RunFacts]] = {}
    for run in facts.runs:
        if run.model is not None:
            of.setdefault(run.model.folder, []).append(run)
    return [str(write_card(runs)) for runs in of.values()]
