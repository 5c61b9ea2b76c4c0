"""`diffdx evaluate`: metrics with intervals and paired comparison, from predictions folders."""

from pathlib import Path
from typing import Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import NOTICE, Reporter
from diffdx.errors import ConfigError

METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc")


def evaluate(
    folders: Annotated[list[Path], typer.Argument(help="Folders written by diffdx classify.")],
    calib: Annotated[
        list[Path] | None,
        typer.Option(help="Calib predictions of the same runs, in order, to fit the fusion to."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where comparison.json goes; by default the first folder.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples.")] = 1000,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Score predictions against labels, with 95% intervals by patient; writes summary.json.

    Several folders of the same images are also compared in pairs: differences, McNemar's and
    DeLong's tests, and the fusion of a diffusion model with a discriminative one; comparison.json.

    Research use only, not a medical device.
    """
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        from diffdx.cli.compared import describe_comparison
        from diffdx.evaluation import compare_predictions, evaluate_predictions

        if calib and len(folders) < 2:
            raise ConfigError("--calib fits a fusion: give the predictions of two runs or more")
        summaries = {
            str(folder): evaluate_predictions(folder, n_resamples=resamples, seed=seed)
            for folder in folders
        }
        for summary in summaries.values():
            for warning in summary["warnings"]:
                reporter.warn(warning)
        text = "\n\n".join(describe(folder, summary) for folder, summary in summaries.items())
        if len(summaries) == 1:
            reporter.result(text, next(iter(summaries.values())))
            return
        where = out or folders[0]
        found = compare_predictions(
            folders, where, calib=calib or (), n_resamples=resamples, seed=seed
        )
        for warning in found["warnings"]:
            reporter.warn(warning)
        text += f"\n\n{describe_comparison(found)}\n{where / 'comparison.json'}"
        reporter.result(text, {"folders": summaries, "comparison": found})


def describe(folder: str, summary: dict[str, Any]) -> str:
    """Return the metric table of one folder as text, a row a rule."""
    from diffdx.classification.rules import rule_name

    own = {name: summary[name] for name in METRICS}
    if summary["kind"] == "baseline":
        chosen, rules = "softmax", {"softmax": own}
        how = "one evaluation each"
    else:
        chosen, rules = rule_name(summary["rule"], summary["space"]), summary["by_rule"]
        how = f"{summary['trials']} trials of a bank of {summary['bank']}"
    lines = [
        f"{folder}: {summary['n']} images, {summary['n_failed']} failed, {how}, "
        f"positive {summary['positive']}" + _stopped(summary),
        "".join(["rule".ljust(12), *(name.rjust(24) for name in METRICS)]),
    ]
    for rule, scores in rules.items():
        mark = "*" if rule == chosen else " "
        cells = (cell(scores[name]).rjust(24) for name in METRICS)
        lines.append("".join([f"{mark}{rule}".ljust(12), *cells]))
    lines += _calibrated(summary["calibration"])
    lines.append(f"* the run's own rule. Brackets: 95% bootstrap by patient. {NOTICE}")
    return "\n".join(lines)


def _stopped(summary: dict[str, Any]) -> str:
    """Return how images ended, if not with their last trial: shares and scores are coarser then."""
    if summary["stop"] in (None, "none") or summary["nfe"]["mean"] is None:
        return ""
    nfe = summary["nfe"]
    return f", stop {summary['stop']} ({nfe['mean']:.0f} of {nfe['full']} evaluations an image)"


def _calibrated(found: dict[str, Any] | None) -> list[str]:
    """Return what the calibrated columns are worth, as lines of text; none without any."""
    if found is None:
        return []
    deployed = ", ".join(f"{k} {v:.3f}" for k, v in found["prevalence"]["deployed"].items())
    selective, triage = found["selective"], found["triage"]
    kept = ", ".join(
        f"{value:.3f} of the surest {float(share):.0%}"
        for share, value in selective["accuracy_at"].items()
    )
    return [
        f"probability ({found['method']} of {found['statistic']}, prevalence "
        f"{found['prevalence']['source']}: {deployed})",
        f"  ECE {found['ece']:.3f}, uncorrected {found['ece_uncorrected']:.3f}, floor "
        f"{found['ece_floor']:.3f}; Brier {cell(found['brier'])}; "
        f"log loss {cell(found['log_loss'])}",
        f"  sets at alpha {found['alpha']:g} cover {_share(found['coverage']['marginal'])} ("
        + ", ".join(f"{k} {_share(v)}" for k, v in found["coverage"]["per_class"].items())
        + ")",
        f"  triage answers {_share(triage['answered'])}: NPV {_share(triage['npv'])}, "
        f"PPV {_share(triage['ppv'])}",
        f"  AUROC of uncertainty against error {_share(selective['auroc_error'])}; "
        f"accuracy {kept}; flagged as foreign {_share((found['ood'] or {}).get('flagged'))}",
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def cell(interval: dict[str, float | None] | None) -> str:
    """Return a value with its bounds as text."""
    if interval is None:
        return "not defined"
    bounds = [interval[name] for name in ("low", "high")]
    shown = ", ".join("-" if bound is None else f"{bound:.3f}" for bound in bounds)
    return f"{interval['value']:.3f} [{shown}]"
