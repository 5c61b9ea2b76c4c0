"""What the server and the model's process say to each other. No torch: the server has none."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffdx.serving.decoding import Stored

Json = dict[str, Any]


@dataclass(frozen=True)
class ModelSettings:
    """Which model answers, and how.

    Attributes:
        run: Run or checkpoint folder.
        classify: Fields of `ClassifySettings`.
        prevalence: Where the model is used, as `--prevalence` takes it; None: as calibrated.
    """

    run: Path
    classify: Json
    prevalence: str | None = None


@dataclass(frozen=True)
class ClassifyTask:
    """An image to classify.

    Attributes:
        stored: In the model's size, uint8 or uint16.
        caution: Why an answer should not be relied on, as far as its file says.
    """

    stored: Stored
    caution: str | None = None


@dataclass(frozen=True)
class ExplainTask:
    """An image that was classified, to turn into another class.

    Attributes:
        case: What its classification left, see `Outcome`.
        target: Class name.
        logsnr_start: Noise level to start from, in nats; None takes the model's.
        guidance_scale: 1 = none; None takes the model's.
    """

    case: bytes
    target: str
    logsnr_start: float | None = None
    guidance_scale: float | None = None


Task = ClassifyTask | ExplainTask


@dataclass(frozen=True)
class Cancel:
    """Leave the task that is under way."""


@dataclass(frozen=True)
class Ready:
    """The model is loaded; `facts` is what `GET /api/model` says of it."""

    facts: Json


@dataclass(frozen=True)
class Refused:
    """The model cannot be used as asked."""

    message: str
    exit_code: int


@dataclass(frozen=True)
class Progress:
    """How far a task is."""

    said: Json


@dataclass(frozen=True)
class Outcome:
    """A task done.

    Attributes:
        result: What is said of the image.
        pictures: PNG files by name.
        case: What an `ExplainTask` needs of a classification; the server keeps it unread.
    """

    result: Json
    pictures: dict[str, bytes] = field(default_factory=dict)
    case: bytes = b""


@dataclass(frozen=True)
class Failed:
    """A task that came to nothing.

    Attributes:
        status: What an HTTP answer would have as status.
        message: Why, and what to do.
    """

    status: int
    message: str


@dataclass(frozen=True)
class Cancelled:
    """A task that was left on request."""
