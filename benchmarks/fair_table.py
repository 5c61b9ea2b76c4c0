"""Pools the cells of fair.py: means over seeds, intervals by patients, paired differences.

    mean_s m(network, s)                                      metric, over the seeds s
    mean_s m(A, s) - mean_s m(B, s)                           difference, the same patients drawn

A resample of the patients is one for all networks and seeds, so that what is hard for all cancels.
The interval speaks of other patients, `spread` (the standard deviation over the seeds) of other
trainings. McNemar's and DeLong's tests are of each seed alone: pooled over seeds the same images
would count several times.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from diffdx.metrics import (
    accuracy,
    auroc,
    balanced_accuracy,
    delong,
    f1,
    mcnemar,
    patient_resamples,
)
from diffdx.uncertainty.reliability import reliability

COMPARED = ("accuracy", "balanced_accuracy", "f1", "auroc")
OWN_RULES = ("softmax", "vote", "mean_v")
"""Of those rules the readers are compared in pairs; of the others only the scores are told."""
RESAMPLES = 1000
Json = dict[str, Any]
Sampled = dict[str, np.ndarray]
"""By metric: its value, then that on each resample of the patients."""


def metrics_of(line: Json, rule: str) -> dict[str, Callable[..., float]]:
    """Return a cell's metrics as functions of image weights."""
    y = np.array(line["labels"])
    made = line["decisions"][rule]
    y_hat, score = np.array(made["y_hat"]), np.array(made["score"])
    scores = np.stack([-score, score], axis=1)
    return {
        "accuracy": partial(accuracy, y, y_hat),
        "balanced_accuracy": partial(balanced_accuracy, y, y_hat, num_classes=2),
        "f1": partial(f1, y, y_hat, num_classes=2, positive=1),
        "auroc": partial(auroc, y, scores, positive=1),
    }


def pool(lines: Sequence[Json], *, n_resamples: int = RESAMPLES) -> Json:
    """Return all tables of all sets."""
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    tables = {
        d: pool_set([line for line in lines if line["dataset"] == d], n_resamples) for d in datasets
    }
    return {"name": "fair", "cells": len(lines), "resamples": n_resamples, "sets": tables}


def pool_set(lines: Sequence[Json], n_resamples: int) -> Json:
    """Return the rows and the pairs of one set.

    Raises:
        ValueError: if the cells are of other images: nothing could be paired.
    """
    images = lines[0]["labels"], lines[0]["patients"]
    if any((line["labels"], line["patients"]) != images for line in lines):
        raise ValueError("the cells of a set hold other images; remove the lines of older ones")
    drawn = patient_resamples([str(p) for p in images[1]], n_resamples=n_resamples)
    weights = np.vstack([np.ones(drawn.shape[1]), drawn])
    # A diffusion model is read by its vote, the paper's rule, and by the mean in every space.
    readers: dict[str, tuple[str, list[Json]]] = {}
    for line in lines:
        for rule in line["decisions"]:
            name = line["network"] if rule == "softmax" else f"{line['network']}, {rule}"
            readers.setdefault(name, (rule, []))[1].append(line)
    sampled = {
        name: [sample(cell, rule, weights) for cell in cells]
        for name, (rule, cells) in readers.items()
    }
    own = [name for name, (rule, _) in readers.items() if rule in OWN_RULES]
    return {
        "n": lines[0]["n"],
        "patients": len(set(images[1])),
        "rows": [
            row_of(name, rule, cells, sampled[name]) for name, (rule, cells) in readers.items()
        ],
        "pairs": [
            {
                "a": a,
                "b": b,
                "differences": differences(sampled[a], sampled[b]),
                "tests": tests(readers[a], readers[b]),
            }
            for a, b in itertools.combinations(own, 2)
        ],
    }


def sample(line: Json, rule: str, weights: np.ndarray) -> Sampled:
    """Return a cell's metrics on all images, and on each resample."""
    return {
        name: np.array([metric(weights=w) for w in weights])
        for name, metric in metrics_of(line, rule).items()
    }


def row_of(name: str, rule: str, cells: Sequence[Json], sampled: Sequence[Sampled]) -> Json:
    """Return one reader: metrics, calibration, cost."""
    scored = {}
    for metric in COMPARED:
        by_seed = np.stack([one[metric] for one in sampled])
        scored[metric] = interval(by_seed.mean(axis=0)) | {"spread": float(by_seed[:, 0].std())}
    errors = [calibration_error(cell) for cell in cells]
    return {
        "name": name,
        "network": cells[0]["network"],
        "rule": rule,
        "seeds": sorted(cell["seed"] for cell in cells),
        **scored,
        # Of the calibrated probability, which is one for all rules of a model.
        "ece": {"value": float(np.mean(errors)), "spread": float(np.std(errors))},
        "steps": cells[0]["steps"],
        "parameters": cells[0]["parameters"],
        "calls_per_image": float(np.mean([cell["calls_per_image"] for cell in cells])),
        "seconds_per_image": float(np.mean([cell["seconds_per_image"] for cell in cells])),
    }


def differences(first: Sequence[Sampled], second: Sequence[Sampled]) -> Json:
    """Return the difference of the means over seeds of each metric, the same resamples for both."""
    means = [
        {m: np.mean([s[m] for s in cells], axis=0) for m in COMPARED} for cells in (first, second)
    ]
    return {metric: interval(means[0][metric] - means[1][metric]) for metric in COMPARED}


def tests(first: tuple[str, Sequence[Json]], second: tuple[str, Sequence[Json]]) -> list[Json]:
    """Return McNemar's and DeLong's test of the cells of each seed."""
    by_seed = {cell["seed"]: cell for cell in second[1]}
    found = []
    for a in first[1]:
        if a["seed"] not in by_seed:
            continue
        of_a, of_b = a["decisions"][first[0]], by_seed[a["seed"]]["decisions"][second[0]]
        y = np.array(a["labels"])
        right = (np.array(made["y_hat"]) == y for made in (of_a, of_b))
        ranked = delong(y == 1, np.array(of_a["score"]), np.array(of_b["score"]))
        p_value = None if np.isnan(ranked.p_value) else float(ranked.p_value)
        found.append({"seed": a["seed"], "mcnemar": vars(mcnemar(*right)), "delong_p": p_value})
    return found


def calibration_error(cell: Json) -> float:
    """Return the expected calibration error of a cell's calibrated probability."""
    target = np.array(cell["prob"]), np.array(cell["labels"]) == 1
    return reliability(target).error


def interval(values: np.ndarray) -> Json:
    """Return the value that comes first, with the 95% percentiles of the others."""
    others = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(others, (0.025, 0.975)) if others.size else (np.nan, np.nan)
    found = {"value": values[0], "low": low, "high": high}
    return {name: None if np.isnan(number) else float(number) for name, number in found.items()}


def markdown(found: Json) -> str:
    """Return the pooled tables as Markdown: of each set the readers, then their differences."""
    lines = ["# The fair comparison", "", "Research use only. Not a medical device.", ""]
    for name, table in found["sets"].items():
        heads = ["reader", *_WORDS.values(), "ECE", "calls", "seconds", "seeds"]
        lines += [f"## {name}: {table['n']} images of {table['patients']} patients", ""]
        lines += _rows(heads, [_reader_cells(row) for row in table["rows"]])
        heads = ["difference", *_WORDS.values(), "McNemar p", "DeLong p"]
        lines += _rows(heads, [_pair_cells(pair) for pair in table["pairs"]])
    return "\n".join(
        [
            *lines,
            "- Metrics: mean over the seeds [95% bootstrap by patient] ± deviation between seeds.",
            "- ECE: of the calibrated probability, one for all rules of a model.",
            "- Calls, seconds: of the network, and of one core, for an image.",
            "- Tests: one p value a seed.",
            "",
        ]
    )


_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "auroc": "AUROC",
}


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table, and an empty line after it."""
    every = [heads, ["---"] * len(heads), *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in every), ""]


def _reader_cells(row: Json) -> list[str]:
    scores = [f"{_interval(row[m])} ± {row[m]['spread']:.3f}" for m in _WORDS]
    ece = f"{row['ece']['value']:.3f} ± {row['ece']['spread']:.3f}"
    cost = [f"{row['calls_per_image']:g}", f"{row['seconds_per_image']:.3g}"]
    return [row["name"], *scores, ece, *cost, str(len(row["seeds"]))]


def _pair_cells(pair: Json) -> list[str]:
    mcnemars = ", ".join(f"{test['mcnemar']['p_value']:.2g}" for test in pair["tests"])
    delongs = ", ".join(
        "n/a" if (p := test["delong_p"]) is None else f"{p:.2g}" for test in pair["tests"]
    )
    scores = [_interval(pair["differences"][m], sign="+") for m in _WORDS]
    return [f"{pair['a']} less {pair['b']}", *scores, mcnemars, delongs]


def _interval(found: Json, sign: str = "") -> str:
    if found["value"] is None or found["low"] is None:
        return "n/a"
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
