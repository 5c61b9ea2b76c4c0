"""Results on their way to the archive: what counts as stored, as refused and as out of reach."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="needs the extra dicom")
pytest.importorskip("highdicom", reason="needs the extra dicom")
import pydicom
from pydicom.uid import EnhancedSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from diffdx.errors import ConfigError
from diffdx.report.dicom_capture import secondary_capture
from diffdx.report.dicom_source import read_source, write_object
from diffdx.serving.dicom_return import (
    TOKEN,
    Archive,
    DicomWeb,
    RefusedError,
    UnreachableError,
    destination,
)


@pytest.fixture
def results(radiograph, tmp_path):
    """Two Secondary Captures."""
    radiograph(np.zeros((16, 16), np.uint8), tmp_path / "image.dcm")
    source = read_source(tmp_path / "image.dcm")
    files = [tmp_path / "results" / f"{number}.dcm" for number in (1, 2)]
    for number, file in enumerate(files, start=1):
        drawn = np.full((8, 8, 3), number, np.uint8)
        write_object(file, secondary_capture(file, source, drawn, "Map.", number, "ab" * 32))
    return files


@contextmanager
def archive(handle, *, kinds=(EnhancedSRStorage, SecondaryCaptureImageStorage), title="PACS"):
    entity = AE(title)
    entity.require_called_aet = True
    for kind in kinds:
        entity.add_supported_context(kind)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)]
    )
    try:
        yield Archive("PACS", "127.0.0.1", server.server_address[1], "DIFFDX")
    finally:
        server.shutdown()


class TestArchive:
    def test_it_stores_the_very_objects(self, results):
        got = []

        def keep(event):
            assert event.assoc.requestor.ae_title == "DIFFDX"
            got.append(event.encoded_dataset(include_meta=False))
            return 0x0000

        with archive(keep) as there:
            there.send(results)
        assert len(got) == 2
        for data, file in zip(got, results, strict=True):
            assert file.read_bytes().endswith(data)

    def test_stored_with_a_warning_is_stored(self, results):
        with archive(lambda event: 0xB000) as there:
            there.send(results)

    def test_a_status_of_failure_is_a_refusal(self, results):
        with (
            archive(lambda event: 0xA700) as there,
            pytest.raises(RefusedError, match="status 0xA700"),
        ):
            there.send(results)

    def test_an_archive_that_knows_no_captures_refuses(self, results):
        with (
            archive(lambda event: 0, kinds=[EnhancedSRStorage]) as there,
            pytest.raises(RefusedError, match="no objects of this kind"),
        ):
            there.send(results)

    def test_a_connection_that_breaks_is_out_of_reach(self, results):
        def abort(event):
            event.assoc.abort()
            return 0x0000

        with (
            archive(abort) as there,
            pytest.raises(UnreachableError, match="ended the connection"),
        ):
            there.send(results)

    def test_nobody_there_and_nobody_of_that_name_are_out_of_reach(self, results):
        with (
            archive(lambda event: 0, title="OTHER") as there,
            pytest.raises(UnreachableError, match="does not accept"),
        ):
            there.send(results)
        with pytest.raises(UnreachableError):
            there.send(results)


@contextmanager
def web(status):
    """A server that answers every POST with this status, and what it was sent."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, dict(self.headers), body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", got
    finally:
        server.shutdown()
        server.server_close()


class TestDicomWeb:
    def test_it_posts_the_files_as_parts(self, results, monkeypatch):
        monkeypatch.setenv(TOKEN, "secret")
        with web(200) as (root, got):
            destination(root + "/", "DIFFDX").send(results)
        ((path, headers, body),) = got
        assert path == "/dicom-web/studies"
        assert headers["Authorization"] == "Bearer secret"
        kind, boundary = headers["Content-Type"].rsplit("; boundary=", 1)
        assert kind == 'multipart/related; type="application/dicom"'
        first, *parts, last = body.split(f"--{boundary}".encode())
        assert (first, last) == (b"", b"--\r\n")
        begin = b"\r\nContent-Type: application/dicom\r\n\r\n"
        assert [p.removeprefix(begin).removesuffix(b"\r\n") for p in parts] == [
            file.read_bytes() for file in results
        ]

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (202, RefusedError),
            (401, RefusedError),
            (409, RefusedError),
            (429, UnreachableError),
            (503, UnreachableError),
        ],
    )
    def test_other_answers_are_no_success(self, results, status, error):
        with web(status) as (root, _), pytest.raises(error, match=str(status)):
            DicomWeb(root).send(results)

    def test_nobody_there_is_out_of_reach(self, results):
        with web(200) as (root, _):
            pass
        with pytest.raises(UnreachableError, match="ConnectError"):
            DicomWeb(root).send(results)

    def test_a_token_is_not_sent_in_clear_text(self, monkeypatch):
        monkeypatch.setenv(TOKEN, "secret")
        with pytest.raises(ConfigError, match="needs https"):
            destination("http://pacs.example/dicom-web", "DIFFDX")
        assert destination("https://pacs.example/dicom-web", "DIFFDX").token == "secret"


class TestAddress:
    def test_title_host_and_port(self):
        assert destination("PACS@10.0.0.1:104", "ME") == Archive("PACS", "10.0.0.1", 104, "ME")
        assert destination("PACS@[::1]:104", "ME") == Archive("PACS", "::1", 104, "ME")

    @pytest.mark.parametrize(
        "text", ["PACS", "PACS@host", "@host:1", "PACS@host:0", "A" * 17 + "@h:1", "ftp://h"]
    )
    def test_anything_else_is_refused(self, text):
        with pytest.raises(ConfigError, match="use AE@HOST:PORT"):
            destination(text, "ME")


def test_captures_are_what_they_are_sent_as(results):
    assert pydicom.dcmread(results[0]).SOPClassUID == SecondaryCaptureImageStorage
