"""Uploaded bytes -> pixels in the model's size, in a process of its own with a limit of memory.

The project's own readers do it, from a file that exists in memory alone. What the process says is
checked, not trusted: it has parsed a stranger's file. No text of the file's enters a message.
"""

import asyncio
import json
import os
import resource
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from jaxtyping import Shaped

from diffdx.data.dataset import Record
from diffdx.data.dicom import is_dicom, lacks_preamble
from diffdx.data.dicom_records import add_dicom_facts
from diffdx.data.images import read_image
from diffdx.errors import ConfigError, DataError, DiffdxError
from diffdx.serving.child import Child
from diffdx.transforms.pixels import PixelSpec

MEMORY_BYTES = 4 << 30
"""Address space of the process; 50 million pixels in colour take two thirds of it."""
MAX_PIXELS = 50_000_000
SECONDS = 40.0
"""Longest time for one upload; longer than that of the DICOM reader, which has its own."""
HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")
"""How PNG, JPEG, TIFF and BMP begin."""

Stored = Shaped[np.ndarray, "C S S"]


@dataclass(frozen=True)
class Upload:
    """An image as the model takes it.

    Attributes:
        stored: uint8 or uint16.
        caution: Why an answer should not be relied on, as far as the file says; DICOM alone does.
    """

    stored: Stored
    caution: str | None


def looks_like_image(head: bytes) -> bool:
    """Return whether data that begin so may be an image of a known format."""
    return head.startswith(HEADS) or is_dicom(head) or lacks_preamble(head)


class Decoder:
    """Decodes uploads, one at a time."""

    def __init__(self, spec: PixelSpec) -> None:
        """Take what pixels the model wants."""
        self._spec, self._lock = spec, asyncio.Lock()
        self._child = Child(decode_uploads, spec)

    async def decode(self, data: bytes, frame: int | None = None) -> Upload:
        """Return the image that was uploaded.

        Args:
            data: Content of a file.
            frame: Which of several, from 0.

        Raises:
            DataError: if it cannot be used as an image.
            ConfigError: if reading it needs what is not installed.
        """
        async with self._lock:
            return await asyncio.to_thread(self._ask, data, frame)

    def _ask(self, data: bytes, frame: int | None) -> Upload:
        if not self._child.alive:
            self._child.start()
        line = self._child.line
        try:
            line.send_bytes(json.dumps({"frame": frame}).encode())
            line.send_bytes(data)
            if not line.poll(SECONDS):
                raise TimeoutError
            reply = json.loads(line.recv_bytes())
            if "error" in reply:
                kind = ConfigError if reply["fault"] == "config" else DataError
                raise kind(str(reply["error"]))
            return Upload(self._checked(reply, line.recv_bytes()), reply["caution"])
        except TimeoutError:
            self._child.stop()
            raise DataError(
                f"reading the file took over {SECONDS:g} s and was stopped; give another file"
            ) from None
        except (EOFError, OSError, ValueError, KeyError):
            self._child.stop()
            raise DataError(
                f"the reader died of this file, or it needs over {MEMORY_BYTES >> 30} GiB; "
                "give another file"
            ) from None

    def _checked(self, reply: dict[str, Any], raw: bytes) -> Stored:
        dtype = {"uint8": np.uint8, "uint16": np.uint16}[reply["dtype"]]
        side = self._spec.size_px
        stored: Stored = np.frombuffer(raw, dtype).reshape(self._spec.channels, side, side).copy()
        return stored

    def close(self) -> None:
        """End the process."""
        self._child.stop()


def decode_uploads(line: Connection, spec: PixelSpec) -> None:
    """Answer requests until the parent is gone: what the process runs."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while True:
        frame = json.loads(line.recv_bytes())["frame"]
        reply, pixels = _answer(line.recv_bytes(), frame, spec)
        line.send_bytes(json.dumps(reply).encode())
        if pixels is not None:
            line.send_bytes(pixels)


def _answer(data: bytes, frame: int | None, spec: PixelSpec) -> tuple[dict[str, Any], bytes | None]:
    descriptor = os.memfd_create("upload")
    # The DICOM reader is a process of its own: it finds the file by ours.
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        records, _ = add_dicom_facts([Record("upload", path)])
        stored = spec.store(read_image(path, max_pixels=MAX_PIXELS, frame=frame))
        return {"dtype": stored.dtype.name, "caution": records[0].caution}, stored.tobytes()
    except DiffdxError as error:
        fault = "config" if isinstance(error, ConfigError) else "data"
        return {"error": str(error).replace(repr(path), "the file"), "fault": fault}, None
    except MemoryError:
        text = "the file needs more memory than allowed; scale the image down"
        return {"error": text, "fault": "data"}, None
    finally:
        os.close(descriptor)
