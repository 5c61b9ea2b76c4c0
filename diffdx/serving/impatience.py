"""An end to connections whose client does not get on with its request line and headers.

uvicorn waits for them as long as the client likes. Bodies have a time limit of their own.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 15.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection without a complete request for too long."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Take in what has come; a request that is complete up to its body ends the waiting."""
        super().handle_events()
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._deadline is None:
            self._wait()
        elif not idle and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)
