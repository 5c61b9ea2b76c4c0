"""The DICOM node: who is heard, what is kept, what comes back; nothing lost, nothing told."""

import logging
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="needs the extra dicom")
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE

from diffdx._interrupt import StopRequest
from diffdx.errors import ConfigError, DataError
from diffdx.serving import dicom_node
from diffdx.serving.dicom_node import Listening, Node
from diffdx.serving.dicom_return import RefusedError, UnreachableError
from diffdx.serving.dicom_spool import IMAGE_FILE, Spool, key_of

VERIFICATION = "1.2.840.10008.1.1"
PATIENCE = 20.0


class FakeArchive:
    """Takes results, or raises what it is given."""

    def __init__(self):
        self.got, self.error = [], None

    def send(self, files):
        if self.error is not None:
            raise self.error
        self.got.append([file.read_bytes() for file in files])


def copy_back(image, folder):
    """A reader whose result is the image itself."""
    results = folder / "objects"
    results.mkdir(exist_ok=True)
    (results / "result.dcm").write_bytes(image.read_bytes())
    return results


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", 1 << 20)


@pytest.fixture
def image(radiograph, tmp_path):
    path = tmp_path / "image.dcm"
    return radiograph(np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8), path)


@contextmanager
def running(spool, read=copy_back, archive=None):
    """A node at work; yields it, its archive and its messages."""
    archive, told, stop = archive or FakeArchive(), [], StopRequest()
    node = Node(Listening("DIFFDX", ["PACS"], port=0), spool, read, archive, told.append)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(node.run, stop)
        try:
            until(lambda: node.port is not None)
            yield node, archive, told
        finally:
            stop.signal_number = 2
            run.result(PATIENCE)


def call(node, *kinds, caller="PACS", called="DIFFDX"):
    entity = AE(caller)
    for kind in kinds or (VERIFICATION, DigitalXRayImageStorageForPresentation):
        entity.add_requested_context(kind)
    return entity.associate("127.0.0.1", node.port, ae_title=called)


def store(node, *images):
    link = call(node)
    statuses = [link.send_c_store(one).get("Status") for one in images]
    link.release()
    return statuses


def files_of(spool):
    return [name for _, _, names in os.walk(spool.root) for name in names if name != ".lock"]


class TestPeers:
    def test_a_listed_peer_is_answered(self, spool):
        with running(spool) as (node, _, _):
            link = call(node)
            assert link.send_c_echo().Status == 0
            link.release()

    @pytest.mark.parametrize("titles", [("OTHER", "DIFFDX"), ("PACS", "OTHER")])
    def test_others_and_those_who_call_another_are_rejected(self, spool, titles):
        with running(spool) as (node, _, _):
            link = call(node, caller=titles[0], called=titles[1])
            assert link.is_rejected

    def test_captures_are_not_taken_since_its_own_results_are_such(self, spool):
        with running(spool) as (node, _, _):
            link = call(node, VERIFICATION, SecondaryCaptureImageStorage)
            assert [c.abstract_syntax for c in link.accepted_contexts] == [VERIFICATION]
            link.release()

    @pytest.mark.parametrize("title", ["", " ", "A" * 17, "A\\B", "é"])
    def test_a_title_that_is_none_is_refused(self, title):
        with pytest.raises(ConfigError, match="AE title"):
            Listening("DIFFDX", [title])

    def test_nobody_allowed_is_refused(self):
        with pytest.raises(ConfigError, match="--allow"):
            Listening("DIFFDX", [])


class TestWork:
    def test_an_image_comes_in_its_results_go_back_and_nothing_stays(self, spool, image):
        with running(spool) as (node, archive, told):
            assert store(node, image) == [0x0000]
            until(lambda: archive.got)
            until(lambda: not files_of(spool))
        ((sent,),) = archive.got
        assert sent.endswith(image.PixelData)
        key = key_of(image.SOPInstanceUID)
        assert [line.split(":")[0] for line in told] == [key, key]
        assert told[1] == f"{key}: 1 objects sent"

    def test_an_image_that_cannot_be_read_is_forgotten_and_the_next_is_read(
        self, spool, image, radiograph, tmp_path
    ):
        errors = [DataError("'image.dcm': damaged"), RuntimeError("the name CANARY")]

        def read(path, folder):
            if errors:
                raise errors.pop(0)
            return copy_back(path, folder)

        others = [radiograph(image.pixel_array, tmp_path / f"{i}.dcm") for i in range(2)]
        with running(spool, read) as (node, archive, told):
            assert store(node, image, *others) == [0, 0, 0]
            until(lambda: archive.got)
        assert sum("forgotten: 'image.dcm': damaged" in line for line in told) == 1
        assert sum("forgotten (RuntimeError)" in line for line in told) == 1
        assert "CANARY" not in "".join(told)

    def test_an_archive_out_of_reach_gets_the_results_later(self, spool, image, radiograph):
        other = radiograph(image.pixel_array, spool.root.parent / "other.dcm")
        down = FakeArchive()
        down.error = UnreachableError("PACS does not accept a connection")
        with running(spool, archive=down) as (node, archive, told):
            store(node, image, other)
            until(lambda: sum("not sent yet" in line for line in told) >= 2)
            archive.error = None
            until(lambda: len(archive.got) == 2)
        assert not files_of(spool)

    def test_a_refused_result_waits_and_does_not_stop_the_others(self, spool, image, radiograph):
        other = radiograph(image.pixel_array, spool.root.parent / "other.dcm")
        refused = key_of(image.SOPInstanceUID)

        class Picky(FakeArchive):
            def send(self, files):
                if files[0].parent.name == refused:
                    raise RefusedError("PACS answered with status 0xA900")
                super().send(files)

        with running(spool, archive=Picky()) as (node, archive, told):
            store(node, image, other)
            until(lambda: archive.got)
            until(lambda: any(line.startswith(f"{refused}: not sent yet") for line in told))
        assert [folder.name for folder in spool.to_send()] == [refused]

    def test_a_full_disk_drops_nothing(self, spool, image, monkeypatch):
        monkeypatch.setattr(dicom_node, "DISK_PAUSE_SECONDS", 0.01)
        errors = [OSError(28, "No space left on device")]

        def read(path, folder):
            if errors:
                raise errors.pop()
            return copy_back(path, folder)

        with running(spool, read) as (node, archive, told):
            store(node, image)
            until(lambda: archive.got)
        assert any("No space left on device" in line for line in told)

    def test_what_waits_at_the_end_is_taken_up_by_the_next_node(
        self, spool, image, radiograph, tmp_path
    ):
        images = [image, *(radiograph(image.pixel_array, tmp_path / f"{i}") for i in range(2))]
        started, go = threading.Event(), threading.Event()

        def slow(path, folder):
            started.set()
            go.wait(PATIENCE)
            return copy_back(path, folder)

        with running(spool, slow) as (node, first, _):
            store(node, *images)
            until(started.is_set)
            threading.Timer(0.3, go.set).start()
        # The image in hand was finished; the others are as they came.
        assert len(first.got) == 1
        assert len(files_of(spool)) == 2
        with running(Spool(spool.root, 1 << 20)) as (_, second, _):
            until(lambda: len(second.got) == 2)
        assert not files_of(spool)


class TestLimits:
    def test_beyond_the_quota_an_image_is_refused_and_the_peer_told(
        self, spool, image, radiograph, tmp_path
    ):
        go = threading.Event()

        def slow(path, folder):
            go.wait(PATIENCE)
            return copy_back(path, folder)

        other = radiograph(image.pixel_array, tmp_path / "other.dcm")
        spool.max_bytes = int(1.5 * (tmp_path / "other.dcm").stat().st_size)
        with running(spool, slow) as (node, archive, told):
            assert store(node, image, other) == [0x0000, 0xA700]
            go.set()
            until(lambda: archive.got)
        refused = [line for line in told if "refused, no room" in line]
        assert [line.split(":")[0] for line in refused] == [key_of(other.SOPInstanceUID)]

    def test_a_pdu_of_4_gb_is_not_read(self, spool):
        with running(spool) as (node, _, _):
            with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as line:
                line.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + bytes(100))
                try:
                    answer = line.recv(1)
                except ConnectionResetError:
                    answer = b""
                assert answer == b""
            link = call(node)
            assert link.is_established
            link.release()

    def test_an_object_over_the_limit_ends_the_connection(
        self, spool, radiograph, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(dicom_node, "MAX_OBJECT_BYTES", 50_000)
        large = radiograph(np.zeros((300, 300), np.uint8), tmp_path / "large.dcm")
        with running(spool) as (node, _, _):
            link = call(node)
            assert link.send_c_store(large).get("Status") is None
            until(lambda: not link.is_established)
        assert not files_of(spool)


class TestPrivacy:
    def test_no_text_of_an_image_is_logged_or_printed(self, spool, image, caplog, capfd):
        before = logging.getLogger("pynetdicom").level
        with caplog.at_level(logging.DEBUG), running(spool) as (node, archive, told):
            store(node, image)
            until(lambda: archive.got)
        captured = capfd.readouterr()
        said = "".join(told)
        for secret in ("CANARY", str(image.SOPInstanceUID), str(image.StudyInstanceUID)):
            assert secret not in said + captured.out + captured.err + caplog.text
        assert logging.getLogger("pynetdicom").level == before

    def test_the_folder_is_its_owners_alone(self, spool):
        assert spool.root.stat().st_mode & 0o777 == 0o700

    def test_the_hash_depends_on_the_salt(self, monkeypatch):
        plain = key_of("1.2.3")
        monkeypatch.setenv("DIFFDX_SALT", "pepper")
        assert key_of("1.2.3") != plain


class TestSpool:
    def test_the_oldest_is_next_and_one_that_was_cut_short_before_it(self, spool):
        for number, key in enumerate(("b", "a")):
            spool.receive(key, b"image")
            os.utime(spool.root / "inbox" / f"{key}.dcm", (number, number))
        case = spool.next_case()
        assert case is not None
        assert case.name == "b"
        assert spool.next_case() == case
        spool.drop(case)
        following = spool.next_case()
        assert following is not None
        assert following.name == "a"

    def test_a_case_without_its_image_is_removed(self, spool):
        # Killed between making the folder and moving the image into it.
        (spool.root / "work" / "x").mkdir()
        assert spool.next_case() is None
        assert not (spool.root / "work" / "x").exists()

    def test_an_image_that_comes_again_replaces_results_that_wait(self, spool):
        for content in (b"old", b"new"):
            spool.receive("key", content)
            case = spool.next_case()
            assert case is not None
            spool.finish(case, copy_back(case / IMAGE_FILE, case))
        (results,) = spool.to_send()
        assert (results / "result.dcm").read_bytes() == b"new"
