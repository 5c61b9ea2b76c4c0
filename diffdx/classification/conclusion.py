"""The end of a run: from stored errors to the tables of a predictions folder.

It is the same whether the errors have just been computed or are replayed under other settings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from diffdx._files import write_json
from diffdx.classification.predictions import (
    CLASSIFY_FILE,
    prediction_table,
    write_predictions,
)
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.store import ErrorStore, read_errors, read_stops
from diffdx.classification.voting import (
    count_tied_trials,
    majority_vote,
    mean_error,
    predict_mean,
    predict_vote,
)
from diffdx.data.dataset import Record


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
    classes = store.classes
    stored = read_errors(errors_file, classes)
    table = prediction_table(
        records,
        classes,
        stored,
        failures,
        stops=read_stops(errors_file),
        rule=settings.rule,
        space=settings.space,
        ties=settings.ties,
        weights=settings.weights,
    )
    write_predictions(table, store.folder)
    y_vote, tied = predict_vote(majority_vote(stored[1], ties=settings.ties))
    y_mean, _ = predict_mean(mean_error(stored[1], stored[2], settings.space))
    info = {
        **facts,
        **settings.decision,
        "n": len(records),
        "n_failed": len(failures),
        "tied_trials": int(count_tied_trials(stored[1]).sum()),
        "tied_votes": int(tied.sum()),
        "vote_against_mean": int((y_vote != y_mean).sum()),
    }
    write_json(store.folder / CLASSIFY_FILE, info)
    return table, info
