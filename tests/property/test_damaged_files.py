"""Whatever is done to a file, reading it gives pixels or a DataError, and soon (faults 1 to 25)."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffdx.data import read_image
from diffdx.data.dicom import is_dicom, lacks_preamble
from diffdx.data.images import MAX_ASPECT, MIN_SIDE_PX
from diffdx.data.tables import parse_table
from diffdx.errors import DataError

MAX_PIXELS = 10_000
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["set", "cut", "drop", "double"]), st.binary()),
    max_size=6,
)


def encoded(kind, pixels=NOISE, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "png": encoded("PNG"),
    "deep png": encoded("PNG", NOISE.astype(np.uint16) * 257),
    "jpeg": encoded("JPEG"),
    "tiff": encoded("TIFF", compression="tiff_lzw"),
    "bmp": encoded("BMP", np.stack([NOISE] * 3, axis=-1)),
}


def damaged(content, edits):
    """Apply edits at relative places: set bytes, cut the rest, drop or double some bytes."""
    for place, kind, new in edits:
        at = int(place * len(content))
        if kind == "set":
            content = content[:at] + new + content[at + len(new) :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + max(1, len(new)) :]
        else:
            content = content[: at + len(new)] + content[at:]
    return content


def check(path):
    pixels, refusal = None, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = read_image(path, max_pixels=MAX_PIXELS)
    except DataError as error:
        refusal = str(error)
    if pixels is None:
        assert str(path) in refusal
        assert "\n" not in refusal
        return
    height, width = pixels.shape[:2]
    assert pixels.dtype in (np.uint8, np.uint16)
    assert pixels.ndim == 2 or pixels.shape[2] == 3
    assert height * width <= MAX_PIXELS
    assert min(height, width) >= MIN_SIDE_PX
    assert max(height, width) <= MAX_ASPECT * min(height, width)
    assert pixels.min() < pixels.max()


relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("kind", FILES)
@relaxed
@given(edits=EDITS)
def test_damaged_pictures(tmp_path, kind, edits):
    path = tmp_path / "image"
    path.write_bytes(damaged(FILES[kind], edits))
    check(path)


@relaxed
@given(edits=EDITS)
def test_damaged_dicom(tmp_path, edits):
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    source = pydicom.data.get_testdata_file("dicomdirtests/77654033/CR2/6247", download=False)
    with open(source, "rb") as file:
        content = damaged(file.read(), edits)
    path = tmp_path / "image"
    path.write_bytes(content)
    check(path)


@relaxed
@given(head=st.binary(max_size=200))
def test_any_beginning_is_judged(head):
    assert is_dicom(head) == (head[128:132] == b"DICM")
    assert not is_dicom(head[:131])
    assert not lacks_preamble(head[:5])


@relaxed
@given(content=st.binary(max_size=300))
def test_any_bytes_as_a_table(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    try:
        table = parse_table(path)
    except DataError:
        return
    assert all(row.keys() == set(table.columns) for _, row in table.rows)
