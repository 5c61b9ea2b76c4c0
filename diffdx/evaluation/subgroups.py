"""Does a model work as well for everyone? Metrics of the groups that a column of metadata makes.

`subgroups.json`: for each column its groups with numbers of images and patients and the four
metrics of the run's own rule with 95% intervals by patient, resampled within the group. Columns of
numbers, such as an age, are cut into quarters of the images. A group with few images of a class is
marked: its intervals are wide, and to see no difference there is not to know that there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from diffdx._files import write_json
from diffdx._notice import NOTICE
from diffdx.errors import ConfigError
from diffdx.evaluation.calibrated import bootstrap
from diffdx.evaluation.predictions import StoredPredictions
from diffdx.evaluation.summary import recall, score
from diffdx.metrics import patient_resamples

SUBGROUPS_FILE = "subgroups.json"
USUAL = ("source", "dataset", "site", "view", "sex", "age", "age_approx")
"""Columns that are taken without being asked for, in any case of letters."""
FEW = 10
"""Images of a class below which a group is marked."""
NOT_KNOWN = "not known"
_MAX_GROUPS = 20
_QUARTERS = 4

Json = dict[str, Any]
Metadata = Mapping[str, Mapping[str, str]]
"""By image id, then by name of the column."""


def evaluate_subgroups(
    stored: StoredPredictions,
    metadata: Metadata,
    columns: Sequence[str] = (),
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Json:
    """Return the metrics of each group of images, and write them to the folder's `subgroups.json`.

    Args:
        stored: Predictions; those without a label are left out.
        metadata: What is known of the images.
        columns: Columns to group by; none takes those of `USUAL` that are there.
        n_resamples: Bootstrap resamples of the patients of a group.
        seed: Of the resamples.

    Returns:
        `{classes, columns: [{column, groups: [{group, n, patients, few, by_class, recall, and the
        four metrics}]}], few, bootstrap, research_use_only}`.

    Raises:
        ConfigError: if a column is not there, or holds too many different texts to be groups: names
            of patients or files would be shown.
    """
    known = stored.labelled()
    there = sorted({name for row in metadata.values() for name in row})
    usual = sorted((n for n in there if n.lower() in USUAL), key=lambda n: USUAL.index(n.lower()))
    unknown = [name for name in columns if name not in there]
    if unknown:
        raise ConfigError(
            f"--by {unknown[0]}: no such column; there is {', '.join(there) or 'none in the data'}"
        )
    found = []
    for column in columns or usual:
        cells = [metadata.get(i, {}).get(column, "").strip() for i in known.table["image_id"]]
        names, order = group_names(cells, column)
        groups = [
            {"group": name, **_group(_subset(known, np.array(names) == name), n_resamples, seed)}
            for name in order
        ]
        found.append({"column": column, "groups": groups})
    result = {
        "classes": known.classes,
        "columns": found,
        "few": FEW,
        "bootstrap": {"resamples": n_resamples, "seed": seed, "unit": "patient"},
        "research_use_only": NOTICE,
    }
    write_json(stored.folder / SUBGROUPS_FILE, result)
    return result


def group_names(cells: Sequence[str], column: str) -> tuple[list[str], list[str]]:
    """Return the group of each image, and all groups in order.

    A group is a text, or a quarter of the images where a column holds more than four numbers.

    Args:
        cells: Texts of one column; blank where nothing is known.
        column: Its name, for the message.

    Raises:
        ConfigError: as `evaluate_subgroups`.
    """
    numbers = [_number(cell) for cell in cells]
    known = np.array([n for n in numbers if n is not None])
    if len(known) == sum(map(bool, cells)) and len(np.unique(known)) > _QUARTERS:
        cuts = np.unique(np.quantile(known, [0.25, 0.5, 0.75]))
        ends = [f"{cut:g}" for cut in cuts]
        order = [
            f"up to {ends[0]}",
            *(f"above {low} to {high}" for low, high in pairwise(ends)),
            f"above {ends[-1]}",
        ]
        names = [NOT_KNOWN if n is None else order[int((n > cuts).sum())] for n in numbers]
    else:
        names = [cell or NOT_KNOWN for cell in cells]
        order = sorted(set(names) - {NOT_KNOWN})
    if len(order) > _MAX_GROUPS:
        raise ConfigError(
            f"--by {column}: {len(order)} different texts make no groups (at most {_MAX_GROUPS}); "
            "name a column such as sex, age or source"
        )
    present = set(names)
    return names, [name for name in [*order, NOT_KNOWN] if name in present]


def _group(known: StoredPredictions, n_resamples: int, seed: int) -> Json:
    y, classes, decided = known.labels, known.classes, known.own
    resamples = patient_resamples(known.patients, n_resamples=n_resamples, seed=seed)
    count = np.bincount(y, minlength=len(classes))
    return {
        "n": len(y),
        "patients": len(set(known.patients)),
        "few": bool((count < FEW).any()),
        "by_class": dict(zip(classes, count.tolist(), strict=True)),
        **score(y, decided, known.positive, resamples),
        "recall": {
            name: bootstrap(partial(recall, y, decided.y_hat, len(classes), k), resamples)
            for k, name in enumerate(classes)
        },
    }


def _subset(known: StoredPredictions, chosen: np.ndarray) -> StoredPredictions:
    return replace(
        known, table=known.table[chosen], errors=known.errors[chosen], logsnr=known.logsnr[chosen]
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
