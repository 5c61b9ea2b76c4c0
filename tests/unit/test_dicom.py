"""DICOM in: the right pixels or a reason, and no identifier anywhere (faults 16 to 28)."""

import io
import os
import re
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    generate_uid,
)

from diffdx.data import dicom, dicom_worker, open_dataset, open_inputs, read_image  # noqa: E402
from diffdx.data.dicom import close_children, describe_dicom  # noqa: E402
from diffdx.errors import ConfigError, DataError  # noqa: E402

CANARY = "CANARY"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 4096, (24, 32), dtype=np.uint16)
EIGHT = RNG.integers(0, 256, (24, 32), dtype=np.uint8)


def make(pixels=DEEP, *, bits=None, signed=False, storage=DX, patient="P1", **elements):
    """A grey or RGB image as a dataset; `elements` set, or with None remove, what they name."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = storage
    uid = generate_uid()
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid
    data.StudyInstanceUID = generate_uid()
    data.PatientID, data.PatientName = f"{CANARY}{patient}", f"{CANARY}^Name"
    data.Modality = "DX"
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = bits or (12 if pixels.dtype.itemsize == 2 else 8)
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(signed)
    data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def save(path, data=None, **elements):
    data = make(**elements) if data is None else data
    data.save_as(path, enforce_file_format=True)
    return path


def begin_of(path):
    """The preamble and the file meta group."""
    return path.read_bytes().partition(struct.pack("<HH", 8, 0x16))[0]


def private_tags(count):
    return b"".join(
        struct.pack("<HH2sHL", 9 + 2 * (i >> 16), i & 0xFFFF, b"UN", 0, 0) for i in range(count)
    )


def lut(values, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = list(values)
    item["LUTData"].VR = "US"
    return Sequence([item])


class TestGrey:
    def test_12_bits_keep_their_depth_over_the_full_range(self, tmp_path):
        pixels = read_image(save(tmp_path / "a.dcm"))
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, np.rint(DEEP / 4095 * 65535).astype(np.uint16))
        assert len(np.unique(pixels)) == len(np.unique(DEEP))

    def test_16_bits_are_as_stored(self, tmp_path):
        wide = RNG.integers(0, 65536, (24, 32), dtype=np.uint16)
        np.testing.assert_array_equal(read_image(save(tmp_path / "a", pixels=wide, bits=16)), wide)

    def test_8_bits_equal_the_png_of_the_same_pixels(self, tmp_path):
        Image.fromarray(EIGHT).save(tmp_path / "a.png")
        pixels = read_image(save(tmp_path / "a.dcm", pixels=EIGHT))
        np.testing.assert_array_equal(pixels, read_image(tmp_path / "a.png"))

    def test_signed_12_in_16_bits_span_the_signed_range(self, tmp_path):
        values = RNG.integers(-2048, 2048, (24, 32)).astype(np.int16)
        expected = np.rint((values + 2048) / 4095 * 65535).astype(np.uint16)
        extended = save(tmp_path / "a", pixels=values.view(np.uint16), signed=True)
        np.testing.assert_array_equal(read_image(extended), expected)
        # The same twelve bits with the four above them left at zero.
        masked = save(tmp_path / "b", pixels=values.view(np.uint16) & 0x0FFF, signed=True)
        np.testing.assert_array_equal(read_image(masked), expected)

    @pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 1000}])
    def test_monochrome1_equals_its_inverted_twin(self, tmp_path, window):
        first = save(tmp_path / "a", PhotometricInterpretation="MONOCHROME1", **window)
        # y(M - x) = 1 - y(x) for the window about M - c + 1.
        mirrored = {**window, "WindowCenter": 4095 - 1500 + 1} if window else {}
        twin = save(tmp_path / "b", pixels=4095 - DEEP, **mirrored)
        np.testing.assert_array_equal(read_image(first), read_image(twin))

    @pytest.mark.parametrize(
        ("function", "formula"),
        [
            ("LINEAR", lambda x: (x - (1500 - 0.5)) / 999 + 0.5),
            ("LINEAR_EXACT", lambda x: (x - 1500) / 1000 + 0.5),
            ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 1500) / 1000))),
        ],
    )
    def test_windows_follow_the_standard(self, tmp_path, function, formula):
        window = {"WindowCenter": 1500, "WindowWidth": 1000, "VOILUTFunction": function}
        expected = np.rint(np.clip(formula(DEEP.astype(float)), 0, 1) * 65535)
        np.testing.assert_array_equal(read_image(save(tmp_path / "a", **window)), expected)

    def test_of_several_windows_the_first_counts(self, tmp_path):
        one = save(tmp_path / "a", WindowCenter=1500, WindowWidth=1000)
        two = save(tmp_path / "b", WindowCenter=[1500, 10], WindowWidth=[1000, 3])
        np.testing.assert_array_equal(read_image(one), read_image(two))

    def test_a_window_of_width_1_is_a_threshold(self, tmp_path):
        pixels = read_image(save(tmp_path / "a", WindowCenter=2000, WindowWidth=1))
        np.testing.assert_array_equal(pixels, (DEEP >= 2000) * np.uint16(65535))

    def test_rescale_comes_before_the_window(self, tmp_path):
        window = {"WindowCenter": 40, "WindowWidth": 400}
        rescaled = save(tmp_path / "a", RescaleSlope=0.5, RescaleIntercept=-1000, **window)
        hounsfield = DEEP * 0.5 - 1000
        expected = np.rint(np.clip((hounsfield - 39.5) / 399 + 0.5, 0, 1) * 65535)
        np.testing.assert_array_equal(read_image(rescaled), expected)

    @pytest.mark.parametrize("slope", [2.5, -2.5])
    def test_a_rescale_alone_maps_the_range_it_can_reach(self, tmp_path, slope):
        pixels = read_image(save(tmp_path / "a", RescaleSlope=slope, RescaleIntercept=-7))
        share = DEEP / 4095 if slope > 0 else 1 - DEEP / 4095
        assert np.abs(pixels - share * 65535).max() <= 0.5 + 1e-6

    def test_luts_are_applied_in_order(self, tmp_path):
        squares = (np.arange(4096) ** 2 >> 8).astype(int)  # 16 bits
        modality = lut(squares, 0, 16)
        pixels = read_image(save(tmp_path / "a", ModalityLUTSequence=modality))
        np.testing.assert_array_equal(pixels, squares[DEEP])
        voi = lut(np.arange(255, -1, -1), 1000, 8)
        pixels = read_image(save(tmp_path / "b", VOILUTSequence=voi, WindowCenter=1, WindowWidth=9))
        expected = 255 - np.clip(DEEP.astype(int) - 1000, 0, 255)
        np.testing.assert_array_equal(pixels, expected * 257)

    @pytest.mark.parametrize(
        ("elements", "message"),
        [
            ({"WindowCenter": 5, "WindowWidth": 0}, "WindowWidth is 0"),
            ({"WindowCenter": 5, "WindowWidth": -3}, "WindowWidth is -3"),
            ({"RescaleSlope": 0, "RescaleIntercept": 1}, "RescaleSlope is 0"),
            ({"BitsStored": 13, "BitsAllocated": 8}, "13 bits stored of 8"),
            ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits allocated"),
            ({"PhotometricInterpretation": "CANARY"}, "photometric interpretation is none of"),
            ({"SamplesPerPixel": 2}, "2 samples per pixel"),
            ({"Rows": 0}, "32 x 0 pixels"),
            ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels; expected 1 to 100000000"),
            ({"SharedFunctionalGroupsSequence": Sequence([Dataset()])}, "enhanced"),
            ({"Rows": None}, "32 x 0 pixels"),
            ({"WindowCenter": float("inf"), "WindowWidth": 3}, "WindowCenter is inf"),
            ({"VOILUTSequence": lut(range(9), 0, 17)}, "9 of 9 entries, 17 bits"),
        ],
    )
    def test_what_leaves_the_pixels_undefined_is_refused(self, tmp_path, elements, message):
        path = save(tmp_path / "a.dcm", **elements)
        with pytest.raises(DataError, match=re.escape(message)) as caught:
            read_image(path)
        assert CANARY not in str(caught.value)
        assert str(path) in str(caught.value)

    def test_small_long_and_constant_images_are_refused_as_in_other_formats(self, tmp_path):
        for shape, message in (((4, 4), "too small"), ((8, 80), "elongated")):
            noise = RNG.integers(0, 4096, shape, dtype=np.uint16)
            with pytest.raises(DataError, match=message):
                read_image(save(tmp_path / "a", pixels=noise))
        with pytest.raises(DataError, match="no contrast"):
            read_image(save(tmp_path / "a", pixels=np.full((16, 16), 9, np.uint16)))


class TestColour:
    def test_rgb_and_ybr_give_the_same_colours(self, tmp_path):
        smooth = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
        np.testing.assert_array_equal(read_image(save(tmp_path / "a", pixels=smooth)), smooth)
        ycc = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
        full = save(tmp_path / "b", pixels=ycc, PhotometricInterpretation="YBR_FULL")
        # Two roundings of 1/2 on the way there, with factors up to 1.772, and one on the way back.
        assert np.abs(read_image(full).astype(int) - smooth).max() <= 2
        pairs = np.stack([ycc[:, 0::2, 0], ycc[:, 1::2, 0], ycc[:, 0::2, 1], ycc[:, 0::2, 2]], -1)
        half = make(pixels=ycc, PhotometricInterpretation="YBR_FULL_422")
        half.PixelData = pairs.tobytes()
        shown = read_image(save(tmp_path / "c", half)).astype(int)
        assert np.abs(shown[:, 0::2] - smooth[:, 0::2]).max() <= 2

    def test_palette_gives_its_colours(self, tmp_path):
        path = get_testdata_file("examples_palette.dcm")
        pixels = read_image(path)
        data = pydicom.dcmread(path)
        expected = pydicom.pixels.apply_color_lut(data.pixel_array, data)
        assert pixels.shape == (*data.pixel_array.shape, 3)
        np.testing.assert_allclose(pixels, expected / 257, atol=0.5)

    def test_16_bit_colour_keeps_the_upper_8_bits(self, tmp_path):
        wide = RNG.integers(0, 65536, (16, 16, 3), dtype=np.uint16)
        pixels = read_image(save(tmp_path / "a", pixels=wide, bits=16))
        assert np.abs(pixels - wide / 257).max() <= 0.5


class TestSyntaxes:
    @pytest.mark.parametrize(
        ("name", "twin"),
        [
            ("MR_small_RLE.dcm", "MR_small.dcm"),
            ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
            ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
            ("MR_small_bigendian.dcm", "MR_small.dcm"),
            ("MR_small_implicit.dcm", "MR_small.dcm"),
        ],
    )
    def test_lossless_ones_equal_their_plain_twin(self, name, twin):
        pytest.importorskip("openjpeg")
        first, second = (read_image(get_testdata_file(n, download=False)) for n in (name, twin))
        np.testing.assert_array_equal(first, second)

    def test_deflated_equals_plain(self, tmp_path):
        data = make()
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        path = save(tmp_path / "a", data)
        np.testing.assert_array_equal(read_image(path), read_image(save(tmp_path / "b")))
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) * 2 // 3])
        with pytest.raises(DataError, match="damaged DICOM"):
            read_image(path)

    def test_jpeg_is_decoded(self, tmp_path):
        smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(smooth).save(buffer, "JPEG", quality=100)
        data = make(pixels=smooth)
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        data.PixelData = encapsulate([buffer.getvalue()])
        data["PixelData"].VR = "OB"
        pixels = read_image(save(tmp_path / "a", data))
        assert np.abs(pixels.astype(int) - smooth).max() <= 4
        data.PixelData = encapsulate([buffer.getvalue()[:200]])
        with pytest.raises(DataError, match="compressed as JPEG Baseline"):
            read_image(save(tmp_path / "b", data))

    def test_a_missing_plugin_is_named_with_its_command(self, tmp_path, monkeypatch):
        # The child finds empty stand-ins before the real decoders.
        for name in ("openjpeg", "libjpeg", "pylibjpeg", "gdcm", "PIL"):
            (tmp_path / f"{name}.py").write_text("raise ImportError")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        close_children()
        data = make(pixels=EIGHT)
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(50)])
        data["PixelData"].VR = "OB"
        with pytest.raises(DataError, match=r"JPEG 2000.*pip install 'diffdx\[dicom\]'"):
            read_image(save(tmp_path / "a", data))
        close_children()

    def test_without_pydicom_the_extra_is_named(self, tmp_path, monkeypatch):
        path = save(tmp_path / "a.dcm")
        monkeypatch.setattr(dicom, "find_spec", lambda name: None)
        for read in (read_image, open_dataset):
            with pytest.raises(ConfigError, match=r"pip install 'diffdx\[dicom\]'"):
                read(path)


class TestDamage:
    def test_pixel_data_too_short_is_told_in_numbers(self, tmp_path):
        data = make()
        data.PixelData = data.PixelData[:1200]
        with pytest.raises(DataError, match="1200 of 1536 bytes of pixel data"):
            read_image(save(tmp_path / "a", data))

    def test_a_file_cut_in_its_pixels_is_refused(self, tmp_path):
        path = save(tmp_path / "a")
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(DataError, match="1036 of 1536 bytes"):
            read_image(path)

    def test_a_file_cut_anywhere_in_its_header_is_refused(self, tmp_path):
        path = save(tmp_path / "a")
        raw = path.read_bytes()
        end = raw.index(struct.pack("<HH", 0x7FE0, 0x0010))
        for cut in range(133, end, 7):
            path.write_bytes(raw[:cut])
            with pytest.raises(DataError, match=r"cut short|damaged|not an image"):
                read_image(path)

    def test_no_preamble_and_no_dicm_are_refused_and_never_forced(self, tmp_path):
        path = save(tmp_path / "a.dcm")
        raw = path.read_bytes()
        path.write_bytes(raw[132:])
        with pytest.raises(DataError, match="without the preamble"):
            read_image(path)
        path.write_bytes(raw[:128] + b"XXXX" + raw[132:])
        with pytest.raises(DataError, match="not an image of a known format"):
            read_image(path)
        with pytest.raises(DataError, match="not a DICOM file"):
            describe_dicom(path)

    @pytest.mark.parametrize("change", [{"Rows": 12}, {"Columns": 16}])
    def test_too_few_rows_are_no_frames(self, tmp_path, change):
        with pytest.raises(DataError, match=r"1536 bytes of pixel data for 1 frames.*is wrong"):
            read_image(save(tmp_path / "a", **change))

    def test_compressed_frames_are_counted(self, tmp_path):
        data = pydicom.dcmread(get_testdata_file("SC_rgb_rle_2frame.dcm", download=False))
        data.NumberOfFrames = 1
        with pytest.raises(DataError, match="2 frames of 1"):
            read_image(save(tmp_path / "a", data))

    def test_deep_nesting_lying_lengths_and_many_tags_end_with_a_reason(self, tmp_path):
        path = save(tmp_path / "a")
        head = begin_of(path)
        nested = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
        nested += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        lying = struct.pack("<HH2sHL", 8, 0x1140, b"UN", 0, 0xFFFFFFF0)
        for content in (nested * 5000, lying, private_tags(50_000)):
            path.write_bytes(head + content)
            with pytest.raises(DataError, match=re.escape(str(path))):
                read_image(path)

    def test_a_million_frames_are_not_decoded(self, tmp_path):
        path = save(tmp_path / "a", NumberOfFrames=1_000_000)
        with pytest.raises(DataError, match="holds 1000000 frames"):
            read_image(path)
        with pytest.raises(DataError, match="1536 of 1536000000 bytes"):
            read_image(path, frame=7)


class TestLimits:
    def test_a_reader_that_takes_too_long_is_stopped_and_the_next_file_read(
        self, tmp_path, monkeypatch
    ):
        path = save(tmp_path / "a")
        expected = read_image(path)
        slow = tmp_path / "slow"
        slow.write_bytes(begin_of(path) + private_tags(200_000))
        monkeypatch.setattr(dicom, "SECONDS", 0.05)
        with pytest.raises(DataError, match=r"took over 0\.05 s and was stopped"):
            read_image(slow)
        monkeypatch.undo()
        np.testing.assert_array_equal(read_image(path), expected)

    def test_memory_has_an_end_and_the_next_file_is_read(self, tmp_path, monkeypatch):
        close_children()
        monkeypatch.setattr(dicom, "MEMORY_BYTES", 1 << 30)
        big = np.zeros((9000, 9000), np.uint16)
        big[0] = 9
        path = save(tmp_path / "big", pixels=big)
        with pytest.raises(DataError, match="died of this file, or it needs over 1 GiB"):
            read_image(path)
        small = save(tmp_path / "small")
        assert read_image(small).shape == DEEP.shape
        close_children()

    def test_a_child_that_dies_costs_one_file(self, tmp_path, monkeypatch):
        path = save(tmp_path / "a")
        read_image(path)
        dicom._idle[os.getpid()][0]._process.kill()
        with pytest.raises(DataError, match="died of this file"):
            read_image(path)
        assert read_image(path).shape == DEEP.shape

    def test_whatever_a_decoder_raises_is_a_reason_without_its_text(self, monkeypatch):
        class PanicError(BaseException):
            pass

        def panic(*arguments):
            raise PanicError(CANARY)

        monkeypatch.setattr(dicom_worker, "describe", panic)
        request = {"task": "describe", "path": b"x".hex(), "identifiers": False}
        reply, pixels = dicom_worker.answer(request)
        assert reply == {"error": "damaged DICOM (PanicError); replace the file"}
        assert pixels == b""

    def test_threads_have_a_child_each_and_all_read_right(self, tmp_path):
        arrays = [RNG.integers(0, 65536, (20, 20), dtype=np.uint16) for _ in range(12)]
        paths = [save(tmp_path / f"{i}", pixels=a, bits=16) for i, a in enumerate(arrays)]
        with ThreadPoolExecutor(3) as pool:
            for array, pixels in zip(arrays, pool.map(read_image, paths), strict=True):
                np.testing.assert_array_equal(pixels, array)
        assert len(dicom._idle[os.getpid()]) <= 4


class TestFrames:
    def test_several_frames_need_a_choice(self, tmp_path):
        stack = RNG.integers(0, 256, (3, 24, 32), dtype=np.uint8)
        data = make(pixels=stack[0], NumberOfFrames=3)
        data.PixelData = stack.tobytes()
        path = save(tmp_path / "a", data)
        with pytest.raises(DataError, match="holds 3 frames; choose one with --frame"):
            read_image(path)
        for frame in range(3):
            np.testing.assert_array_equal(read_image(path, frame=frame), stack[frame])
        with pytest.raises(DataError, match="has no frame 3"):
            read_image(path, frame=3)
        dataset = open_dataset(path, frame=2)
        np.testing.assert_array_equal(dataset.pixels(dataset.records[0]), stack[2])


class TestRecords:
    def test_patients_and_studies_become_hashes(self, tmp_path, monkeypatch):
        data = [make(patient=p, PatientSex="F", PatientAge="045Y") for p in ("1", "1", "2")]
        for i, one in enumerate(data):
            save(tmp_path / f"{i}.dcm", one)
        dataset = open_dataset(tmp_path)
        patients = [r.patient_id for r in dataset.records]
        assert patients[0] == patients[1] != patients[2]
        assert dataset.has_patients
        assert CANARY not in repr(dataset.records) + repr(dataset.warnings)
        assert data[0].StudyInstanceUID not in repr(dataset.records)
        metadata = dataset.records[0].metadata
        assert (metadata["sex"], metadata["age"], metadata["modality"]) == ("F", "45", "DX")
        close_children()
        monkeypatch.setenv("DIFFDX_SALT", "a secret")
        salted = [r.patient_id for r in open_dataset(tmp_path).records]
        assert salted[0] == salted[1] != salted[2]
        assert set(salted).isdisjoint(patients)
        close_children()

    def test_text_of_the_file_enters_no_record_and_no_message(self, tmp_path):
        data = make(PatientSex="M")
        for element in list(data):
            if element.VR in ("LO", "PN", "SH", "LT", "ST", "UT", "AE") and element.value:
                element.value = f"{CANARY}^{element.tag}"
        data.SeriesDescription = data.InstitutionName = f"{CANARY} lateral"
        data.BodyPartExamined = f"{CANARY.lower()} chest of someone"
        data.ViewPosition = "LL"
        path = save(tmp_path / "a.dcm", data)
        dataset = open_dataset(tmp_path)
        assert CANARY.lower() not in repr(dataset.records).lower().replace(str(tmp_path), "")
        raw = path.read_bytes()
        for cut in range(140, len(raw), 97):
            path.write_bytes(raw[:cut])
            with pytest.raises(DataError) as caught:
                read_image(path)
            assert CANARY not in str(caught.value)

    def test_what_is_no_image_is_counted_and_left_out(self, tmp_path):
        for i, storage in enumerate((REPORT, REPORT, PDF, KEY_OBJECTS)):
            data = make(storage=storage)
            del data.PixelData
            save(tmp_path / f"{i}.dcm", data)
        shutil.copy(get_testdata_file("DICOMDIR-empty.dcm", download=False), tmp_path / "DICOMDIR")
        with pytest.raises(DataError, match="no image among"):
            open_dataset(tmp_path)
        save(tmp_path / "x.dcm")
        save(tmp_path / "bare.dcm", make(storage="1.2.3", PixelData=None))
        dataset = open_dataset(tmp_path)
        assert [r.image_id for r in dataset.records] == ["x.dcm"]
        (warning,) = dataset.warnings
        assert "DICOM files are not an image and were skipped" in warning
        assert "2 Basic Text SR Storage" in warning
        assert "1 no pixel data" in warning
        for name in ("0.dcm", "bare.dcm"):
            with pytest.raises(DataError, match="not an image"):
                read_image(tmp_path / name)

    def test_they_mix_with_other_files_and_with_a_table(self, tmp_path):
        save(tmp_path / "a", patient="1")  # no suffix: the content decides
        Image.fromarray(EIGHT).save(tmp_path / "b.png")
        (tmp_path / "c.dcm").write_text("no DICOM at all")
        dataset = open_dataset(tmp_path)
        assert [r.image_id for r in dataset.records] == ["a", "b.png", "c.dcm"]
        assert [r.patient_id is None for r in dataset.records] == [False, True, True]
        with pytest.raises(DataError, match="not an image"):
            dataset.pixels(dataset.records[2])
        table = "path,label,patient_id,view\na,sick,mine,own\nb.png,well,yours,\n"
        (tmp_path / "metadata.csv").write_text(table)
        first = open_dataset(tmp_path).records[0]
        assert (first.patient_id, first.metadata["view"]) == ("mine", "own")
        assert first.metadata["modality"] == "DX"

    def test_a_damaged_header_stays_a_record_and_fails_alone(self, tmp_path):
        save(tmp_path / "a.dcm")
        path = save(tmp_path / "b.dcm")
        path.write_bytes(path.read_bytes()[:300])
        dataset = open_dataset(tmp_path)
        assert len(dataset) == 2
        with pytest.raises(DataError, match=r"b\.dcm"):
            dataset.pixels(dataset.records[1])

    def test_the_same_name_in_two_folders_and_the_same_uid_give_two_rows(self, tmp_path):
        data = make()
        for folder in ("x", "y"):
            (tmp_path / folder).mkdir()
            save(tmp_path / folder / "1.dcm", data)
        dataset = open_inputs([tmp_path / "x", tmp_path / "y"])
        assert len({r.image_id for r in dataset.records}) == 2
        (warning,) = open_dataset(tmp_path).warnings
        assert "1 DICOM files repeat the SOP instance UID" in warning

    def test_burned_in_text_is_warned_of_and_refused_on_request(self, tmp_path):
        save(tmp_path / "a.dcm", BurnedInAnnotation="YES")
        save(tmp_path / "b.dcm", storage=SECONDARY)
        save(tmp_path / "c.dcm", BurnedInAnnotation="NO")
        dataset = open_dataset(tmp_path)
        assert "2 DICOM images may show burned-in text" in dataset.warnings[0]
        cautions = [r.caution for r in dataset.records]
        assert cautions == [
            "burned-in text: declared",
            "burned-in text: possible: secondary capture",
            None,
        ]
        strict = open_inputs([tmp_path], refuse_burned_in=True)
        for record in strict.records[:2]:
            with pytest.raises(DataError, match="text may be burned into the image"):
                strict.pixels(record)
        assert strict.pixels(strict.records[2]).shape == DEEP.shape

    @pytest.mark.parametrize(
        ("elements", "reason"),
        [
            ({"ViewPosition": "LL"}, "lateral view"),
            ({"SeriesDescription": "Chest lat."}, "lateral view"),
            ({"Modality": "CT"}, "modality CT"),
            ({"PresentationIntentType": "FOR PROCESSING"}, "raw detector values (for processing)"),
            ({"ViewPosition": "PA"}, None),
        ],
    )
    def test_what_is_out_of_scope_is_flagged(self, tmp_path, elements, reason):
        dataset = open_dataset(save(tmp_path / "a.dcm", **elements))
        assert dataset.records[0].metadata.get("out_of_scope") == reason
        assert any("OUT OF SCOPE" in w for w in dataset.warnings) == (reason is not None)

    @pytest.mark.parametrize("program", [b"MZ", b"\x7fELF"])
    def test_a_program_in_the_preamble_is_warned_of(self, tmp_path, program):
        path = save(tmp_path / "a.dcm")
        raw = path.read_bytes()
        path.write_bytes(program.ljust(128, b"\0") + raw[128:])
        dataset = open_dataset(path)
        assert "1 DICOM files carry a program" in dataset.warnings[0]
        assert dataset.pixels(dataset.records[0]).shape == DEEP.shape
