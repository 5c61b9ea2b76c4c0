"""The images that a run may be calibrated on, as its runs with some stopping rule leave them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffdx.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from diffdx._typing import Space
    from diffdx.classification.stopping import StoppingRule
    from diffdx.cli.models import Model
    from diffdx.evaluation import StoredPredictions
    from diffdx.uncertainty.fit import CalibrationImages


def calib_images(folder: Path, run: Path, model: "Model") -> "CalibrationImages":
    """Return the labelled images of a predictions folder, once they are known to be of calib.

    Raises:
        DataError, CheckpointError: as `require_calib` does.
    """
    from diffdx.evaluation import read_predictions
    from diffdx.uncertainty.fit import CalibrationImages

    stored = read_predictions(folder).labelled()
    require_calib(stored, run, model)
    if stored.settings["stop"] not in ("none", None):
        raise ConfigError(
            f"{folder}/classify.json: stop {stored.settings['stop']!r}: --stop is replayed on "
            "predictions made with --stop none; give such a folder"
        )
    return CalibrationImages(
        stored.errors,
        stored.logsnr,
        stored.labels,
        stored.patients,
        tuple(stored.classes),
        None if stored.positive is None else stored.classes[stored.positive],
        stored.settings["ties"] or "split",
        stored.softmax,
    )


def require_calib(stored: "StoredPredictions", run: Path, model: "Model") -> None:
    """Check that predictions are this model's, and of images that it may be calibrated on.

    Every image must have the role calib in the run's `splits.csv`, or a known patient who has no
    role in it.

    Raises:
        CheckpointError: if they are another model's.
        DataError: if an image or patient has another role, or it cannot be told: on images that the
            model was fitted to or is tested on, any calibration looks better than it is.
    """
    from diffdx.data.splits import load_splits

    where = f"{stored.folder}/predictions.parquet"
    if stored.settings.get("model_sha256") != model.sha256:
        raise CheckpointError(
            f"{stored.folder}/classify.json: model_sha256 is not that of {run}; "
            "give predictions made with this run"
        )
    splits = load_splits(run / "splits.csv")
    listed = dict(zip(splits["image_id"], splits["role"], strict=True))
    roles = stored.table["image_id"].map(listed)
    others = splits[(splits["role"] != "calib") & splits["patient_id"].notna()]
    other_role = dict(zip(others["patient_id"], others["role"], strict=True))
    patients = stored.table["patient_id"]
    by_patient = patients.map(other_role)
    for column, found in (("image_id", roles[roles != "calib"]), ("patient_id", by_patient)):
        counts = found.dropna().value_counts()
        if len(counts):
            listing = ", ".join(f"{count} in {role}" for role, count in counts.items())
            raise DataError(
                f"{where}: column {column}: images overlap the other roles of {run}/splits.csv "
                f"({listing}); calibrate on images of the role calib only"
            )
    some_known = bool(splits["patient_id"].notna().any())
    checkable = patients.fillna("").ne("") if some_known else patients.isin([])
    unknown = int((roles.isna() & ~checkable).sum())
    if unknown:
        raise DataError(
            f"{where}: {unknown} images are not in {run}/splits.csv and have no patient to tell "
            "that the model was not trained or tested on them; give the images of the role calib"
        )


def calib_stopping(
    images: "CalibrationImages",
    folder: Path,
    stop: str,
    rule: str,
    space: "Space",
    trials: int | None,
) -> "StoppingRule":
    """Return the rule by which a run with these options stops."""
    from diffdx.classification.rules import rule_name
    from diffdx.classification.stopping import difference_bound, stopping_rule

    available = images.errors.shape[2]
    if (trials or 1) > available:
        raise ConfigError(
            f"{folder}/errors.parquet: holds {available} trials; use --trials {available} or fewer"
        )
    images.require_enough(str(folder))
    errors, logsnr = images.errors[:, :, :trials], images.logsnr[:, :trials]
    return stopping_rule(
        stop,
        rule=rule_name(rule, space),
        num_classes=len(images.classes),
        num_trials=trials or available,
        ties=images.ties,
        bound=difference_bound(errors, logsnr, space) if rule == "mean" else None,
    )


def as_stopped(
    images: "CalibrationImages", stopping: "StoppingRule", trials: int | None
) -> "CalibrationImages":
    """Return the images as a run of so many trials with this rule leaves them."""
    from diffdx.classification.stopping import truncated

    errors, logsnr = images.errors[:, :, :trials], images.logsnr[:, :trials]
    return replace(images, errors=truncated(errors, logsnr, stopping), logsnr=logsnr)
