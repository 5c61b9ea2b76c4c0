"""The REST interface. Errors are JSON with `detail`; every answer carries the notice."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from diffdx.serving.archive import case_archive
from diffdx.serving.jobs import Job
from diffdx.serving.schemas import (
    ExplainRequest,
    Failure,
    Health,
    JobReply,
    ModelFacts,
    problems,
)
from diffdx.serving.service import Service
from diffdx.serving.tasks import ClassifyTask, ExplainTask

router = APIRouter()

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MEDIA = ("application/octet-stream", "application/dicom", "image/png", "image/jpeg")
_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "The file itself: PNG, JPEG, TIFF, BMP or DICOM.",
        "content": dict.fromkeys(
            ("application/octet-stream", "application/dicom", "image/png", "image/jpeg"), _BINARY
        ),
    }
}


def get_service(request: Request) -> Service:
    """Return the parts of the server that a request came to."""
    service: Service = request.app.state.service
    return service


def get_client(request: Request) -> str:
    """Return whose queue places a request counts for: its address."""
    return request.client.host if request.client else ""


def get_job(number: str, service: Annotated[Service, Depends(get_service)]) -> Job:
    """Return the job of this number.

    Raises:
        HTTPException: 404 if there is none.
    """
    job = service.jobs.find(number)
    if job is None:
        raise HTTPException(404, "no such job; results are kept for a limited time")
    return job


Shared = Annotated[Service, Depends(get_service)]
Client = Annotated[str, Depends(get_client)]
Known = Annotated[Job, Depends(get_job)]


@router.get("/health", responses={503: {"model": Health}})
async def health(service: Shared, response: Response) -> Health:
    """Say whether the model can be asked; needs no token."""
    engine = service.engine
    response.status_code = 503 if engine.down else 200
    return Health(
        status="down" if engine.down else "ok",
        detail=engine.down,
        unfinished_jobs=service.jobs.unfinished,
        version=engine.facts["version"],
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses=problems() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: Shared) -> Response:
    """Return counts in Prometheus' text format."""
    text = service.monitor.text(service.jobs.unfinished)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/api/model", responses=problems())
async def model(service: Shared) -> ModelFacts:
    """Describe the model that answers."""
    return ModelFacts(**service.engine.facts, upload_bytes=service.settings.upload_bytes)


@router.post(
    "/api/classify",
    status_code=202,
    responses=problems(403, 408, 413, 415, 422, 429, 503),
    openapi_extra=_UPLOAD,
)
async def classify(
    request: Request,
    service: Shared,
    client: Client,
    frame: Annotated[int | None, Query(ge=0, le=100_000, description="Of several.")] = None,
) -> JobReply:
    """Take an image, sent as the body, and put its classification into the queue."""
    service.reserve(client)
    try:
        upload = await service.receive(request, frame)
    finally:
        service.jobs.release(client)
    job = service.jobs.add(client, ClassifyTask(upload.stored, upload.caution))
    return _reply(service, job)


@router.post("/api/explain", status_code=202, responses=problems(403, 404, 409, 422, 429, 503))
async def explain(asked: ExplainRequest, service: Shared, client: Client) -> JobReply:
    """Turn an image that was classified into another class, in the queue's turn."""
    of = get_job(asked.job, service)
    if of.kind != "classify" or of.outcome is None:
        raise HTTPException(409, "the job is no finished classification")
    facts = service.engine.facts
    if asked.target not in facts["classes"]:
        raise HTTPException(422, f"target: the model knows {', '.join(facts['classes'])}")
    lowest, highest = facts["edit"]["lowest"], facts["edit"]["highest"]
    if asked.logsnr_start is not None and not lowest <= asked.logsnr_start < highest:
        raise HTTPException(422, f"logsnr_start: use at least {lowest:g}, below {highest:g} nats")
    task = ExplainTask(of.outcome.case, asked.target, asked.logsnr_start, asked.guidance_scale)
    return _reply(service, service.submit(client, task, of))


@router.get("/api/jobs/{number}", responses=problems(404))
async def job_state(job: Known, service: Shared) -> JobReply:
    """Say how far a job is, and what came of it."""
    return _reply(service, job)


@router.delete("/api/jobs/{number}", status_code=204, responses=problems(403, 404))
async def forget(job: Known, service: Shared) -> None:
    """Cancel a job if it is unfinished, and forget it and its explanations."""
    service.jobs.forget(job)


@router.get(
    "/api/jobs/{number}/events",
    response_class=StreamingResponse,
    responses=problems(404)
    | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(job: Known, service: Shared) -> StreamingResponse:
    """Send what happens to a job as it happens (server-sent events), to its end.

    Once no one listens any more, an unfinished job is cancelled.
    """

    async def lines() -> AsyncIterator[str]:
        async for event in service.jobs.listen(job):
            yield ": waiting\n\n" if event is None else f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@router.get(
    "/api/jobs/{number}/pictures/{name}.png",
    response_class=Response,
    responses=problems(404) | {200: {"content": {"image/png": _BINARY}}},
)
async def picture(job: Known, name: str) -> Response:
    """Return one of the pictures that the job's reply lists."""
    pictures = job.outcome.pictures if job.outcome else {}
    if name not in pictures:
        raise HTTPException(404, f"no such picture; there are {', '.join(pictures) or 'none'}")
    return Response(pictures[name], media_type="image/png")


@router.get(
    "/api/jobs/{number}/case.zip",
    response_class=Response,
    responses=problems(404, 409) | {200: {"content": {"application/zip": _BINARY}}},
)
async def archive(job: Known, service: Shared) -> Response:
    """Return the case as a zip of JSON and pictures, without identifiers."""
    if job.outcome is None:
        raise HTTPException(409, "the job has no result (yet)")
    return Response(
        case_archive(job, service.engine.facts),
        media_type="application/zip",
        headers={"content-disposition": 'attachment; filename="diffdx-case.zip"'},
    )


def _reply(service: Service, job: Job) -> JobReply:
    made = job.outcome
    root = f"/api/jobs/{job.id}"
    return JobReply.model_validate(
        {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "position": service.jobs.position(job),
            "result": made and made.result,
            "error": job.failure and Failure(**vars(job.failure)),
            "pictures": {name: f"{root}/pictures/{name}.png" for name in made.pictures}
            if made
            else {},
            "archive": f"{root}/case.zip" if made else None,
        }
    )
