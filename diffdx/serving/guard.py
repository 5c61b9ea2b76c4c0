"""What stands before every route: who may ask, and what a browser may do with the answer.

Host      must be an address or a name of this server, so that no other site's name can be made
          to point here (DNS rebinding)
Origin    a page of another site may not send anything
token     as `Authorization: Bearer TOKEN`, or the cookie that `POST /api/login` gave for it
"""

import hmac
import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffdx.serving.monitoring import Monitor
from diffdx.serving.schemas import Problem
from diffdx.serving.settings import ServeSettings

COOKIE = "diffdx"
OPEN_PATHS = ("/health", "/login", "/api/login")
STATIC = "/static/"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Access:
    """Who may ask.

    Attributes:
        session: Value of the cookie that stands for the token; new with every start.
    """

    def __init__(self, settings: ServeSettings) -> None:
        """Take the token and the names of the server."""
        self._token = settings.token
        self._names = {"localhost", socket.gethostname().lower(), settings.host.lower()}
        self._names |= {name.lower() for name in settings.allow_hosts}
        self.session = secrets.token_urlsafe(32)

    def knows_host(self, host: str) -> bool:
        """Return whether a Host header names this server; an address cannot be rebound."""
        name = _without_port(host).lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def is_token(self, token: str) -> bool:
        """Return whether this is the token, in a time that does not tell how much of it is."""
        return self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def admits(self, headers: Headers) -> bool:
        """Return whether a request brings the token or its cookie, if one is needed."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(
            cookie.value.encode(), self.session.encode()
        )


class Guard:
    """Middleware that refuses what must not reach a route and adds headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access, monitor: Monitor) -> None:
        """Stand before an application."""
        self._app, self._access, self._monitor = app, access, monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._complete(scope, message)
            await send(message)

        refused = self._refusal(scope)
        await (refused or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if not self._access.knows_host(host):
            return refusal(
                400, "this server has another name; the administrator can --allow-host it"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return refusal(403, "pages of other sites cannot use this server")
        if path in OPEN_PATHS or path.startswith(STATIC) or self._access.admits(headers):
            return None
        if path == "/":
            return RedirectResponse("/login", 303)
        return refusal(401, "send the token as 'Authorization: Bearer TOKEN', or log in at /login")

    def _complete(self, scope: Scope, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
            headers[name] = value
        headers["cache-control"] = "no-cache" if scope["path"].startswith(STATIC) else "no-store"
        route = getattr(scope.get("route"), "path", "other")
        self._monitor.answered(route, message["status"])


def refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an answer that says why a request was not carried out."""
    more = {"www-authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(Problem(detail=detail).model_dump(), status, {**(headers or {}), **more})


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
