"""The maps of an explained image as DICOM Secondary Captures: RGB, each with its legend below.

Only maps over the image itself are made. A generated picture, a counterfactual for instance, would
be a radiograph that no one ever took, filed among a patient's own: it stays out of the archive.
"""

import textwrap
from importlib.metadata import version
from pathlib import Path

import highdicom as hd
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from diffdx._notice import NOTICE
from diffdx.report.dicom_source import (
    SOFTWARE,
    derived_uid,
    equipment,
    file_beside,
    identifiers_kept,
)

SERIES_NUMBER = 9002
WIDTH_PX = 768
"""Maps are enlarged to at least this width, so that their legend can be read."""
_TEXT_PX = 16
_LINE_PX = 22
_CHARACTERS = 84

Picture = UInt8[np.ndarray, "H W 3"]


def secondary_capture(
    path: Path, source: Dataset, drawn: Picture, legend: str, number: int, model_sha256: str
) -> Dataset:
    """Return a map as an image of the source's study.

    Args:
        path: Of the source, for error messages.
        source: As `read_source` returns it.
        drawn: The map over the image.
        legend: What it shows, in words.
        number: Of the image within its series, from 1.
        model_sha256: Of the model that explains.

    Raises:
        DataError: if the object cannot be built.
    """
    text = f"{legend} {NOTICE} {SOFTWARE} {version(SOFTWARE)}, model {model_sha256[:12]}."
    pixels = with_legend(drawn, text)
    with identifiers_kept(path):
        capture = hd.sc.SCImage(
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),
            study_instance_uid=source.StudyInstanceUID,
            series_instance_uid=derived_uid(source, "maps", model_sha256),
            series_number=SERIES_NUMBER,
            sop_instance_uid=derived_uid(source, text, pixels.tobytes().hex()),
            instance_number=number,
            series_description=f"{SOFTWARE} maps, research use only",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **equipment(model_sha256),
        )
        _refer(capture, source, text)
        file_beside(capture, source)
    return capture


def with_legend(drawn: Picture, text: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture enlarged by a whole factor, with lines of text on black below it."""
    factor = -(-WIDTH_PX // drawn.shape[1])
    large = drawn.repeat(factor, axis=0).repeat(factor, axis=1)
    lines = textwrap.wrap(text, _CHARACTERS * large.shape[1] // WIDTH_PX)
    strip = Image.new("RGB", (large.shape[1], _LINE_PX * len(lines) + _LINE_PX // 2))
    ImageDraw.Draw(strip).multiline_text(
        (8, 4),
        "\n".join(lines),
        font=ImageFont.load_default(_TEXT_PX),
        fill="white",
        spacing=_LINE_PX - _TEXT_PX,
    )
    return np.concatenate([large, np.asarray(strip)])


def _refer(capture: Dataset, source: Dataset, text: str) -> None:
    """Say what the capture was made of, and what of the image's own description still holds."""
    capture.ConversionType = "WSD"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.DerivationDescription = text
    # The map has the image's orientation, and whatever text the image shows.
    capture.PatientOrientation = source.get("PatientOrientation")
    for name in ("BurnedInAnnotation", "BodyPartExamined", "Laterality"):
        if name in source:
            setattr(capture, name, source.get(name))
    if "BodyPartExamined" not in capture and "Laterality" not in capture:
        capture.Laterality = ""  # the standard's way to say that the side is not known
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    reference.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(purpose)]
    capture.SourceImageSequence = [reference]
