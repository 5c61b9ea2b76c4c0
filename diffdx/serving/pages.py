"""What a browser shows: the page, and where a token is asked for."""

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from diffdx._notice import NOTICE
from diffdx.serving.api import Shared
from diffdx.serving.guard import COOKIE
from diffdx.serving.schemas import LoginRequest, Reply, problems

HERE = Path(__file__).parent
STATIC = HERE / "static"

router = APIRouter()
_templates = Jinja2Templates(HERE / "templates")


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page(request: Request, service: Shared) -> HTMLResponse:
    """Return the page; what is on it comes from the REST interface."""
    facts = service.engine.facts
    return _templates.TemplateResponse(request, "page.html", {"notice": NOTICE, "model": facts})


@router.get("/login", response_class=HTMLResponse, include_in_schema=False)
async def login_page(request: Request) -> HTMLResponse:
    """Return the form for the token."""
    return _templates.TemplateResponse(request, "login.html", {"notice": NOTICE})


@router.post("/api/login", responses=problems(403, 422))
async def login(given: LoginRequest, service: Shared, response: Response) -> Reply:
    """Take the token and give a cookie for it, which a browser sends by itself."""
    if not service.access.is_token(given.token):
        raise HTTPException(401, "this is not the server's token")
    response.set_cookie(COOKIE, service.access.session, httponly=True, samesite="strict")
    return Reply()
