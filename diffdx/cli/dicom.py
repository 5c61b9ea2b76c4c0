"""`diffdx dicom write` and `listen`: results as DICOM objects, by hand or as a network node."""

from pathlib import Path
from typing import Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import EXIT_SOME_FAILED, NOTICE, Reporter
from diffdx.cli.folders import require_room
from diffdx.cli.models import load_model
from diffdx.errors import ConfigError

app = typer.Typer(name="dicom", help="Results as DICOM objects, and a DICOM node.")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OF_TRIALS = ("trials", "stop", "explain")
"""Parameters of `listen` that mean nothing to a baseline."""


@app.command()
def write(
    predictions: Annotated[Path, typer.Argument(help="Predictions folder of DICOM images.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    explanations: Annotated[
        Path | None, typer.Option(help="Folder of `explain` with these images: adds the maps.")
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write reports (TID 1500) and maps (Secondary Capture) into the images' own studies.

    The objects carry the patient's and the study's tags, as nothing else that diffdx writes does.
    Exit code 3 means that some images got none. Research use only, not a medical device.
    """
    reporter = Reporter(quiet, as_json=as_json)
    with reporter.ending():
        from diffdx.data.dicom import require_dicom

        require_dicom("pydicom", "highdicom")
        from diffdx.report.dicom_folder import write_objects

        inputs = [predictions, *([] if explanations is None else [explanations])]
        require_room(out, overwrite=overwrite, inputs=inputs)
        written = write_objects(predictions, out, explanations)
        for image_id, reason in written.failures.items():
            reporter.warn(f"{image_id}: {reason}")
        if written.n_other:
            reporter.warn(f"{written.n_other} images are no DICOM files, or were not classified")
        result = {
            "out": str(out),
            "objects": len(written.objects),
            "n_other": written.n_other,
            "n_failed": len(written.failures),
        }
        reporter.result(f"{len(written.objects)} DICOM objects. {NOTICE}\n{out}", result)
        if written.failures:
            raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def listen(
    context: options.Context,
    run: Annotated[Path, typer.Argument(help="Run or checkpoint folder.")],
    allow: Annotated[list[str], typer.Option(help="AE titles that may send images.")],
    return_to: Annotated[
        str, typer.Option(help="AE@HOST:PORT, or the http(s) root of a DICOMweb service.")
    ],
    ae_title: Annotated[str, typer.Option(help="AE title of this node.")] = "DIFFDX",
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 11112,
    spool: Annotated[
        Path | None, typer.Option(help="Folder of what waits; default: out/dicom-RUN.")
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="Quota of that folder.")] = 1024,
    explain: Annotated[bool, typer.Option("--explain", help="Send maps back too.")] = False,
    trials: Annotated[int, typer.Option(min=1, help="Trials per image.")] = 501,
    stop: options.Stop = "none",
    prevalence: options.Prevalence = None,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Receive DICOM images, classify them, send results back. Research use only.

    Runs until Ctrl-C. Images leave the spool folder once their results are stored in the archive;
    what still waits then is taken up by the next start. Messages name images by a hash only.
    """
    reporter = Reporter(quiet)
    with reporter.ending():
        from diffdx.data.dicom import require_dicom

        require_dicom("pydicom", "highdicom", "pynetdicom", "httpx")
        from diffdx._files import exclusive
        from diffdx._interrupt import stop_requests
        from diffdx.backbones.classifiers import is_baseline
        from diffdx.classification.settings import ClassifySettings
        from diffdx.classification.supervised import SupervisedSettings
        from diffdx.serving.dicom_case import CaseReader
        from diffdx.serving.dicom_node import Listening, Node
        from diffdx.serving.dicom_return import destination
        from diffdx.serving.dicom_spool import Spool

        listening = Listening(ae_title, allow, host, port)
        archive = destination(return_to, ae_title)
        if is_baseline(run):
            options.refuse(context, OF_TRIALS, f"{run} is a baseline, without trials and maps")
        of_trials: dict[str, Any] = {"num_trials": trials, "stop": stop, "evidence": explain}
        how: dict[str, Any] = {
            "batch_size": options.rows_per_call(batch_size),
            "device": device,
            "precision": precision,
        }
        settings = (
            SupervisedSettings(**how) if is_baseline(run) else ClassifySettings(**of_trials, **how)
        )
        reader = CaseReader(run, load_model(run), settings, prevalence)
        folder = spool or Path("out") / f"dicom-{run.name}"
        if host not in LOOPBACK:
            reporter.warn(
                "AE titles are no passwords and DICOM is not encrypted: let only the archive "
                f"reach {host}:{port}"
            )
        try:
            with exclusive(folder, wait=False), stop_requests() as stopping:
                node = Node(
                    listening, Spool(folder, max_mb << 20), reader.read, archive, reporter.say
                )
                reporter.say(f"{ae_title} on {host}:{port}, results to {return_to}. {NOTICE}")
                node.run(stopping)
                stopping.raise_if_made()
        except BlockingIOError:
            raise ConfigError(f"{folder} is in use by another node; name another --spool") from None
