"""What the REST interface takes and gives; OpenAPI is made of it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from diffdx._notice import NOTICE

Shares = dict[str, float]
"""A number by class name."""


class Reply(BaseModel):
    """What every answer says."""

    notice: str = NOTICE


class Problem(Reply):
    """Why a request was not carried out."""

    detail: str


class Health(Reply):
    """Whether the model can be asked."""

    status: Literal["ok", "down"]
    detail: str = ""
    unfinished_jobs: int
    version: str


class EditFacts(BaseModel):
    """What a counterfactual may be asked with."""

    logsnr_start: float
    guidance_scale: float
    lowest: float
    highest: float
    max_guidance: float


class ModelFacts(Reply):
    """The model that answers."""

    name: str
    classes: list[str]
    positive: str | None
    model_sha256: str
    image_size: int
    channels: int
    resize: str
    rule: str
    space: str
    stop: str
    seed: int
    trials: int
    boundary: list[int] | None = Field(
        description="Lead in votes that stops an image after trial 1, 2, ...; null without such."
    )
    calibrated: bool
    alpha: float | None = Field(description="Share of sets that may miss the truth.")
    warnings: list[str]
    edit: EditFacts
    device: str
    precision: str
    version: str
    upload_bytes: int


class NoiseLevel(BaseModel):
    """The votes of the trials at one level of noise."""

    logsnr: float
    trials: int
    vote_share: Shares
    entropy_bits: float


class Classification(BaseModel):
    """What the model says of an image; names as in the prediction table."""

    model_config = ConfigDict(protected_namespaces=())

    prediction: str
    prob: Shares | None
    set: str | None
    triage: str | None
    ood: bool | None
    ood_p_value: float | None
    votes: Shares
    vote_share: Shares
    share_low: float | None
    share_high: float | None
    entropy_bits: float
    mean_error: Shares
    trials_used: int
    stopped_by: str
    by_noise_level: list[NoiseLevel]
    evidence_margin: float
    vote_agrees: bool
    caution: str | None
    warnings: list[str]
    nfe: int
    seconds: float
    model_sha256: str


class Explanation(BaseModel):
    """What the image would look like as another class."""

    model_config = ConfigDict(protected_namespaces=())

    source: str
    target: str
    prediction_cf: str
    vote_share_cf: Shares
    evidence_margin: float
    vote_agrees: bool
    mean_change: float
    mean_null_edit: float
    logsnr_start: float
    guidance_scale: float
    method: str
    nfe: int
    seconds: float
    model_sha256: str


class ExplainRequest(BaseModel):
    """Which image to turn into which class, and how."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    job: str = Field(description="Number of a finished classification.", max_length=64)
    target: str = Field(description="Class name.", max_length=200)
    logsnr_start: float | None = Field(
        None, description="Noise level to start from, in nats; lower changes more."
    )
    guidance_scale: float | None = Field(None, gt=0, le=20, description="1 = none.")


class LoginRequest(BaseModel):
    """The token, in exchange for a cookie that says as much."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=1000)


class Failure(BaseModel):
    """Why a job came to nothing."""

    status: int = Field(description="What an HTTP answer would have as status.")
    message: str


class JobReply(Reply):
    """A job: how far it is, and what came of it."""

    id: str
    kind: Literal["classify", "explain"]
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    position: int = Field(description="Place in the queue from 1; 0 once it runs.")
    result: Classification | Explanation | None = None
    error: Failure | None = None
    pictures: dict[str, str] = Field(default_factory=dict, description="Addresses by name.")
    archive: str | None = Field(None, description="Address of the case as a zip.")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the statuses that a route may answer with instead, for OpenAPI."""
    texts = {
        400: "Not addressed to this server.",
        401: "No token, or a wrong one.",
        403: "Sent by another site's page.",
        404: "No such job, or no more.",
        408: "The upload took too long.",
        409: "The job is no finished classification.",
        413: "The upload is too large.",
        415: "Not an image of a known format.",
        422: "The image or a parameter cannot be used.",
        429: "You have too many jobs; see Retry-After.",
        503: "The server has too many jobs, or no model; see Retry-After.",
    }
    chosen = {400, 401, *statuses}
    return {status: {"model": Problem, "description": texts[status]} for status in sorted(chosen)}
