"""`diffdx replay`: a run with fewer trials, another rule or a stop, from its stored errors."""

from pathlib import Path
from typing import Annotated

import typer

from diffdx.cli import options
from diffdx.cli.console import NOTICE, Reporter
from diffdx.cli.fitted import fitted_parts


def replay(
    folder: Annotated[Path, typer.Argument(help="Predictions folder of a run without a stop.")],
    out: Annotated[Path, typer.Option(help="Predictions folder to write.")],
    trials: Annotated[int | None, typer.Option(min=1, help="The first so many trials.")] = None,
    rule: options.Rule = "vote",
    space: options.Space = "v",
    stop: options.Stop = "none",
    eliminate: options.Eliminate = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Recompute a classified folder under other settings; no network is called.

    The result is what `diffdx classify` gives with these settings on the same bank. Research use
    only, not a medical device.
    """
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        from diffdx.classification.replay import facts_of, replay
        from diffdx.classification.settings import ClassifySettings

        facts = facts_of(folder)
        trials = trials or facts["trials"]
        bound, weights = fitted_parts(folder, rule=rule, space=space, stop=stop, trials=trials)
        settings = ClassifySettings(
            num_trials=trials,
            bank_size=facts["bank"],
            rule=rule,
            space=space,
            stop=stop,
            bound=bound,
            weights=weights,
            eliminate=eliminate,
            overwrite=overwrite,
        )
        table = replay(folder, out, settings)
        done = table[table["status"] == "ok"]
        full = len(facts["classes"]) * settings.num_trials
        result = {
            "out": str(out),
            "stop": stop,
            "n": len(table),
            "nfe": {"mean": float(done["nfe"].mean()), "full": full},
        }
        text = (
            f"{len(done)} images, {done['nfe'].mean():.1f} of {full} network evaluations each "
            f"on average, stop {stop}\n{NOTICE}\n{out / 'predictions.csv'}"
        )
        reporter.result(text, result)
