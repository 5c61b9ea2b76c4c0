"""The end of a run: from stored errors to the tables of a predictions folder.

It is the same whether the errors have just been computed or are replayed under other settings. The
errors pass through memory some images at a time.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from diffdx._files import write_json
from diffdx._typing import Errors, LogSNRs
from diffdx.classification.predictions import (
    CLASSIFY_FILE,
    prediction_table,
    write_predictions,
)
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.store import ErrorStore, StoredImages, read_in_parts
from diffdx.classification.voting import (
    count_tied_trials,
    majority_vote,
    mean_error,
    predict_mean,
    predict_vote,
)
from diffdx.data.dataset import Record

IMAGES_AT_ONCE = 8_192
"""Whose errors are in memory together: of 501 trials and 2 classes, 50 MB."""


def conclude(
    store: ErrorStore,
    records: Sequence[Record],
    failures: Mapping[str, str],
    settings: ClassifySettings,
    facts: Mapping[str, Any],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Merge a store, decide, write tables and `classify.json`; return both.

    Args:
        store: Holds the errors of the records that did not fail.
        records: The whole dataset.
        failures: Why the others failed, by image id.
        settings: How the run decides.
        facts: What else `classify.json` says: model, device, speed.
    """
    errors_file = store.merge([record.image_id for record in records])
    parts = read_in_parts(errors_file, store.classes, images=IMAGES_AT_ONCE)
    tables, counts = [], Counter[str]()
    for some, stored in _with_records(parts, records, len(store.classes)):
        tables.append(
            prediction_table(
                some,
                store.classes,
                stored[:3],
                failures,
                stops=stored.stops,
                rule=settings.rule,
                space=settings.space,
                ties=settings.ties,
                weights=settings.weights,
            )
        )
        counts.update(_counts(stored.errors, stored.logsnr, settings))
    # A column that only some parts have stands where these have it.
    columns = max((table.columns for table in tables), key=len)
    table = pd.concat(tables, ignore_index=True)[columns]
    write_predictions(table, store.folder)
    info = {
        **facts,
        **settings.decision,
        "n": len(records),
        "n_failed": len(failures),
        **{name: counts[name] for name in ("tied_trials", "tied_votes", "vote_against_mean")},
    }
    write_json(store.folder / CLASSIFY_FILE, info)
    return table, info


def _with_records(
    parts: Iterator[StoredImages], records: Sequence[Record], num_classes: int
) -> Iterator[tuple[Sequence[Record], StoredImages]]:
    """Yield each part with the records up to its last image, and the last with all that remain."""
    nothing = np.empty((0, num_classes, 0), np.float32), np.empty((0, 0), np.float32)
    part, done = next(parts, StoredImages([], *nothing, {})), 0
    for following in parts:
        last, end = part.image_ids[-1], done
        while records[end].image_id != last:
            end += 1
        yield records[done : end + 1], part
        part, done = following, end + 1
    yield records[done:], part


def _counts(errors: Errors, logsnr: LogSNRs, settings: ClassifySettings) -> dict[str, int]:
    """Return how many trials and votes were tied, and how often vote and mean disagree."""
    y_vote, tied = predict_vote(majority_vote(errors, ties=settings.ties))
    y_mean, _ = predict_mean(mean_error(errors, logsnr, settings.space))
    return {
        "tied_trials": int(count_tied_trials(errors).sum()),
        "tied_votes": int(tied.sum()),
        "vote_against_mean": int((y_vote != y_mean).sum()),
    }
