"""A process that may die without taking the server along: killed, out of memory, out of time."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

Main = Callable[..., None]
"""Takes the line to the parent and further arguments; a module's own function."""

_STOP_SECONDS = 5.0


class Child:
    """A child process and the line to it; started when it is first needed, and anew once it died.

    Not for several threads at once.
    """

    def __init__(self, main: Main, *arguments: Any) -> None:
        """Keep what the process is to run.

        Args:
            main: Its function.
            *arguments: What it gets beside the line.
        """
        self._main, self._arguments = main, arguments
        self._process: BaseProcess | None = None
        self._line: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Number of the process; None if there is none."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Start the process, in place of one that is still there."""
        self.stop()
        # A fork would share the parent's threads' locks and its open sockets.
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(self._main, theirs, self._arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def line(self) -> Connection:
        """The line to the process.

        Raises:
            EOFError: if the process was not started.
        """
        if self._line is None:
            raise EOFError("no process")
        return self._line

    def send(self, message: object) -> None:
        """Send the process a message.

        Raises:
            EOFError: if the process has died.
        """
        try:
            self.line.send(message)
        except OSError:
            raise EOFError("the process has died") from None

    def receive(self, seconds: float) -> Any:
        """Return the next message, None if there is none for so many seconds.

        Raises:
            EOFError: if the process has died.
        """
        try:
            return self.line.recv() if self.line.poll(seconds) else None
        except OSError:
            raise EOFError("the process has died") from None

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join(_STOP_SECONDS)
        if self._line is not None:
            self._line.close()
        self._process = self._line = None


def _run(main: Main, line: Connection, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C is for the parent to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main(line, *arguments)
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
