"""Ctrl-C and SIGTERM as a request: the work in hand is finished and saved, then the run ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818  an ending, not an error
    """Raised after everything is saved; `exit_code` is 130 for SIGINT and 143 for SIGTERM."""

    def __init__(self, signal_number: int) -> None:
        """Keep which signal asked for the end."""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Whether a signal has asked for the end."""

    def __init__(self) -> None:
        """Start without a request."""
        self.signal_number: int | None = None

    def raise_if_made(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a `StopRequest` while the block runs; a second one is final."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can listen to signals.
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {int(number): signal.getsignal(number) for number in numbers}

    def handle(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        signal.signal(number, before[number])

    try:
        for number in numbers:
            signal.signal(number, handle)
        yield request
    finally:
        for number in numbers:
            signal.signal(number, before[number])
