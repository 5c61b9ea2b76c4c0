"""What every test needs: a cache of its own, so that none reads or writes the user's."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CANARY_TAGS = (
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientNames",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientComments",
    "PatientMotherBirthName",
    "EthnicGroup",
    "Occupation",
    "MilitaryRank",
    "AdditionalPatientHistory",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "ReferringPhysicianName",
    "SeriesDescription",
    "ProtocolName",
    "PerformingPhysicianName",
    "OperatorsName",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "ImageComments",
    "AcquisitionDeviceProcessingDescription",
    "RequestedProcedureDescription",
    "PerformedProcedureStepDescription",
    "PerformedProcedureStepID",
)
"""Text tags of a radiograph that hold a name or may be made to."""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of downloads and prepared images, also of the commands that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DIFFDX_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def radiograph() -> Callable[..., Any]:
    """Return a function that makes a DX image whose text tags are all canaries, one each."""
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sr.codedict import codes
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    def code(meaning: Any) -> list[Dataset]:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = meaning.value, meaning.scheme_designator
        item.CodeMeaning = meaning.meaning
        return [item]

    def make(pixels: np.ndarray, path: Path, **elements: Any) -> Dataset:
        """Write 8 bit grey pixels as a radiograph; `elements` replace its own."""
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SpecificCharacterSet = "ISO_IR 192"
        image.SOPClassUID = DigitalXRayImageStorageForPresentation
        image.SOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
        for number, name in enumerate(CANARY_TAGS):
            setattr(image, name, f"CANARY{number:02d}")
        image.PatientName = "CANARY^Zoë^^Dr"
        image.PatientBirthDate, image.PatientBirthTime = "19000203", "010203"
        image.PatientSex, image.PatientAge = "O", "099Y"
        image.StudyDate, image.StudyTime = "19990102", "030405"
        image.add_new((0x0009, 0x0010), "LO", "CANARY90")
        image.add_new((0x0009, 0x1001), "LO", "CANARY91")
        image.Modality, image.PresentationIntentType = "DX", "FOR PRESENTATION"
        image.SeriesNumber, image.InstanceNumber = 1, 1
        image.ContentDate, image.ContentTime = image.StudyDate, image.StudyTime
        image.ImageType = ["ORIGINAL", "PRIMARY", ""]
        image.BodyPartExamined, image.ViewPosition = "CHEST", "PA"
        image.PatientOrientation, image.ImageLaterality = ["L", "F"], "U"
        image.AnatomicRegionSequence = code(codes.SCT.Chest)
        image.ImagerPixelSpacing, image.PositionerType = [1, 1], "NONE"
        image.PixelIntensityRelationship, image.PixelIntensityRelationshipSign = "LIN", 1
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "US"
        image.PresentationLUTShape, image.LossyImageCompression = "IDENTITY", "00"
        image.BurnedInAnnotation, image.DetectorType = "NO", "DIRECT"
        image.WindowCenter, image.WindowWidth = 128, 256
        image.AcquisitionContextSequence = []
        image.ViewCodeSequence = code(codes.SCT.PosteroAnterior)
        image.ViewCodeSequence[0].ViewModifierCodeSequence = []
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = pixels.shape
        image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
        image.PixelRepresentation = 0
        image.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
        for name, value in elements.items():
            setattr(image, name, value)
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(path, enforce_file_format=True)
        return image

    return make


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Return a function that makes a diffusion model of 16 px, not trained, always the same."""

    def make(*classes: str, hears_class: bool = False) -> Any:
        """Return a model whose last class is the positive one."""
        import torch

        from diffdx.backbones.model import DiffusionModel
        from diffdx.config import DataConfig, ModelConfig, UNetConfig

        torch.manual_seed(0)
        unet = UNetConfig(channels=(8,), attention=False, norm_groups=4)
        config = ModelConfig(data=DataConfig(image_size=16), backbone=unet)
        model = DiffusionModel(config, classes, classes[-1])
        if hears_class:
            for parameter in model.denoiser.parameters():
                # A fresh network ignores the class: its last layers are zero.
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return make
