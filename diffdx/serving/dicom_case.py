"""One received image, from file to DICOM objects: what `classify`, `explain` and `dicom write` do.

    image.dcm -> predictions/ -> explanations/ -> objects/KEY/*.dcm

The folders are those that the commands write, and go when the results are sent.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from diffdx._device import resolve_device, resolve_precision
from diffdx.backbones.classifiers import Baseline
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.denoising_errors import resolve_batch_size
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.supervised import SupervisedSettings, classify_supervised
from diffdx.data import open_dataset
from diffdx.data.dataset import Dataset
from diffdx.errors import DataError
from diffdx.explain.counterfactual import EditSettings
from diffdx.explain.explainer import Explainer, ExplainSettings
from diffdx.explain.folder import ExplanationFolder
from diffdx.explain.predicted import Predicted
from diffdx.report.dicom_folder import write_objects
from diffdx.uncertainty.annotate import annotate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseReader:
    """A model, and how it reads images one at a time.

    Attributes:
        run: Where its calibration lies.
        model: Of either kind.
        settings: Of the model's kind; with `evidence`, maps are made, against the class with the
            next most votes.
        prevalence: As after `--prevalence`; None takes what the calibration says.
    """

    run: Path
    model: DiffusionModel | Baseline
    settings: ClassifySettings | SupervisedSettings
    prevalence: str | None = None
    _warned: set[str] = field(default_factory=set)

    def read(self, image: Path, folder: Path) -> Path:
        """Classify an image and return the folder of its DICOM objects.

        Args:
            image: A DICOM file.
            folder: Where everything goes; a reading that was cut short there is taken up.

        Raises:
            DataError: if the image cannot be classified.
        """
        dataset = open_dataset(image)
        predictions = folder / "predictions"
        row = self._classify(dataset, predictions)
        explains = isinstance(self.settings, ClassifySettings) and self.settings.evidence
        explanations = self._explain(dataset, predictions, row) if explains else None
        written = write_objects(predictions, folder / "objects", explanations)
        for reason in written.failures.values():
            raise DataError(reason)
        return written.objects[0].parent

    def _classify(self, dataset: Dataset, predictions: Path) -> pd.Series:
        if isinstance(self.model, Baseline):
            assert isinstance(self.settings, SupervisedSettings)
            result = classify_supervised(self.model, dataset, predictions, self.settings)
        else:
            assert isinstance(self.settings, ClassifySettings)
            result = classify_dataset(self.model, dataset, predictions, self.settings)
        assert result.table is not None
        row = result.table.iloc[0]
        if row["status"] != "ok":
            raise DataError(str(row["error"]))
        warnings = annotate(predictions, self.run, prevalence=self.prevalence)
        for warning in {*warnings} - self._warned:
            self._warned.add(warning)
            log.warning(warning)
        return row

    def _explain(self, dataset: Dataset, predictions: Path, row: pd.Series) -> Path:
        """Write the explanation of the image against its next best class."""
        model, settings = self.model, self.settings
        assert isinstance(model, DiffusionModel)
        assert isinstance(settings, ClassifySettings)
        device = resolve_device(settings.device)
        known = Predicted(predictions, model)
        votes = [
            -1.0 if name == row["prediction"] else row[f"votes_{name}"] for name in model.classes
        ]
        precision = resolve_precision(settings.precision, device)
        edit = EditSettings.of(model, seed=settings.seed, precision=precision)
        explainer = Explainer(
            model,
            ExplainSettings(
                y_cf=int(np.argmax(votes)),
                edit=edit,
                batch_size=resolve_batch_size(settings.batch_size, device),
                **known.settings,
            ),
        )
        (record,) = dataset.records
        x = torch.from_numpy(model.preprocess(dataset.pixels(record)))
        (result,) = explainer.explain([(record, x, None)], [known.judged(record.image_id)])
        if isinstance(result, Exception):
            raise DataError(str(result))
        written = ExplanationFolder(predictions.with_name("explanations"), explainer)
        written.add(record, result)
        written.finish({})
        return written.path
