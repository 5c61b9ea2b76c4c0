"""What a verb says and how it ends: messages and progress on standard error, results on output.

With `--json`, standard output carries one JSON object and nothing else.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from diffdx._interrupt import Interrupted
from diffdx._notice import NOTICE as NOTICE
from diffdx.errors import DataError, DiffdxError

EXIT_SOME_FAILED = 3

PLAIN_SECONDS = 10.0
"""Seconds between two plain progress lines where there is no terminal."""


@dataclass
class Reporter:
    """How one verb speaks.

    Attributes:
        quiet: Only warnings and errors.
        verbose: Log lines of level INFO too.
        no_progress: Plain lines instead of a bar.
        as_json: Standard output is one JSON object.
    """

    quiet: bool = False
    verbose: bool = False
    no_progress: bool = False
    as_json: bool = False
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def __post_init__(self) -> None:
        """Send log records of level WARNING (INFO with `verbose`) to standard error."""
        handler = RichHandler(console=self.err, show_time=False, show_path=False)
        level = logging.INFO if self.verbose else logging.WARNING
        logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)

    def say(self, text: str) -> None:
        """Tell what is being done."""
        if not self.quiet:
            self.err.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Tell what a reader of the result must know."""
        self.err.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def result(self, text: str, values: dict[str, Any]) -> None:
        """Print the outcome: the text, or the values as one JSON object."""
        if self.as_json:
            sys.stdout.write(json.dumps(values) + "\n")
        else:
            sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Turn deliberate errors into a message and the documented exit code."""
        try:
            yield
        except DiffdxError as error:
            self.err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            # A full disk, a folder without permission: the file and the reason say it all.
            self.err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except Interrupted as stop:
            self.err.print(f"{stop}; everything is saved", markup=False)
            raise typer.Exit(stop.exit_code) from None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Give errors in the data exit code 1: inside, they no longer come before any work."""
        try:
            yield
        except DataError as error:
            error.exit_code = 1
            raise

    @contextmanager
    def progress(self, title: str) -> Iterator["ProgressLine"]:
        """Show progress and time left: a bar on a terminal, lines every ten seconds elsewhere."""
        if self.quiet:
            yield ProgressLine(title, None, None, None)
        elif self.no_progress or not self.err.is_terminal:
            yield ProgressLine(title, None, None, self.err)
        else:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.err, transient=True) as bar:
                yield ProgressLine(title, bar, bar.add_task(title, total=1.0, note=""), None)


class ProgressLine:
    """Progress of one task after another, each as a fraction of 1."""

    def __init__(self, title: str, bar: Progress | None, task: Any, plain: Console | None) -> None:
        """Show on a rich bar, as plain lines on a console, or not at all."""
        self._bar, self._task, self._plain = bar, task, plain
        self.begin(title)

    def begin(self, title: str) -> None:
        """Start the next task from zero."""
        self._title = title
        self._started = self._told = time.monotonic()
        self._first: float | None = None
        if self._bar is not None:
            self._bar.reset(self._task, description=title, note="")

    def count(self, done: int, total: int) -> None:
        """Show that so many of all are done."""
        self.update(done / max(total, 1), f"{done} of {total}")

    def update(self, fraction: float, note: str = "") -> None:
        """Show that this fraction is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, note=note)
        if self._plain is None:
            return
        now = time.monotonic()
        if self._first is None:
            # A resumed task starts above zero; its time left counts only what was done since.
            self._first = fraction
        if now - self._told >= PLAIN_SECONDS:
            self._told = now
            done = fraction - self._first
            text = f"{self._title}: {fraction:.0%} {note}"
            if done > 0:
                minutes = (now - self._started) * (1 - fraction) / done / 60
                text += f", {minutes:.1f} min left"
            self._plain.print(text, markup=False, soft_wrap=True)
