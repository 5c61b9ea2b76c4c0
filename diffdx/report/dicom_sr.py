"""A classified image as a DICOM structured report: TID 1500, Measurement Report.

    Imaging Measurement Report
      Observer: this software and its version, the model by its hash
      Procedure reported: imaging
      Imaging measurements
        Measurement group, about the source image
          algorithm     name, version, decision rule, trials, model hash
          evaluations   predicted class, conformal set, triage, out of distribution, cautions, and
                        that it is for research use only
          measurements  vote share of each class, its calibrated probability, entropy, trials

What a row of the prediction table does not have, an uncalibrated run's probabilities for instance,
is left out of the report. The report is preliminary and unverified. Concepts that DICOM has no code
for are coded in a private scheme, a class by the hash of its name.
"""

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from diffdx._notice import NOTICE
from diffdx.report.dicom_source import (
    SOFTWARE,
    derived_uid,
    equipment,
    file_beside,
    identifiers_kept,
    without_patient,
)

SCHEME = "99DIFFDX"
SERIES_NUMBER = 9001
_LONGEST_MEANING = 64
_DIGITS = 6
"""Beyond them, one result computed twice differs, and would get two UIDs."""
_IMAGING = Code("363679005", "SCT", "Imaging")
_BIT = Code("bit", "UCUM", "bit")
_YES_NO = {"yes": codes.SCT.Yes, "no": codes.SCT.No}


def structured_report(
    path: Path, source: Dataset, row: Mapping[Hashable, Any], settings: Mapping[str, Any]
) -> Dataset:
    """Return the report of one classified image, to be filed in the study of its source.

    Args:
        path: Of the source, for error messages.
        source: As `read_source` returns it.
        row: Of the prediction table, with status ok.
        settings: The folder's `classify.json`; `alpha` and `prevalence` too if it is calibrated.

    Raises:
        DataError: if the report cannot be built.
    """
    classes = [str(name) for name in settings["classes"]]
    parameters = _parameters(settings)
    measured, evaluated = list(_measured(row, classes)), list(_evaluated(row, classes))
    said = [*parameters, *measured, *evaluated]
    with identifiers_kept(path):
        blank = without_patient(source)
        group = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=derived_uid(source, "tracking", *said), identifier="classification"
            ),
            algorithm_id=sr.AlgorithmIdentification(
                SOFTWARE, version(SOFTWARE), parameters=parameters
            ),
            measurements=[
                sr.Measurement(name=_concept(name), value=value, unit=unit)
                for name, value, unit in measured
            ],
            qualitative_evaluations=[
                sr.QualitativeEvaluation(name=_concept(name), value=_concept(value))
                for name, value in evaluated
            ],
            source_images=[
                sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
            ],
        )
        content = sr.MeasurementReport(
            observation_context=_observer(source, settings),
            procedure_reported=_IMAGING,
            imaging_measurements=[group],
        )
        report = sr.EnhancedSR(
            evidence=[blank],
            content=content[0],
            series_instance_uid=derived_uid(source, "report series", *said),
            series_number=SERIES_NUMBER,
            sop_instance_uid=derived_uid(source, "report", *said),
            instance_number=1,
            is_complete=True,
            series_description=f"{SOFTWARE} report, research use only",
            coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name=SOFTWARE)],
            **equipment(settings["model_sha256"]),
        )
        file_beside(report, source)
    return report


def _observer(source: Dataset, settings: Mapping[str, Any]) -> sr.ObservationContext:
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid(source, "observer", settings["model_sha256"]),
        name=SOFTWARE,
        model_name=f"{SOFTWARE} {version(SOFTWARE)}",
        serial_number=settings["model_sha256"],
    )
    device = sr.ObserverContext(codes.DCM.Device, attributes)
    return sr.ObservationContext(observer_device_context=device)


def _parameters(settings: Mapping[str, Any]) -> list[str]:
    """Return what decided, as `name = value`, in the names of `classify.json`."""
    names = ("rule", "space", "trials", "stop", "seed", "alpha", "prevalence", "model_sha256")
    return [f"{name} = {settings[name]}" for name in names if settings.get(name) is not None]


def _measured(
    row: Mapping[Hashable, Any], classes: Sequence[str]
) -> Iterator[tuple[str, float, Code]]:
    """Yield name, value and unit of each number that is known."""
    chosen, one = row["prediction"], codes.UCUM.NoUnits
    wanted = [
        *((f"vote_share_{name}", f"Vote share of {name}", one) for name in classes),
        *((f"score_{name}", f"Softmax score of {name}", one) for name in classes),
        *((f"prob_{name}", f"Calibrated probability of {name}", one) for name in classes),
        ("share_low", f"Vote share of {chosen}, lower 95% bound", one),
        ("share_high", f"Vote share of {chosen}, upper 95% bound", one),
        ("entropy_bits", "Entropy over the classes", _BIT),
        ("ood_p_value", "p value of being like the calibration images", one),
        ("trials_used", "Trials", one),
    ]
    for column, name, unit in wanted:
        value: Any = row.get(column)
        if not _is_known(value):
            continue
        if column != "trials_used":
            yield name, round(float(value), _DIGITS), unit
        elif value:  # a baseline has none
            yield name, int(value), unit


def _evaluated(row: Mapping[Hashable, Any], classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of what is said in words."""
    yield "Intended use", NOTICE
    yield "Predicted class", str(row["prediction"])
    if not any(_is_known(row.get(f"prob_{name}")) for name in classes):
        yield "Probability", "not calibrated: scores are no probabilities"
    if _is_known(row.get("set")):
        inside = str(row["set"]).strip("{}").split(", ")
        members = [name for name in classes if name in inside]
        for value in members or ["no class: refer"]:
            yield "In the conformal set", value
    if _is_known(row.get("triage")):
        yield "Triage", str(row["triage"])
    if _is_known(row.get("ood")):
        yield "Out of distribution", "yes" if row["ood"] else "no"
    if _is_known(row.get("caution")):
        yield "Caution", str(row["caution"])


def _is_known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def _concept(meaning: str) -> Code:
    """Return DICOM's code for yes or no, else a private one, the same for the same meaning."""
    if meaning in _YES_NO:
        return _YES_NO[meaning]
    value = hashlib.sha256(meaning.encode()).hexdigest()[:16]
    return Code(value, SCHEME, meaning[:_LONGEST_MEANING])
