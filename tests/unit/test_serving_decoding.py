"""Uploads become pixels in a process that may die of them."""

import asyncio
import io
import json
from multiprocessing import Pipe

import numpy as np
import pytest
from PIL import Image

from diffdx.errors import ConfigError, DataError
from diffdx.serving import decoding
from diffdx.serving.child import Child
from diffdx.serving.decoding import Decoder, looks_like_image
from diffdx.transforms.pixels import PixelSpec

SPEC = PixelSpec(16)


def png(side=20):
    pixels = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class TestDecoding:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
    def test_knows_the_formats(self, kind):
        stream = io.BytesIO()
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(stream, kind)
        assert looks_like_image(stream.getvalue()[:132])

    def test_dicom_is_read_from_memory_and_its_caution_told(self, radiograph, tmp_path):
        file = tmp_path / "x.dcm"
        pixels = np.arange(400, dtype=np.uint8).reshape(20, 20)
        radiograph(pixels, file, ViewPosition="LL")
        reply, raw = decoding._answer(file.read_bytes(), None, SPEC)
        assert reply["caution"] == "out of scope: lateral view"
        stored = np.frombuffer(raw, reply["dtype"]).reshape(1, 16, 16)
        assert stored.min() < stored.max()
        reply, raw = decoding._answer(file.read_bytes()[:-200], None, SPEC)
        assert raw is None
        assert "CANARY" not in reply["error"]

    @pytest.mark.slow
    def test_the_process_answers_refuses_and_survives_its_death(self):
        async def story():
            decoder = Decoder(SPEC)
            image = await decoder.decode(png())
            expected = SPEC.store(np.array(Image.open(io.BytesIO(png()))))
            np.testing.assert_array_equal(image.stored, expected)
            with pytest.raises(DataError, match="the file"):
                await decoder.decode(png()[:-300])
            decoder._child._process.kill()
            decoder._child._process.join()
            assert (await decoder.decode(png())).caution is None
            decoder.close()

        asyncio.run(story())

    def test_a_process_that_dies_or_hangs_fails_its_upload_alone(self, monkeypatch):
        async def story(main):
            decoder = Decoder(SPEC)
            decoder._child = Child(main)
            with pytest.raises(DataError):
                await decoder.decode(png())
            assert not decoder._child.alive

        asyncio.run(story(id))
        monkeypatch.setattr(decoding, "SECONDS", 0.1)
        asyncio.run(story(_hang))

    def test_what_is_not_installed_is_a_fault_of_the_server_s_setup(self):
        ours, theirs = Pipe()
        theirs.send_bytes(json.dumps({"error": "needs pydicom", "fault": "config"}).encode())

        class Running(Child):
            alive, line = True, ours

        decoder = Decoder(SPEC)
        decoder._child = Running(print)
        with pytest.raises(ConfigError, match="pydicom"):
            asyncio.run(decoder.decode(b"DICM"))


def _hang(line):
    line.poll(60)
    line.poll(60)


def test_memory_that_does_not_suffice_is_said(monkeypatch):
    def swell(*arguments, **more):
        raise MemoryError

    monkeypatch.setattr(decoding, "read_image", swell)
    assert "scale the image down" in decoding._answer(png(), None, SPEC)[0]["error"]
