"""The server's parts together, and the way of an upload through them."""

import asyncio
from dataclasses import dataclass, field

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from diffdx.data.dicom import HEAD_BYTES
from diffdx.errors import DiffdxError
from diffdx.serving.child import Child
from diffdx.serving.decoding import Decoder, Upload, looks_like_image
from diffdx.serving.engine import Engine
from diffdx.serving.guard import Access
from diffdx.serving.jobs import BusyError, Job, Jobs
from diffdx.serving.monitoring import Monitor
from diffdx.serving.settings import ServeSettings
from diffdx.serving.tasks import Task
from diffdx.transforms.pixels import PixelSpec

MEDIA = ("image/", "application/dicom", "application/octet-stream")
"""How the content types of an upload begin; what it is, its content says."""
UPLOADS_AT_ONCE = 4
"""Uploads that are in memory at the same time; others wait before they are read."""
CLOSE = {"connection": "close"}
"""Of answers to an upload that is not read to its end."""


@dataclass
class Service:
    """What all routes share.

    Attributes:
        settings: How the server runs.
        child: The model's process.
    """

    settings: ServeSettings
    child: Child
    monitor: Monitor = field(default_factory=Monitor)

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.settings)
        self.access = Access(self.settings)
        self.engine = Engine(self.child, self.jobs, self.monitor, self.settings.seconds)
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    def start(self) -> None:
        """Load the model.

        Raises:
            ConfigError: if it cannot be used as asked.
            CheckpointError: if there is no usable model.
        """
        self.engine.start()
        facts = self.engine.facts
        self.decoder = Decoder(PixelSpec(facts["image_size"], facts["channels"], facts["resize"]))

    def stop(self) -> None:
        """End all processes."""
        self.engine.stop()
        self.decoder.close()

    def submit(self, client: str, task: Task, of: Job | None = None) -> Job:
        """Return a new job for a task that is complete.

        Raises:
            HTTPException: 429 or 503 if there is no room.
        """
        self.reserve(client)
        self.jobs.release(client)
        return self.jobs.add(client, task, of)

    def reserve(self, client: str) -> None:
        """Take a place in the queue for a job whose image is still to come.

        Raises:
            HTTPException: 429 or 503 if there is none.
        """
        if self.engine.down:
            raise HTTPException(503, self.engine.down, CLOSE)
        try:
            self.jobs.reserve(client)
        except BusyError as error:
            raise HTTPException(error.status, str(error), {"retry-after": "5", **CLOSE}) from None

    async def receive(self, request: Request, frame: int | None) -> Upload:
        """Return the image that a request brings; nothing of it is written to a disk.

        Raises:
            HTTPException: 400, 408, 413, 415 or 422 if it cannot be used.
        """
        media = request.headers.get("content-type", "")
        if not media.startswith(MEDIA):
            raise HTTPException(
                415, f"send the file itself, with a content type of {', '.join(MEDIA)}", CLOSE
            )
        try:
            async with asyncio.timeout(self.settings.upload_seconds), self._uploads:
                data = await self._read(request)
                return await self.decoder.decode(data, frame)
        except TimeoutError:
            limit = self.settings.upload_seconds
            raise HTTPException(408, f"the upload took over {limit:g} s", CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload was broken off") from None
        except DiffdxError as error:
            raise HTTPException(422, str(error)) from None

    async def _read(self, request: Request) -> bytes:
        limit = self.settings.upload_bytes
        too_large = HTTPException(413, f"the upload is larger than {limit >> 20} MiB", CLOSE)
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        data, checked = bytearray(), False
        async for chunk in request.stream():
            if len(data) + len(chunk) > limit:
                raise too_large
            data += chunk
            if not checked and len(data) >= HEAD_BYTES:
                _require_image(data)
                checked = True
        _require_image(data)
        return bytes(data)


def _require_image(data: bytearray) -> None:
    if not looks_like_image(bytes(data[:HEAD_BYTES])):
        raise HTTPException(
            415, "not an image: send a PNG, JPEG, TIFF, BMP or DICOM file, no archive", CLOSE
        )
