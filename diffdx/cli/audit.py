"""`diffdx audit`: leakage, duplicates and shortcuts in the data, before a model is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import NOTICE, Reporter
from diffdx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffdx.data.audit import Audit
    from diffdx.data.audit.run import Pass
    from diffdx.data.audit.subject import Subject
    from diffdx.training.run_folder import RunRequest

EXIT_AUDIT = 4
READING_SECONDS = 60.0
"""How long the audit before training may read images; it judges by those it has read then."""


def audit(
    data: Annotated[
        str | None, typer.Argument(help="Folder, CSV or NAME:ROOT; none for tables alone.")
    ] = None,
    splits: Annotated[
        list[Path] | None, typer.Option(help="Lists of train, valid and test images, CSV.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="Table of what is known about the images, .csv or .csv.gz.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for audit.json, the findings and thumbnails.")
    ] = None,
    uncertain: options.Uncertain = None,
    seed: options.Seed = 0,
    minutes: Annotated[
        float | None, typer.Option(help="Stop reading after so long: a random sample is audited.")
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    as_json: options.Json = False,
) -> None:
    """Look for leakage, duplicates and shortcuts; exit code 4 if any must be answered.

    Without DATA the tables alone are audited. With DATA and without --splits, the split is the one
    that `diffdx train` with the same --seed would make. Research use only, not a medical device.
    """
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        from diffdx.data.audit.run import run_audit
        from diffdx.data.audit.sheet import write_audit

        subject = _subject(data, splits, metadata, uncertain=uncertain, seed=seed)
        with reporter.progress(f"looking at {len(subject)} images") as line:
            seconds = None if minutes is None else 60 * minutes
            found = run_audit(subject, _reading(line.count, seconds))
        files = [] if out is None else write_audit(found, subject, out)
        text = "\n".join([describe(found), *map(str, files)])
        reporter.result(text, found.as_json())
        if found.verdict == "fail":
            raise typer.Exit(EXIT_AUDIT)


def audit_before(reporter: Reporter, request: "RunRequest[Any, Any]", *, allow_leak: bool) -> None:
    """Audit what a run is about to be trained on, into `request.audit` and the data's warnings.

    A resumed run keeps the audit it began with. Reading images takes a minute at most, or nothing
    where the same data was audited before.

    Raises:
        DataError: if a patient or an image is in two roles, unless that is allowed: the model would
            be tested on what it has seen.
    """
    from diffdx.data.audit.findings import AUDITED, read_audit
    from diffdx.data.audit.run import run_audit
    from diffdx.data.audit.subject import subject_of_dataset

    earlier = read_audit(request.out) if request.resume else None
    if earlier is not None:
        _carry(request, AUDITED + earlier["line"])
        return
    subject = subject_of_dataset(request.dataset, request.splits)
    with reporter.progress(f"auditing {len(subject)} images") as line:
        found = run_audit(subject, _reading(line.count, READING_SECONDS))
    for check in found.named("fail"):
        reporter.warn(f"audit: {check.name}: {check.detail}")
    if found.leaks and not allow_leak:
        names = ", ".join(check.name for check in found.leaks)
        raise DataError(
            f"{request.dataset.name}: the audit found {names}; see `diffdx audit --out DIR` for "
            "the images, correct the splits, or use --allow-leak, which is written into every "
            "report"
        )
    reporter.say(found.warning())
    request.audit = found.as_json()
    _carry(request, found.warning())


def _carry(request: "RunRequest[Any, Any]", warning: str) -> None:
    """Add a line to the warnings of the run, and so of its model and of all results."""
    request.dataset.warnings.append(warning)
    if request.model is not None:
        request.model.warnings = (*request.model.warnings, warning)


def describe(found: "Audit") -> str:
    """Return the audit as text, a line or two for each check."""
    roles = ", ".join(f"{n} {role}" for role, n in found.roles.items())
    patients = "unknown" if found.patients is None else str(found.patients)
    lines = [f"{found.name}: {found.n} images ({roles}), patients: {patients}"]
    for check in found.checks:
        value = "" if check.value is None else f" {check.value:.3f}".rstrip("0").rstrip(".")
        lines.append(f"{check.verdict.upper():<10} {check.name}{value}")
        lines.append(f"           {check.detail}")
    if found.excluded:
        lines.append(f"left out, since they repeat the label: {', '.join(found.excluded)}")
    lines.append(f"verdict: {found.line()}")
    lines.append(NOTICE)
    return "\n".join(lines)


def _subject(
    data: str | None,
    splits: list[Path] | None,
    metadata: Path | None,
    *,
    uncertain: str | None,
    seed: int,
) -> "Subject":
    from diffdx.data.audit.subject import subject_of_dataset, subject_of_lists
    from diffdx.data.readers import open_dataset
    from diffdx.data.splits import align_splits, load_splits, make_splits

    if data is None:
        if not splits:
            raise ConfigError(
                "nothing to audit: give DATA, or --splits TRAIN.csv VALID.csv TEST.csv"
            )
        return subject_of_lists(splits, metadata)
    dataset = open_dataset(data, uncertain=uncertain)
    if splits:
        frame = align_splits(load_splits(splits), dataset)
    else:
        frame = make_splits(dataset, seed=seed)
    return subject_of_dataset(dataset, frame, metadata)


def _reading(progress: "Callable[[int, int], None]", seconds: float | None) -> "Pass":
    """Return how to read: with the cache, unless it cannot be written."""
    from diffdx._cache import cache_folder
    from diffdx.data.audit.run import Pass

    try:
        cache = cache_folder("audit")
    except ConfigError:
        cache = None
    return Pass(cache, seconds, progress)
