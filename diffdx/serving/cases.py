"""One image classified, or turned into another class: what is shown of it, as JSON and pictures.

The same engine, rules and calibration as `diffdx classify` and `diffdx explain`, without a folder:
nothing is written. Names in the JSON are those of the prediction table.
"""

import dataclasses
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffdx._device import keep_freed_memory, resolve_device, resolve_precision
from diffdx._typing import Errors, LogSNRs
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.denoising_errors import denoising_errors, resolve_batch_size
from diffdx.classification.evidence import EvidenceCollector, part_edges
from diffdx.classification.predictions import prediction_table
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.stopping.votes import ExactStop, VoteStop
from diffdx.classification.work import ImageErrors, OpenImage, Pair
from diffdx.data.dataset import Record
from diffdx.diffusion.samplers import LOGSNR_FLOOR
from diffdx.errors import ConfigError
from diffdx.explain.counterfactual import MAX_GUIDANCE, EditSettings
from diffdx.explain.evidence import evidence_parts, over_pixels, vote_agrees
from diffdx.explain.explainer import Explainer, ExplainSettings, Explanation
from diffdx.explain.explainer import Judged as JudgedMaps
from diffdx.report.explanation_figures import overlay, smoothed
from diffdx.serving.shown import explained_pictures, picture, png_files, votes_by_noise
from diffdx.serving.tasks import ClassifyTask, ExplainTask, Json, ModelSettings, Outcome
from diffdx.transforms.pixels import to_model_range
from diffdx.uncertainty.annotate import Judged, calibrated_columns, mismatch
from diffdx.uncertainty.calibration import Calibration, read_calibration
from diffdx.uncertainty.prevalence import parse_prevalence

TRIALS_AFTER = 101
"""Trials at most that classify a counterfactual."""

_PLAIN = (
    "prediction",
    "entropy_bits",
    "trials_used",
    "stopped_by",
    "share_low",
    "share_high",
    "set",
    "triage",
    "ood_p_value",
    "ood",
)
"""Columns of the prediction table that are one for all classes."""

Watch = Callable[[Errors, LogSNRs], None]
"""Takes the trials of an image so far, (1, K, n) and (1, n)."""
_UPLOAD = Record("upload", "upload")


class Cases:
    """A model at work on one image after another."""

    def __init__(self, settings: ModelSettings) -> None:
        """Load the model and its calibration.

        Raises:
            CheckpointError: if there is no diffusion model, or a file is damaged.
            ConfigError: if a setting cannot be carried out.
        """
        self.settings = ClassifySettings(**settings.classify, evidence=True)
        self.device = resolve_device(self.settings.device)
        self.precision = resolve_precision(self.settings.precision, self.device)
        keep_freed_memory()
        self.name = settings.run.resolve().name
        self.model = DiffusionModel.load(settings.run).to(self.device)
        self.ending = self.settings.ending(len(self.model.classes))
        self.facts_of_run: Json = {
            "classes": list(self.model.classes),
            "positive": self.model.positive,
            "model_sha256": self.model.sha256,
            **self.settings.decision,
        }
        self.calibration, self.why_not = self._calibration(settings)

    def _calibration(self, settings: ModelSettings) -> tuple[Calibration | None, str]:
        stored = read_calibration(settings.run)
        entry = None if stored is None else stored.find(self.facts_of_run)
        why_not = mismatch(stored, entry, self.facts_of_run, settings.run)
        if entry is None or why_not:
            # The text names the command; the folder's own path is no one else's business.
            return None, why_not.replace(str(settings.run), self.name)
        if settings.prevalence is not None:
            classes, positive = list(self.model.classes), self.model.positive
            shares = parse_prevalence(settings.prevalence, classes, positive)
            entry = dataclasses.replace(entry, prevalence=shares)
        return entry, ""

    def facts(self) -> Json:
        """Return what a reader of the answers may want to know of the model."""
        model, edit, found = self.model, self._edit(None, None), self.calibration
        boundary = self._boundary()
        return {
            "name": self.name,
            **{key: self.facts_of_run[key] for key in ("classes", "positive", "model_sha256")},
            **{key: getattr(model.config.data, key) for key in ("image_size", "channels")},
            "resize": model.config.data.resize,
            **{key: getattr(self.settings, key) for key in ("rule", "space", "stop", "seed")},
            "trials": self.settings.num_trials,
            "boundary": boundary,
            "calibrated": found is not None,
            "alpha": found.conformal.alpha if found else None,
            "warnings": [
                *model.warnings,
                *(found.warnings if found else [self.why_not]),
            ],
            "edit": {
                "logsnr_start": edit.logsnr_start,
                "guidance_scale": edit.guidance_scale,
                "lowest": max(LOGSNR_FLOOR, model.schedule.logsnr_min),
                "highest": model.schedule.logsnr_max,
                "max_guidance": MAX_GUIDANCE,
            },
            "device": str(self.device),
            "precision": self.precision,
            "version": version("diffdx"),
        }

    def _boundary(self) -> list[int] | None:
        """Return the lead in votes that stops an image after each trial, where there is one."""
        stop, count = self.ending.stop, self.settings.num_trials
        if len(self.model.classes) == 2 and isinstance(stop, VoteStop):
            return [int(lead) for lead in stop.boundary]
        if len(self.model.classes) == 2 and isinstance(stop, ExactStop):
            return [count - n + 1 for n in range(1, count + 1)]
        return None

    def classify(self, task: ClassifyTask, watch: Watch) -> Outcome:
        """Return what the model says of an image.

        Args:
            task: The image.
            watch: Told of the trials after every call of the network; may raise to end it.

        Raises:
            DataError: if the image cannot be judged.
        """
        started = time.perf_counter()
        x = torch.from_numpy(to_model_range(task.stored))
        done, judged = self._judge(x, watch)
        errors, logsnr = judged.errors[None], judged.logsnr[None]
        result = self._row(done, errors, logsnr)
        y_hat = self.model.classes.index(result["prediction"])
        parts = over_pixels(evidence_parts(judged.maps, y_hat, y_hat), *x.shape[1:])
        margin = float(parts.sum(dtype=np.float64))
        result |= {
            "by_noise_level": votes_by_noise(
                errors, logsnr, self.model.classes, ties=self.settings.ties
            ),
            "evidence_margin": margin,
            "vote_agrees": vote_agrees(errors, margin, y_hat, y_hat),
            "caution": task.caution,
            "seconds": round(time.perf_counter() - started, 3),
            "model_sha256": self.model.sha256,
        }
        original = picture(x)
        pictures = {"image": original, "evidence": overlay(original, *smoothed(parts))}
        return Outcome(result, png_files(pictures), pickle.dumps((x, judged)))

    def _judge(self, x: Tensor, watch: Watch) -> tuple[ImageErrors, JudgedMaps]:
        model, settings = self.model, self.settings
        maps: dict[int, Any] = {}
        collector = LiveEvidence(
            maps.__setitem__,
            part_edges(model.schedule),
            model.transform.wavelet,
            settings.space,
            settings.weights,
            watch=watch,
        )
        (done,) = denoising_errors(
            model.denoiser,
            model.schedule,
            [x],
            settings.bank,
            num_trials=settings.num_trials,
            encode=model.transform.encode,
            batch_size=resolve_batch_size(settings.batch_size, self.device),
            device=self.device,
            precision=self.precision,
            ending=self.ending,
            evidence=collector,
        )
        if done.failure is not None:
            raise done.failure
        return done, JudgedMaps(done.errors, done.logsnr, maps[0], done.calls)

    def _row(self, done: ImageErrors, errors: Errors, logsnr: LogSNRs) -> Json:
        """Return the image's row of the prediction table, columns of classes together."""
        settings, classes = self.settings, self.model.classes
        table = prediction_table(
            [_UPLOAD],
            classes,
            ([_UPLOAD.image_id], errors, logsnr),
            {},
            stops={_UPLOAD.image_id: done.stopped_by},
            rule=settings.rule,
            space=settings.space,
            ties=settings.ties,
            weights=settings.weights,
        )
        row: Json = {str(name): value for name, value in table.iloc[0].items()}
        warnings: list[str] = []
        if self.calibration is not None:
            images = Judged([_UPLOAD.image_id], errors, logsnr, None)
            columns, _, warnings = calibrated_columns(self.calibration, self.facts_of_run, images)
            row |= {name: values[0] for name, values in columns.items()}
        said = {name: _plain(row.get(name)) for name in _PLAIN}
        for group in ("votes", "vote_share", "mean_error", "prob"):
            names = {name: f"{group}_{name}" for name in classes}
            known = names[classes[0]] in row
            said[group] = {k: float(row[name]) for k, name in names.items()} if known else None
        return said | {"nfe": done.calls, "warnings": warnings}

    def explain(self, task: ExplainTask) -> Outcome:
        """Return what a classified image would look like as another class.

        Raises:
            ConfigError: if the class, the noise level or the guidance does not exist.
            DataError: if the result cannot be judged.
        """
        started = time.perf_counter()
        if task.target not in self.model.classes:
            raise ConfigError(
                f"target {task.target!r}: the model knows {', '.join(self.model.classes)}"
            )
        settings = self.settings
        x, judged = pickle.loads(task.case)
        explainer = Explainer(
            self.model,
            ExplainSettings(
                y_cf=self.model.classes.index(task.target),
                edit=self._edit(task.logsnr_start, task.guidance_scale),
                num_trials=min(TRIALS_AFTER, settings.num_trials),
                bank_size=settings.bank_size,
                rule=settings.rule,
                space=settings.space,
                weights=settings.weights,
                batch_size=resolve_batch_size(settings.batch_size, self.device),
            ),
        )
        (made,) = explainer.explain([(_UPLOAD, x, None)], [judged])
        if isinstance(made, Exception):
            raise made
        seconds = {"seconds": round(time.perf_counter() - started, 3)}
        return Outcome(
            self._changed(made, explainer) | seconds, png_files(explained_pictures(made))
        )

    def _edit(self, logsnr_start: float | None, guidance_scale: float | None) -> EditSettings:
        return EditSettings.of(
            self.model,
            logsnr_start=logsnr_start,
            guidance_scale=guidance_scale,
            seed=self.settings.seed,
            precision=self.precision,
        )

    def _changed(self, made: Explanation, explainer: Explainer) -> Json:
        one, classes, edit = made.explained, self.model.classes, explainer.settings.edit
        shares = made.share_cf.tolist()
        return {
            "source": classes[one.y_src],
            "target": classes[one.y_cf],
            "prediction_cf": classes[made.y_hat_cf],
            "vote_share_cf": dict(zip(classes, shares, strict=True)),
            **made.facts(edit),
            "nfe": one.nfe + made.nfe_classify,
            "model_sha256": self.model.sha256,
        }


@dataclass
class LiveEvidence(EvidenceCollector):
    """Evidence that is watched while it is added up."""

    watch: Watch = lambda errors, logsnr: None

    def settle(self, pairs: Sequence[Pair]) -> None:
        """Take in the batch and tell of the image that it was part of."""
        super().settle(pairs)
        image: OpenImage = pairs[0][0]
        run = ~np.isnan(image.result.errors).all(axis=0)
        self.watch(image.result.errors[None][:, :, run], image.result.logsnr[None][:, run])


def _plain(value: Any) -> Any:
    """Return a table's entry as JSON knows it."""
    return value.item() if isinstance(value, np.generic) else value
