"""The prediction table: one row per image, what was decided, on which votes, and what failed.

Columns: image_id, path, patient_id, label, prediction, votes_<class>, vote_share_<class>,
mean_error_<class>, entropy_bits, trials_used, nfe, stopped_by, status (ok or error), error. Of a
baseline, score_<class> (the softmax) stands for votes and mean errors.
Where a DICOM file gives cause, `caution` says why the answer should not be relied on.
`mean_error_` is in the space that the run was asked for. A vote share is an effect size, not a
calibrated probability.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffdx._files import atomic_path
from diffdx._typing import Errors, LogSNRs, Space
from diffdx.classification import voting
from diffdx.classification.rules import apply_rule, rule_name
from diffdx.classification.weighted import LogSNRWeights
from diffdx.data.dataset import Record
from diffdx.errors import CheckpointError

Rule = Literal["vote", "mean", "weighted"]

CLASSIFY_FILE = "classify.json"
PREDICTIONS_FILE = "predictions.parquet"
PREDICTIONS_CSV = "predictions.csv"


def prediction_table(
    records: Sequence[Record],
    classes: Sequence[str],
    stored: tuple[Sequence[str], Errors, LogSNRs],
    failures: Mapping[str, str],
    *,
    stops: Mapping[str, str] | None = None,
    rule: Rule = "vote",
    space: Space = "v",
    ties: voting.Ties = "split",
    weights: LogSNRWeights | None = None,
) -> pd.DataFrame:
    """Return the predictions of the records, in their order, from stored errors alone.

    Args:
        records: The images asked for.
        classes: Class names in the order of the errors' class axis.
        stored: Image ids, errors and log-SNRs as `read_errors` returns them.
        failures: Why the other images have no errors, by image id.
        stops: What ended the images, by image id; all trials were run where none is named.
        rule: `vote`, `mean` of the error in `space`, or `weighted`.
        space: Space of the mean errors that the table shows.
        ties: How a tied trial's vote is counted.
        weights: Of the weighted rule.
    """
    image_ids, errors, logsnr = stored
    decided = apply_rule(rule_name(rule, space), errors, logsnr, ties=ties, weights=weights)
    scores = _scores(classes, errors, logsnr, space, ties)
    chosen = pd.Series([classes[k] for k in decided.y_hat], dtype="string")
    return _table_of(records, image_ids, chosen, scores, failures, stops)


def softmax_table(
    records: Sequence[Record],
    classes: Sequence[str],
    image_ids: Sequence[str],
    softmax: Float[np.ndarray, "B K"],
    failures: Mapping[str, str],
) -> pd.DataFrame:
    """Return a baseline's predictions of the records, in their order.

    Args:
        records: The images asked for.
        classes: Class names in the order of the softmax' class axis.
        image_ids: The images that were classified.
        softmax: Score of each class, rows summing to 1.
        failures: Why the other images have none, by image id.
    """
    columns: dict[str, object] = {f"score_{name}": softmax[:, k] for k, name in enumerate(classes)}
    columns["entropy_bits"] = voting.vote_entropy(softmax)
    scores = pd.DataFrame(columns | {"trials_used": 0, "nfe": 1}, index=range(len(image_ids)))
    chosen = pd.Series([classes[k] for k in softmax.argmax(axis=1)], dtype="string")
    return _table_of(records, image_ids, chosen, scores, failures)


def _table_of(
    records: Sequence[Record],
    image_ids: Sequence[str],
    chosen: pd.Series,
    scores: pd.DataFrame,
    failures: Mapping[str, str],
    stops: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return a row per record: what it is, what was decided on which scores, and what failed.

    Args:
        records: The images asked for.
        image_ids: Those that were classified.
        chosen: Their predicted class names.
        scores: Their other columns, trials_used and nfe among them.
        failures: Why the others were not classified, by image id.
        stops: What ended the images, by image id; nothing did where none is named.
    """
    table = pd.DataFrame(
        [(r.image_id, r.path, r.patient_id, r.label) for r in records],
        columns=["image_id", "path", "patient_id", "label"],
        dtype="string",
    )
    cautions = [record.caution for record in records]
    if any(cautions):
        table["caution"] = pd.array(cautions, dtype="string")
    scores.insert(0, "prediction", chosen)
    scores.insert(0, "image_id", pd.Series(list(image_ids), dtype="string"))
    table = table.merge(scores, on="image_id", how="left", validate="one_to_one")
    counts = ["trials_used", "nfe"]
    table[counts] = table[counts].fillna(0).astype("int64")
    stopped_by = [(stops or {}).get(image_id, "none") for image_id in table["image_id"]]
    table["stopped_by"] = pd.array(stopped_by, dtype="string")
    table["status"] = pd.array(np.where(table["prediction"].isna(), "error", "ok"), dtype="string")
    table["error"] = table["image_id"].map(dict(failures)).astype("string")
    return table


def _scores(
    classes: Sequence[str],
    errors: Errors,
    logsnr: LogSNRs,
    space: Space,
    ties: voting.Ties,
) -> pd.DataFrame:
    votes = voting.majority_vote(errors, ties=ties)
    share = voting.vote_share(votes)
    means = voting.mean_error(errors, logsnr, space)
    columns: dict[str, object] = {}
    for prefix, values in (("votes", votes), ("vote_share", share), ("mean_error", means)):
        columns |= {f"{prefix}_{name}": values[:, k] for k, name in enumerate(classes)}
    columns["entropy_bits"] = voting.vote_entropy(share)
    columns["trials_used"] = voting.count_trials(errors)
    # An eliminated class cost nothing: only finite errors were network evaluations.
    columns["nfe"] = np.isfinite(errors).sum(axis=(1, 2))
    return pd.DataFrame(columns)


def write_predictions(table: pd.DataFrame, folder: Path) -> None:
    """Write the table as Parquet and as CSV, each in one piece."""
    with atomic_path(folder / PREDICTIONS_FILE) as temporary:
        table.to_parquet(temporary, index=False)
    write_csv(table, folder / PREDICTIONS_CSV)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table for spreadsheets, in one piece.

    A text that a spreadsheet would run as a formula (it begins with = + - @) gets a leading
    apostrophe.
    """
    text = [str(name) for name in table if table[name].dtype == "string"]
    safe = table.assign(
        **{name: table[name].str.replace(r"^(?=[=+\-@\t\r])", "'", regex=True) for name in text}
    )
    with atomic_path(path) as temporary:
        safe.to_csv(temporary, index=False, lineterminator="\n")


def read_predictions(folder: Path) -> pd.DataFrame:
    """Return the prediction table of a folder.

    Raises:
        CheckpointError: if it is not there or damaged.
    """
    path = folder / PREDICTIONS_FILE
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read; name a folder written by 'diffdx classify'"
        ) from error
