"""A coverage-guided fuzz run over the entry points that read strangers' files; needs atheris.

    python benchmarks/fuzzing.py [--seconds 60] [--memory-mib 2048]

Mutates valid PNG, JPEG, TIFF, BMP and DICOM files and hands them to `read_image` and, for DICOM, to
the decoder itself, in this process and not in its child, so that its coverage guides the run. Ends
with the first exception other than the documented ones, or with a libFuzzer report of a crash, a
hang of 20 s or memory above the limit. Prints executions and peak memory.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["diffdx.data", "pydicom", "PIL"]):
    import pydicom
    from PIL import Image
    from pydicom.data import get_testdata_file

    from diffdx.data import dicom_worker
    from diffdx.data.images import read_image
    from diffdx.errors import DataError

DICOM_SEEDS = (
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "image_dfl.dcm",
    "reportsi.dcm",
    "nested_priv_SQ.dcm",
    "dicomdirtests/77654033/CR2/6247",
)
MAX_PIXELS = 300_000


def seeds(folder: Path) -> None:
    """Write one small valid file of each kind."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        (folder / kind).write_bytes(buffer.getvalue())
    for i, name in enumerate(DICOM_SEEDS):
        found = get_testdata_file(name, download=False)
        if found:
            (folder / f"dicom-{i}").write_bytes(Path(str(found)).read_bytes())


def read(content: bytes) -> None:
    """Read one file by every entry point; any exception but a refusal is a finding."""
    path = Path(tempfile.gettempdir()) / f"diffdx-fuzz-{os.getpid()}"
    path.write_bytes(content)
    if content[128:132] == b"DICM":
        name = os.fsencode(path).hex()
        for task in ("describe", "decode"):
            request = {"task": task, "path": name, "frame": None, "max_pixels": MAX_PIXELS}
            reply, pixels = dicom_worker.answer(request)
            json.dumps(reply)
            if "shape" in reply and len(pixels) > 6 * MAX_PIXELS:
                raise AssertionError("more pixels than the limit")
        return
    with suppress(DataError):
        read_image(path, max_pixels=MAX_PIXELS)


def main() -> None:
    """Run the fuzzer; it does not return."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--memory-mib", type=int, default=2048)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    pydicom.config.logger.setLevel("CRITICAL")
    corpus = Path(tempfile.mkdtemp(prefix="diffdx-fuzz-"))
    seeds(corpus)
    limits = [
        f"-max_total_time={options.seconds}",
        f"-rss_limit_mb={options.memory_mib}",
        "-timeout=20",
        "-max_len=60000",
        "-print_final_stats=1",
        f"-artifact_prefix={corpus}/found-",
    ]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
