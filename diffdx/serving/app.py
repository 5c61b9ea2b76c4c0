"""The application, and the server that runs it.

    request -> guard -> route -> upload read into memory -> decoder process -> queue
            -> model process -> result in memory, for a while -> page, JSON, pictures, zip

Research use only, not a medical device.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from diffdx._notice import NOTICE
from diffdx.serving import api, pages
from diffdx.serving.child import Child
from diffdx.serving.guard import Guard, refusal
from diffdx.serving.impatience import ImpatientProtocol
from diffdx.serving.model_process import run_model
from diffdx.serving.service import Service
from diffdx.serving.settings import ServeSettings
from diffdx.serving.tasks import ModelSettings

CONNECTIONS = 256
"""Open at the same time; a further one is answered with 503."""
_SHUTDOWN_SECONDS = 3


def build_app(service: Service) -> FastAPI:
    """Return the application; its engine works while it runs.

    Args:
        service: Started.
    """

    @contextlib.asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(service.engine.work())
        try:
            yield
        finally:
            work.cancel()
            service.stop()

    app = FastAPI(
        title="diffdx",
        version=version("diffdx"),
        summary=f"A diffusion model as a classifier. {NOTICE}",
        lifespan=working,
        # Both pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=pages.STATIC), "static")
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Guard, access=service.access, monitor=service.monitor)
    return app


def serve(model: ModelSettings, settings: ServeSettings, started: Callable[[str], None]) -> None:
    """Load the model and serve it until a signal comes.

    Args:
        model: Which model, and how it answers.
        settings: Where, to whom and how much.
        started: Told the address of the page.

    Raises:
        OSError: if the address cannot be listened on.
        ConfigError: if the model cannot be used as asked.
        CheckpointError: if there is no usable model.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.create_server((settings.host, settings.port), family=family) as listening:
        service = Service(settings, Child(run_model, model))
        service.start()
        config = uvicorn.Config(
            build_app(service),
            http=ImpatientProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            # A client could name any address as its own.
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        host, port = listening.getsockname()[:2]
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        try:
            uvicorn.Server(config).run([listening])
        finally:
            service.stop()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        # Starlette names the methods of the first route of this path, and there may be two.
        headers["allow"] = _methods(request.url.path)
    return refusal(error.status_code, str(error.detail), headers)


def _methods(path: str) -> str:
    """Return the methods that a path knows."""
    routes = [
        one for one in (*api.router.routes, *pages.router.routes) if isinstance(one, APIRoute)
    ]
    fitting = [one for one in routes if one.path_regex.match(path)]
    return ", ".join(sorted({method for one in fitting for method in one.methods or ()}))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # What was sent is not repeated.
    texts = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
    return refusal(422, "; ".join(texts))


async def _broken(request: Request, error: Exception) -> JSONResponse:
    return refusal(500, f"{type(error).__name__} in the server; see its log")
