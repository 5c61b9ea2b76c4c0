"""Reads DICOM files in a process of its own, within the limits that its parent sets.

Run by `data.dicom`, never imported by it: it needs pydicom and NumPy alone. A request is JSON, the
reply is JSON and, for pixels, their bytes. No text of the file enters a reply except coded values
of few letters; identifiers leave as hashes, the patient's ID as it is only where that is asked for.

Order of the steps (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2):

    stored values -> modality LUT or rescale -> VOI LUT or first window -> MONOCHROME1 inverted

| range before the last step | becomes 0 .. 65535                                                |
|----------------------------|-------------------------------------------------------------------|
| window                     | its lower to its upper edge; what lies outside is clipped          |
| VOI LUT, modality LUT      | what its number of bits can hold                                  |
| neither                    | what the stored bits can hold, through the rescale                |

Grey images of 8 bits without LUT, rescale and window stay uint8, as does colour; colour of 16 bits
keeps the upper 8.
"""

import hashlib
import io
import json
import os
import re
import resource
import sys
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

PIXEL_TAGS = {b"\xe0\x7f\x08\x00", b"\xe0\x7f\x09\x00", b"\xe0\x7f\x10\x00"}
PIXEL_TAGS |= {tag[1::-1] + tag[:1:-1] for tag in PIXEL_TAGS}
HEADER = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "Modality",
    "ViewPosition",
    "BodyPartExamined",
    "SeriesDescription",
    "PresentationIntentType",
    "BurnedInAnnotation",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
]
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
SECONDARY_CAPTURE = "Secondary Capture"
CROSS_SECTIONS = frozenset({"CT", "MR", "PT", "NM", "US", "IVUS", "OCT", "OPT", "ST"})
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_LATERAL = re.compile(r"\b(LL|RL|LLD|RLD|LAT|LATERAL)\b")

Values = npt.NDArray[np.float64]


class RefusedError(Exception):
    """A file that is not taken, with a reason that names no one."""


class _Watched(io.BufferedReader):
    """A file that notices reads beyond its end: pydicom takes a file cut short for whole."""

    short = False
    empty_reads = 0

    def read(self, size: int | None = -1) -> bytes:
        got = super().read(size)
        if size is not None and size > 0 and len(got) < size:
            self.short = self.short or bool(got)
            self.empty_reads += not got
        return got

    @property
    def is_cut(self) -> bool:
        beyond = self.tell() > os.fstat(self.fileno()).st_size
        return self.short or self.empty_reads > 1 or beyond


def describe(path: str, identifiers: bool) -> dict[str, Any]:
    """Return what is known of the file without its pixels.

    Args:
        path: The file.
        identifiers: Give the patient's ID in place of its hash.

    Returns:
        `other`: None for an image, else what the file is. `patient`, `study`, `instance`: hashes or
        None. `facts`: coded values by name.
    """
    with _Watched(io.FileIO(path)) as file:
        data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*HEADER])
        deflated = data.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
        if deflated:
            file.seek(0)
            data = pydicom.dcmread(file)
            has_pixels = "PixelData" in data
        else:
            has_pixels = file.peek(4)[:4] in PIXEL_TAGS
            if not has_pixels and file.is_cut:
                raise RefusedError("cut short inside the header; fetch the file again")
    storage = _storage(data)
    other = None
    if (storage and "Image Storage" not in storage) or not has_pixels:
        other = storage or "no pixel data"
    return {
        "other": other,
        "patient": _text(data.get("PatientID")) if identifiers else _hashed(data.get("PatientID")),
        "study": _hashed(data.get("StudyInstanceUID")),
        "instance": _hashed(data.get("SOPInstanceUID")),
        "facts": {} if other else _facts(data, storage),
    }


def decode(path: str, frame: int | None, max_pixels: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the pixels by the rules at the head of this module.

    Raises:
        RefusedError: if the file is no image, is damaged, has several frames and none is chosen, or
            declares values that leave the pixels undefined.
    """
    with _Watched(io.FileIO(path)) as file:
        data = pydicom.dcmread(file)
        cut = file.is_cut
    storage = _storage(data)
    if "PixelData" not in data:
        if cut:
            raise RefusedError("cut short inside the header; fetch the file again")
        raise RefusedError(f"not an image ({storage or 'no pixel data'}); remove it from the input")
    _check_header(data, max_pixels)
    chosen = _choose_frame(data, frame)
    _check_length(data, cut)
    try:
        stored = pixel_array(data, index=chosen)
    except RuntimeError as error:  # raised for want of a decoder, or after all have failed
        name = data.file_meta.TransferSyntaxUID.name
        if "missing dependencies" in str(error):
            advice = "no decoder is installed for it; pip install 'diffdx[dicom]'"
        else:
            advice = "damaged, or of a kind that no decoder here knows; decompress the file"
        raise RefusedError(f"compressed as {name}: {advice}") from None
    if data.PhotometricInterpretation in GREY:
        return _grey(data, stored)
    return _colour(data, stored)


def _storage(data: Dataset) -> str:
    """Return the name of what kind of object the file says it is; empty if it does not."""
    uid = data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID") or ""
    name = UID(str(uid)).name
    return "" if name == str(uid) else name


def _text(value: object) -> str | None:
    return str(value or "").strip() or None


def _hashed(value: object) -> str | None:
    text, salt = _text(value), os.environ.get("DIFFDX_SALT", "")
    return text and hashlib.sha256(f"{salt}{text}".encode()).hexdigest()[:16]


def _facts(data: Dataset, storage: str) -> dict[str, str]:
    coded = {
        "modality": data.get("Modality"),
        "view": data.get("ViewPosition"),
        "body_part": data.get("BodyPartExamined"),
        "sex": data.get("PatientSex"),
        "age": data.get("PatientAge"),
    }
    facts = {k: str(v).strip() for k, v in coded.items() if v and _CODE.fullmatch(str(v).strip())}
    if re.fullmatch(r"\d{3}Y", facts.get("age", "")):
        facts["age"] = str(int(facts["age"][:3]))
    if data.get("BurnedInAnnotation") == "YES":
        facts["burned_in"] = "declared"
    elif SECONDARY_CAPTURE in storage:
        facts["burned_in"] = "possible: secondary capture"
    described = f"{data.get('ViewPosition')} {data.get('SeriesDescription')}".upper()
    if facts.get("modality") in CROSS_SECTIONS:
        facts["out_of_scope"] = f"modality {facts['modality']}"
    elif _LATERAL.search(described):
        facts["out_of_scope"] = "lateral view"
    elif data.get("PresentationIntentType") == "FOR PROCESSING":
        facts["out_of_scope"] = "raw detector values (for processing)"
    return facts


def _check_header(data: Dataset, max_pixels: int) -> None:
    kind = data.get("PhotometricInterpretation")
    if kind not in GREY + COLOUR:
        raise RefusedError(f"photometric interpretation is none of {', '.join(GREY + COLOUR)}")
    if data.get("BitsAllocated") not in (8, 16):
        raise RefusedError(f"{data.get('BitsAllocated')} bits allocated; expected 8 or 16")
    if not 0 < data.get("BitsStored", 0) <= data.BitsAllocated:
        raise RefusedError(
            f"{data.get('BitsStored')} bits stored of {data.BitsAllocated} allocated"
        )
    samples = 1 if kind in (*GREY, "PALETTE COLOR") else 3
    if data.get("SamplesPerPixel", samples) != samples:
        raise RefusedError(f"{data.SamplesPerPixel} samples per pixel; expected {samples}")
    rows, columns = data.get("Rows") or 0, data.get("Columns") or 0
    if not 0 < rows * columns <= max_pixels:
        raise RefusedError(
            f"{columns} x {rows} pixels; expected 1 to {max_pixels}: scale the image down"
        )
    if "PerFrameFunctionalGroupsSequence" in data or "SharedFunctionalGroupsSequence" in data:
        raise RefusedError(
            "an enhanced object, whose windows differ by frame; export its frames as single images"
        )


def _choose_frame(data: Dataset, frame: int | None) -> int:
    count = int(data.get("NumberOfFrames") or 1)
    if frame is None and count > 1:
        raise RefusedError(f"holds {count} frames; choose one with --frame N")
    if frame is not None and not 0 <= frame < count:
        raise RefusedError(f"has no frame {frame}; --frame must be from 0 to {count - 1}")
    return frame or 0


def _check_length(data: Dataset, cut: bool) -> None:
    """Check that the pixel data are what the header announces, no less and no more."""
    count = int(data.get("NumberOfFrames") or 1)
    if data.file_meta.TransferSyntaxUID.is_encapsulated:
        found = pydicom.encaps.parse_basic_offsets(data.PixelData)
        frames = len(found) or 1
        if cut or (found and frames != count):
            raise RefusedError(f"{frames} frames of {count} in the pixel data; fetch it again")
        return
    bits = data.Rows * data.Columns * data.get("SamplesPerPixel", 1) * data.BitsAllocated * count
    expected = bits // 8
    if data.PhotometricInterpretation == "YBR_FULL_422":
        expected = expected * 2 // 3
    found_bytes = len(data.PixelData)
    if found_bytes < expected:
        raise RefusedError(f"{found_bytes} of {expected} bytes of pixel data; fetch it again")
    if found_bytes > expected + expected % 2:
        raise RefusedError(
            f"{found_bytes} bytes of pixel data for {count} frames of {data.Columns} x "
            f"{data.Rows}, {expected} bytes: Rows, Columns or NumberOfFrames is wrong"
        )


def _grey(data: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.unsignedinteger[Any]]:
    values, low, high, rescaled = _modality(data, stored)
    shares, windowed = _window(data, values, low, high)
    plain = data.BitsStored <= 8 and not rescaled and not windowed
    top = 255 if plain else 65535
    np.clip(shares, 0, 1, out=shares)
    shares *= top
    np.rint(shares, out=shares)
    if data.PhotometricInterpretation == "MONOCHROME1":
        np.subtract(top, shares, out=shares)
    return shares.astype(np.uint8 if plain else np.uint16)


def _modality(data: Dataset, stored: npt.NDArray[Any]) -> tuple[Values, float, float, bool]:
    """Return values after the modality step, their possible range, and if there was such a step."""
    bits = int(data.BitsStored)
    low, high = (
        (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
        if data.PixelRepresentation
        else (
            0.0,
            2.0**bits - 1,
        )
    )
    if data.get("ModalityLUTSequence"):
        return *_look_up(stored, data.ModalityLUTSequence[0], data), True
    slope, intercept = _number(data, "RescaleSlope", 1.0), _number(data, "RescaleIntercept", 0.0)
    if slope == 0:
        raise RefusedError("RescaleSlope is 0: every pixel would be the same; correct the header")
    edges = sorted((low * slope + intercept, high * slope + intercept))
    values = stored.astype(np.float64)
    values *= slope
    values += intercept
    return values, edges[0], edges[1], (slope, intercept) != (1, 0)


def _window(data: Dataset, values: Values, low: float, high: float) -> tuple[Values, bool]:
    """Return values as shares of the range that is shown, and whether the file declares one.

    y = (x - (c - 1/2)) / (w - 1) + 1/2      LINEAR            (PS3.3 C.11.2.1.2, C.11.2.1.3)
    y = (x - c) / w + 1/2                    LINEAR_EXACT
    y = 1 / (1 + exp(-4 (x - c) / w))        SIGMOID
    """
    if data.get("VOILUTSequence"):
        shown, low, high = _look_up(values, data.VOILUTSequence[0], data)
        return shown / high, True
    if data.get("WindowWidth") is None or data.get("WindowCenter") is None:
        values -= low
        values /= high - low
        return values, False
    function = data.get("VOILUTFunction") or "LINEAR"
    centre, width = _number(data, "WindowCenter", 0.0), _number(data, "WindowWidth", 0.0)
    least = 1.0 if function == "LINEAR" else 0.0
    if width < least or width == 0:
        raise RefusedError(f"WindowWidth is {width:g}; expected more than {least:g}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))), True
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5, True
    if width == 1:
        return (values > centre - 0.5).astype(np.float64), True
    return (values - (centre - 0.5)) / (width - 1) + 0.5, True


def _look_up(
    values: npt.NDArray[Any], table: Dataset, data: Dataset
) -> tuple[Values, float, float]:
    """Return the table's entries for the values, and the range of its bits.

    pydicom 3 counts places in an 8 bit table in 8 bits, which wraps: hence not its function.
    """
    count, first, bits = (int(number) for number in table.LUTDescriptor)
    count = count or 65536
    content = table.LUTData
    if isinstance(content, bytes):
        order = "<" if data.original_encoding[1] else ">"
        content = np.frombuffer(content, dtype=f"{order}u{max(1, len(content) // count)}")
    entries = np.atleast_1d(np.asarray(content, dtype=np.float64))
    if len(entries) < count or not 1 <= bits <= 16:
        raise RefusedError(f"a lookup table has {len(entries)} of {count} entries, {bits} bits")
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)
    return entries[places], 0.0, 2.0**bits - 1


def _number(data: Dataset, name: str, default: float) -> float:
    """Return the first value of an element."""
    value = data.get(name)
    if value is None or value == "":
        return default
    first = value if isinstance(value, int | float | str) else value[0]
    number = float(first)
    if not np.isfinite(number):
        raise RefusedError(f"{name} is {number}; correct the header")
    return number


def _colour(data: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if data.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, data)
        bits = int(data.RedPaletteColorLookupTableDescriptor[2])
    else:
        bits = int(data.BitsStored)
    if stored.dtype.itemsize == 1 and bits == 8:
        return cast("npt.NDArray[np.uint8]", stored.astype(np.uint8))
    scaled = stored.astype(np.float64) * (255 / (2**bits - 1))
    return cast("npt.NDArray[np.uint8]", np.rint(np.clip(scaled, 0, 255)).astype(np.uint8))


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return the reply to one request and the pixels that belong to it."""
    path = os.fsdecode(bytes.fromhex(request["path"]))
    try:
        if request["task"] == "describe":
            return describe(path, request["identifiers"]), b""
        pixels = decode(path, request["frame"], request["max_pixels"])
        return {"shape": pixels.shape, "dtype": pixels.dtype.name}, pixels.tobytes()
    except RefusedError as error:
        return {"error": str(error)}, b""
    except InvalidDicomError:
        return {"error": "not a DICOM file: no preamble; write it again with one"}, b""
    except MemoryError:
        return {"error": "needs more memory than allowed; scale the image down", "fatal": True}, b""
    except RecursionError:
        return {"error": "damaged DICOM (nested too deep); replace the file"}, b""
    # A panic in a decoder written in Rust is no Exception. The libraries' own texts may quote the
    # file: they stay here.
    except BaseException as error:
        return {"error": f"damaged DICOM ({type(error).__name__}); replace the file"}, b""


def serve(connection: Connection) -> None:
    """Answer requests until the parent is gone."""
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        reply, pixels = answer(request)
        connection.send_bytes(json.dumps(reply).encode())
        if "shape" in reply:
            connection.send_bytes(pixels)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
    serve(Connection(int(sys.argv[1])))
