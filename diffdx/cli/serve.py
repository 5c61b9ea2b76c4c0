"""`diffdx serve`: a web page and a REST interface that ask one model."""

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import NOTICE, Reporter
from diffdx.cli.fitted import fitted_parts
from diffdx.errors import ConfigError


def serve(
    run: Annotated[Path, typer.Argument(help="Run or checkpoint folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that every request must bring.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name under which the server is reached; repeatable.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials per image.")] = 501,
    bank: Annotated[int, typer.Option(min=1, help="Trials in the bank.")] = 501,
    rule: options.Rule = "vote",
    space: options.Space = "v",
    stop: options.Stop = "0.01",
    prevalence: options.Prevalence = None,
    queue: Annotated[int, typer.Option(min=1, help="Jobs that wait or run at most.")] = 16,
    per_client: Annotated[int, typer.Option(min=1, help="Of these, from one address.")] = 4,
    timeout: Annotated[float, typer.Option(help="Longest seconds of a job.")] = 300.0,
    max_upload: Annotated[int, typer.Option(min=1, help="Largest upload in MiB.")] = 64,
    keep: Annotated[float, typer.Option(help="Minutes for which results are kept.")] = 15.0,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Serve a web page and REST that classify and explain images. Research use only.

    Uploads and results are in memory alone. Only this machine can ask, unless --host names another
    address, which needs a --token-file. Not a medical device.
    """
    reporter = Reporter(quiet, verbose)
    with reporter.ending():
        try:
            from diffdx.serving.app import serve as serve_model
        except ModuleNotFoundError as error:
            raise ConfigError(f"serving needs {error.name}: pip install 'diffdx[serve]'") from None
        from diffdx.serving.settings import ServeSettings, read_token
        from diffdx.serving.tasks import ModelSettings

        settings = ServeSettings(
            host=host,
            port=port,
            token=None if token_file is None else read_token(token_file),
            allow_hosts=tuple(allow_host or ()),
            queue=queue,
            per_client=per_client,
            seconds=timeout,
            upload_bytes=max_upload << 20,
            keep_seconds=60 * keep,
        )
        bound, weights = fitted_parts(run, rule=rule, space=space, stop=stop, trials=trials)
        classify: dict[str, Any] = {
            "num_trials": trials,
            "bank_size": bank,
            "rule": rule,
            "space": space,
            "stop": stop,
            "bound": bound,
            "weights": weights,
            "seed": seed,
            "batch_size": options.rows_per_call(batch_size),
            "device": device,
            "precision": precision,
        }
        reporter.say(f"loading {run}")
        try:
            serve_model(
                ModelSettings(run, classify, prevalence),
                settings,
                lambda address: reporter.say(f"{address}  {NOTICE} Ctrl-C ends it."),
            )
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
