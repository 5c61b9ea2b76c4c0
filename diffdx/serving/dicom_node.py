"""A DICOM node: images come in by C-STORE, reports and maps go back to the archive.

    peer --C-STORE--> inbox --> one worker: classify, explain, write --> outbox --> archive

A peer gets its success once the image is on the disk; from then on nothing is lost, whether the
node or the archive goes down. Results are sent again, ever less often, until they are taken. Only
peers whose AE titles are listed are heard. Secondary Captures and reports are not taken, so that an
archive that forwards everything cannot make the node read its own results. Nothing of a data set is
logged: messages name images by a hash. Research use only, not a medical device.
"""

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socketserver import BaseServer
from typing import Any
from weakref import WeakKeyDictionary

from pydicom import uid
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from diffdx._interrupt import StopRequest
from diffdx.errors import ConfigError, DiffdxError
from diffdx.serving.dicom_return import Destination, RefusedError, UnreachableError
from diffdx.serving.dicom_spool import IMAGE_FILE, Spool, key_of

KINDS = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.VLPhotographicImageStorage,
    uid.DermoscopicPhotographyImageStorage,
    uid.OphthalmicPhotography8BitImageStorage,
)
"""Images that are taken: radiographs and photographs."""
SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
]
MAX_PDU_BYTES = 1 << 16
MAX_OBJECT_BYTES = 256 << 20
MAX_PEERS = 4
SILENCE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 300.0
DISK_PAUSE_SECONDS = 10.0
_SUCCESS, _OUT_OF_RESOURCES = 0x0000, 0xA700

Read = Callable[[Path, Path], Path]
"""Classifies an image file, working in a folder, and returns the folder of its results."""


@dataclass(frozen=True)
class Listening:
    """Where a node listens, and to whom.

    Attributes:
        title: Its AE title; peers must call it by this.
        allowed: AE titles of the peers that are heard.
        host: Address to bind.
        port: 0 takes any that is free.
    """

    title: str
    allowed: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 11112

    def __post_init__(self) -> None:
        for title in (self.title, *self.allowed):
            if not 0 < len(title.strip()) <= 16 or "\\" in title or not title.isascii():
                raise ConfigError(f"AE title {title!r}: use 1 to 16 ASCII characters, no backslash")
        if not self.allowed:
            raise ConfigError("--allow: name at least one AE title that may send images")


class Node:
    """Receives, reads and sends back.

    Attributes:
        port: The port that it listens on, while it runs.
    """

    def __init__(
        self,
        listening: Listening,
        spool: Spool,
        read: Read,
        archive: Destination,
        tell: Callable[[str], None],
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            listening: Where, and to whom.
            spool: What waits.
            read: Makes results of an image.
            archive: Takes the results.
            tell: Takes messages, none of which holds an identifier.
        """
        self.port: int | None = None
        self._listening, self._spool, self._read = listening, spool, read
        self._archive, self._tell = archive, tell
        self._wake, self._ending = threading.Event(), threading.Event()
        self._received: WeakKeyDictionary[Association, int] = WeakKeyDictionary()
        self._pause = 0.0
        self._send_at = 0.0

    def run(self, stop: StopRequest) -> None:
        """Listen until asked to stop; the image in hand is finished, what waits stays on the disk.

        Raises:
            OSError: if the port cannot be had.
        """
        with _silent_libraries(), self._server():
            worker = threading.Thread(target=self._work, name="reader")
            worker.start()
            while stop.signal_number is None and worker.is_alive():
                time.sleep(0.1)
            self._ending.set()
            self._wake.set()
            worker.join()

    @contextmanager
    def _server(self) -> Iterator[None]:
        entity = AE(self._listening.title)
        entity.maximum_pdu_size = MAX_PDU_BYTES
        entity.maximum_associations = MAX_PEERS
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = SILENCE_SECONDS
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._listening.allowed)
        entity.add_supported_context(Verification)
        for kind in KINDS:
            entity.add_supported_context(kind, SYNTAXES)
        server = entity.make_server(
            (self._listening.host, self._listening.port),
            evt_handlers=[(evt.EVT_C_STORE, self._store)],
            server_class=ThreadedAssociationServer,
            request_handler=self._guarded(),
        )
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            # pynetdicom's own shutdown is for servers that it has started itself.
            BaseServer.shutdown(server)
            server.server_close()
            for link in server.active_associations:
                link.abort()

    def _guarded(self) -> type[RequestHandler]:
        """Return pynetdicom's handler with limits: it takes 4 GB in a PDU, and waits for ever."""
        received = self._received

        class Guarded(RequestHandler):
            def _create_association(self) -> Association:
                link = super()._create_association()
                self.request.settimeout(SILENCE_SECONDS)
                line: Any = link.dul.socket
                take = line.recv

                def take_little(nr_bytes: int) -> bytearray:
                    received[link] = received.get(link, 0) + nr_bytes
                    if nr_bytes > 2 * MAX_PDU_BYTES or received[link] > MAX_OBJECT_BYTES:
                        raise OSError("over the limit")
                    taken: bytearray = take(nr_bytes)
                    return taken

                line.recv = take_little
                return link

        return Guarded

    def _store(self, event: evt.Event) -> int:
        """Take an image, or say that there is no room."""
        self._received[event.assoc] = 0
        request: Any = event.request
        key = key_of(request.AffectedSOPInstanceUID)
        try:
            self._spool.receive(key, event.encoded_dataset())
        except OSError as error:
            self._tell(f"{key}: refused, no room ({error.strerror})")
            return _OUT_OF_RESOURCES
        self._wake.set()
        return _SUCCESS

    def _work(self) -> None:
        while not self._ending.is_set():
            self._wake.clear()
            try:
                case = self._spool.next_case()
                if case is not None:
                    self._handle(case)
                if time.monotonic() >= self._send_at:
                    self._send()
            except OSError as error:
                # The disk is full, or the folder gone: nothing is dropped, someone must look.
                self._tell(f"{self._spool.root}: {error.strerror}; trying again")
                self._ending.wait(DISK_PAUSE_SECONDS)
                continue
            if case is None:
                self._wake.wait(max(0.0, self._send_at - time.monotonic()) or None)

    def _handle(self, case: Path) -> None:
        """Read one image; an image that cannot be read is forgotten."""
        started = time.monotonic()
        try:
            results = self._read(case / IMAGE_FILE, case)
        except OSError:
            raise
        except DiffdxError as error:
            self._tell(f"{case.name}: not read, and forgotten: {error}")
        except Exception as error:  # its text may quote the file
            self._tell(f"{case.name}: not read, and forgotten ({type(error).__name__})")
        else:
            self._spool.finish(case, results)
            self._tell(f"{case.name}: read in {time.monotonic() - started:.1f} s")
            return
        self._spool.drop(case)

    def _send(self) -> None:
        """Send what waits; after a failure pause, twice as long as the last time."""
        failed = False
        for results in self._spool.to_send():
            files = sorted(results.glob("*.dcm"))
            try:
                self._archive.send(files)
            except (RefusedError, UnreachableError) as error:
                failed = True
                self._tell(f"{results.name}: not sent yet: {error}")
                if isinstance(error, UnreachableError):
                    break
            else:
                self._spool.drop(results)
                self._tell(f"{results.name}: {len(files)} objects sent")
        self._pause = min(2 * self._pause or 1.0, LONGEST_PAUSE_SECONDS) if failed else 0.0
        self._send_at = time.monotonic() + self._pause


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Keep pynetdicom and pydicom from logging what they receive."""
    loggers = [logging.getLogger(name) for name in ("pynetdicom", "pydicom")]
    before = [logger.level for logger in loggers], _config.LOG_HANDLER_LEVEL
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom|pynetdicom")
        _config.LOG_HANDLER_LEVEL = "none"
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            _config.LOG_HANDLER_LEVEL = before[1]
            for logger, level in zip(loggers, before[0], strict=True):
                logger.setLevel(level)
