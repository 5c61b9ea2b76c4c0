"""DICOM files: recognised by content, read by a child process that may crash, hang or swell alone.

The child (`data.dicom_worker`) lives on from file to file. It has a limit of memory and, for each
file, of time; when it dies of a file, that file fails and the next one gets a new child. Threads
that read at the same time have one child each. Needs the extra `dicom`.
"""

import atexit
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from diffdx._typing import Pixels
from diffdx.errors import ConfigError, DataError

MEMORY_BYTES = 4 << 30
"""Address space of the child; 100 million pixels take three quarters of it."""
SECONDS = 30.0
START_SECONDS = 60.0
_WORKER = Path(__file__).with_name("dicom_worker.py")
HEAD_BYTES = 132
"""The preamble and the four letters behind it."""


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins so is DICOM."""
    return head[HEAD_BYTES - 4 : HEAD_BYTES] == b"DICM"


def read_head(path: str | Path) -> bytes:
    """Return a file's first `HEAD_BYTES` bytes; none of what is no regular file or cannot be read.

    Without O_NONBLOCK the open itself would wait for a pipe's writer.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):
        return b""
    try:
        return (
            os.read(descriptor, HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        )
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def has_program(head: bytes) -> bool:
    """Return whether the preamble begins as a program does (CVE-2019-11687)."""
    return head.startswith((b"MZ", b"\x7fELF"))


def lacks_preamble(head: bytes) -> bool:
    """Return whether a file begins as DICOM data do, without the preamble that makes it a file."""
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return head[:4] in (b"\2\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0", b"\x08\0\x16\0") and explicit


def require_dicom(*libraries: str) -> None:
    """Check that the libraries of the extra `dicom` are there.

    Raises:
        ConfigError: naming the extra.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigError(f"DICOM needs {', '.join(missing)}; pip install 'diffdx[dicom]'")


def describe_dicom(path: str | Path, *, identifiers: bool = False) -> dict[str, Any]:
    """Return what a DICOM file says of itself; see `dicom_worker.describe`.

    Args:
        path: The file.
        identifiers: Give the patient's ID in place of its hash.

    Raises:
        DataError: if the header is damaged or takes too long to read.
        ConfigError: if pydicom is not installed.
    """
    reply, _ = _ask(path, {"task": "describe", "identifiers": identifiers})
    return reply


def read_dicom(path: str | Path, *, max_pixels: int, frame: int | None = None) -> Pixels:
    """Return the pixels of a DICOM file, by the rules at the head of `dicom_worker`.

    Raises:
        DataError: if the file is no image, damaged, too large for the limits of memory and time, or
            declares what leaves its pixels undefined.
        ConfigError: if pydicom is not installed.
    """
    reply, raw = _ask(path, {"task": "decode", "frame": frame, "max_pixels": max_pixels})
    # The child has parsed a stranger's file: what it sends is checked, not trusted.
    dtype = {"uint8": np.uint8, "uint16": np.uint16}[reply["dtype"]]
    return np.frombuffer(raw, dtype=dtype).reshape(reply["shape"]).copy()


class _Child:
    """A running worker and the line to it."""

    def __init__(self) -> None:
        self._line, theirs = Pipe()
        number = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(number), str(MEMORY_BYTES)],
            pass_fds=(number,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the parent to act on
        )
        theirs.close()
        self._receive(START_SECONDS)

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return the reply and its pixels.

        Raises:
            TimeoutError: if it takes too long.
            EOFError: if the child dies of it.
        """
        self._line.send_bytes(json.dumps(request).encode())
        reply = json.loads(self._receive(SECONDS))
        return reply, self._receive(SECONDS) if "shape" in reply else b""

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._line.close()

    def _receive(self, seconds: float) -> bytes:
        if not self._line.poll(seconds):
            raise TimeoutError
        return self._line.recv_bytes()


_lock = threading.Lock()
_idle: dict[int, list[_Child]] = {}
"""Children without work, by the process that started them: a fork must not share their lines."""


@contextmanager
def _borrowed() -> Iterator[_Child]:
    with _lock:
        mine = _idle.setdefault(os.getpid(), [])
        child = mine.pop() if mine else None
    child = child or _Child()
    try:
        yield child
    except BaseException:
        child.close()
        raise
    with _lock:
        mine.append(child)


@atexit.register
def close_children() -> None:
    """End the children that wait for work."""
    for child in _idle.pop(os.getpid(), []):
        child.close()


def _ask(path: str | Path, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if find_spec("pydicom") is None:
        raise ConfigError(
            f"{str(path)!r} is DICOM, which needs pydicom; pip install 'diffdx[dicom]'"
        )
    request["path"] = os.fsencode(path).hex()
    try:
        with _borrowed() as child:
            reply, raw = child.ask(request)
            if "error" in reply and reply.get("fatal"):
                raise EOFError
    except TimeoutError:
        raise DataError(
            f"{str(path)!r}: reading took over {SECONDS:g} s and was stopped; replace the file"
        ) from None
    except (EOFError, OSError, ValueError):
        raise DataError(
            f"{str(path)!r}: the DICOM reader died of this file, or it needs over "
            f"{MEMORY_BYTES >> 30} GiB; replace the file"
        ) from None
    if "error" in reply:
        raise DataError(f"{str(path)!r}: {reply['error']}")
    return reply, raw
