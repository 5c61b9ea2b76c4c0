"""Where the DICOM node sends results: an archive's C-STORE, or its DICOMweb store (STOW-RS)."""

import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import httpx
import pydicom
from pydicom.uid import EnhancedSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE
from pynetdicom.association import Association

from diffdx.errors import ConfigError

TOKEN = "DIFFDX_DICOMWEB_TOKEN"
"""Environment variable with the bearer token of a DICOMweb server that wants one."""
SECONDS = 30.0
_ADDRESS = re.compile(r"([^@\\]{1,16})@(\[[^]]+]|[^:]+):(\d{1,5})")


class UnreachableError(Exception):
    """The archive does not answer; other results would fare the same."""


class RefusedError(Exception):
    """The archive does not take these objects; it may take others."""


@runtime_checkable
class Destination(Protocol):
    """Takes results."""

    def send(self, files: Sequence[Path]) -> None:
        """Send DICOM files and wait until they are stored.

        Raises:
            UnreachableError: if there is no connection.
            RefusedError: if an object is not stored; the others may be.
        """


def destination(text: str, own_title: str) -> Destination:
    """Return what `--return-to` names: AE@HOST:PORT, or the http(s) root of a DICOMweb service.

    Args:
        text: As on the command line.
        own_title: AE title to call with.

    Raises:
        ConfigError: if it is neither, or a token would travel in clear text.
    """
    if text.startswith(("http://", "https://")):
        return DicomWeb(text.rstrip("/"), os.environ.get(TOKEN))
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ConfigError(f"--return-to {text}: use AE@HOST:PORT or http(s)://HOST/dicom-web")
    return Archive(match[1].strip(), match[2].strip("[]"), int(match[3]), own_title)


@dataclass(frozen=True)
class Archive:
    """A DICOM node that stores what it is sent."""

    title: str
    host: str
    port: int
    own_title: str

    def send(self, files: Sequence[Path]) -> None:
        """Send by C-STORE; see `Destination`."""
        caller = AE(self.own_title)
        caller.connection_timeout = caller.acse_timeout = caller.dimse_timeout = SECONDS
        for storage in (EnhancedSRStorage, SecondaryCaptureImageStorage):
            caller.add_requested_context(storage, ExplicitVRLittleEndian)
        link = caller.associate(self.host, self.port, ae_title=self.title)
        if not link.is_established:
            raise UnreachableError(f"{self.title} does not accept a connection")
        try:
            for file in files:
                self._store(link, file)
        finally:
            link.release()

    def _store(self, link: Association, file: Path) -> None:
        try:
            status = link.send_c_store(pydicom.dcmread(file)).get("Status")
        except ValueError:  # no presentation context was accepted for it
            raise RefusedError(f"{self.title} takes no objects of this kind") from None
        except RuntimeError:
            status = None
        if status is None:
            raise UnreachableError(f"{self.title} ended the connection")
        if status != 0 and status >> 12 != 0xB:  # Bxxx: stored, with a warning
            raise RefusedError(f"{self.title} answered with status 0x{status:04X}")


@dataclass(frozen=True)
class DicomWeb:
    """The root of a DICOMweb service."""

    root: str
    token: str | None = None

    def __post_init__(self) -> None:
        """Check that the token is not sent in clear text."""
        host = httpx.URL(self.root).host
        if self.token and self.root.startswith("http://") and host not in ("127.0.0.1", "::1"):
            raise ConfigError(f"--return-to {self.root}: {TOKEN} needs https, or 127.0.0.1")

    def send(self, files: Sequence[Path]) -> None:
        """Send by STOW-RS; see `Destination`."""
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(head + file.read_bytes() + b"\r\n" for file in files)
        headers = {
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            answer = httpx.post(
                f"{self.root}/studies",
                content=body + f"--{boundary}--\r\n".encode(),
                headers=headers,
                timeout=SECONDS,
            )
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self.root}: {type(error).__name__}") from None
        if answer.status_code >= 500 or answer.status_code == 429:
            raise UnreachableError(f"{self.root} answered {answer.status_code}")
        # 202: some were not stored.
        if answer.status_code != 200:
            raise RefusedError(f"{self.root} answered {answer.status_code}")
