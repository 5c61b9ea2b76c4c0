"""`diffdx reproduce`: the paper's table and figures, cell by cell, each by ordinary commands."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffdx.cli import options
from diffdx.cli.console import EXIT_SOME_FAILED, NOTICE, Reporter
from diffdx.errors import ConfigError

if TYPE_CHECKING:
    from diffdx._interrupt import StopRequest
    from diffdx.paper.carry_out import Execute
    from diffdx.paper.cells import Cell, Step
    from diffdx.paper.plan import Plan

TABLE = "table1"
POLL_SECONDS = 0.5
_PROGRAMS = {"diffdx": "diffdx", "prepare": "diffdx.paper.prepare"}


def reproduce(
    what: Annotated[list[str], typer.Argument(help="table1, fig2 ... fig11, or all.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder with the sets; see the guide of the paper.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of cells, tables and figures.")] = Path(
        "out/reproduce"
    ),
    scale: Annotated[
        Literal["smoke", "full"] | None,
        typer.Option(help="In miniature, or as the paper; default: that of --out, else smoke."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Cells as METHOD/SET, or whole methods or sets.")
    ] = None,
    recipe: Annotated[
        Literal["paper", "release"],
        typer.Option(help="As the paper says, or as its code does: pretrained baselines."),
    ] = "paper",
    base: Annotated[
        str | None, typer.Option(help="Full scale: Stable Diffusion v2-base, folder or hub id.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of every training, not the scale's.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Of every classification, not the scale's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Test images, not the scale's.")] = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Reproduce the paper's Table 1 or figures. Research use only, not a medical device.

    What was made before in --out is kept: the command goes on where it was cut. Figures are drawn
    from the table's cells. Exit code 3 means that some cells failed; the others are done.
    """
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        from diffdx._interrupt import stop_requests
        from diffdx.paper.cells import choose_cells
        from diffdx.paper.figures import FIGURES
        from diffdx.paper.plan import Plan, stored_scale
        from diffdx.paper.scales import SCALES

        known = [TABLE, *FIGURES]
        asked = known if "all" in what else list(dict.fromkeys(what))
        if unknown := sorted(set(asked) - set(known)):
            raise ConfigError(f"cannot reproduce {', '.join(unknown)}; known: {', '.join(known)}")
        if TABLE in asked and root is None:
            raise ConfigError("table1 needs --root, the folder with the sets")
        plan = Plan(
            root=root or Path(),
            out=out,
            scale=SCALES[scale or stored_scale(out) or "smoke"],
            recipe=recipe,
            base=base,
            device=device,
            steps=steps,
            trials=trials,
            limit=limit,
        )
        cells = choose_cells(only)
        if dry_run:
            _describe(reporter, plan, cells)
            return
        with stop_requests() as stop:
            execute = _executing(stop)
            failed = _table(reporter, plan, cells, execute) if TABLE in asked else []
            drawn = [name for name in asked if name != TABLE]
            failed += _figures(reporter, plan, drawn, execute, is_alone=what == drawn)
        if failed:
            reporter.warn(f"{len(failed)} failed: {', '.join(failed)}")
            raise typer.Exit(EXIT_SOME_FAILED)


def _table(reporter: Reporter, plan: "Plan", cells: "list[Cell]", execute: "Execute") -> list[str]:
    """Make the cells, then write the table; return the names of the cells that failed."""
    from diffdx._files import write_text
    from diffdx.paper.carry_out import make_cells
    from diffdx.paper.table1 import TABLE_FILE, build_table
    from diffdx.report.paper_tables import table_html, table_markdown

    plan.begin()
    with reporter.working():
        failed = make_cells(plan, cells, execute, reporter.say)
        found = build_table(plan)
    text = table_markdown(found)
    write_text(plan.out / "table1.md", text)
    write_text(plan.out / "table1.html", table_html(found))
    reporter.result(f"{text}\n{plan.out / TABLE_FILE}", found)
    return failed


def _figures(
    reporter: Reporter, plan: "Plan", names: list[str], execute: "Execute", *, is_alone: bool
) -> list[str]:
    """Draw figures; return the names of those whose cells are not there, unless that is all asked.

    Raises:
        DataError: naming the command that makes the cells, if only figures were asked for.
    """
    from diffdx.errors import DiffdxError
    from diffdx.paper.figures import FIGURES, draw

    failed, files = [], []
    for name in names:
        try:
            with reporter.working():
                files += draw(FIGURES[name], plan, execute)
            reporter.say(f"{name}: {files[-1]}")
        except DiffdxError as error:
            if is_alone and len(names) == 1:
                raise
            failed.append(name)
            reporter.warn(f"{name}: {error}")
    if is_alone:
        paths = [str(path) for path in files]
        reporter.result("\n".join([*paths, NOTICE]), {"figures": paths, "notice": NOTICE})
    return failed


def _describe(reporter: Reporter, plan: "Plan", cells: "list[Cell]") -> None:
    """Print every command of the cells, and what is missing."""
    lines: list[str] = []
    values: dict[str, Any] = {}
    for cell in cells:
        reason = plan.missing(cell)
        commands = [str(step) for step in plan.steps_of(cell)]
        values[cell.name] = {"absent": reason, "commands": commands}
        lines += [f"{cell.name}{f': absent, {reason}' if reason else ''}"]
        lines += [f"    {command}" for command in commands]
    reporter.result("\n".join([*lines, NOTICE]), {"cells": values, "settings": plan.settings()})


def _executing(stop: "StopRequest") -> "Execute":
    """Return what does a step in a process of its own, so that none can take others with it.

    A signal is handed on; the process saves its work and ends, and so does this one.
    """

    def execute(step: "Step", log: Path) -> int:
        command = [sys.executable, "-m", _PROGRAMS[step.program], *step.command()]
        with log.open("a", encoding="utf-8") as words:
            # In a session of its own: a Ctrl-C would reach it twice, and twice means at once.
            child = subprocess.Popen(
                command,
                stdout=words,
                stderr=words,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            code = _wait(child, stop)
        stop.raise_if_made()
        return code

    return execute


def _wait(child: "subprocess.Popen[bytes]", stop: "StopRequest") -> int:
    told = False
    while True:
        try:
            return child.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if stop.signal_number is not None and not told:
                child.send_signal(stop.signal_number)
                told = True
