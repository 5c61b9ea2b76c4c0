"""Pools the cells of fair.py: means over seeds, intervals by patients, paired differences.

    mean_s m(network, s)                                      metric, over the seeds s
    mean_s m(A, s) - mean_s m(B, s)                           difference, the same patients drawn

A resample of the patients is one for all networks and seeds, so that what is hard for all cancels.
The interval speaks of other patients, `spread` (the standard deviation over the seeds) of other
trainings. McNemar's and DeLong's tests are of each seed alone: pooled over seeds the same images
would count several times. Over all sets, a difference is the mean of the sets' differences, each
set resampled by itself.

A diffusion classifier and a discriminative one of the same seed are also read together: the mean of
their fitted log odds (the mean of v, and the softmax), where a line has them; else of their
calibrated log odds (two classes), or of their log probabilities (more).
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
from diffdx.uncertainty.reliability import claim, reliability

_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "auroc": "AUROC",
}
COMPARED = tuple(_WORDS)
OWN_RULES = ("softmax", "vote", "mean_v")
"""Of those rules all readers are compared in pairs; others with the vote of the same model."""
FITTED = "_fitted"
"""Ends the name of a rule whose threshold was fitted; such readers are compared among them."""
FUSED = "fused"
RESAMPLES = 1000
LEAST = 5e-5
"""Half of the last digit that a line keeps of a probability."""
Json = dict[str, Any]
Sampled = dict[str, np.ndarray]
"""By metric: its value, then that on each resample of the patients."""
Readers = dict[str, tuple[str, list[Json]]]
"""By name: the rule, and a cell of each seed."""


def metrics_of(line: Json, rule: str) -> dict[str, Callable[..., float]]:
    """Return a cell's metrics as functions of image weights."""
    y = np.array(line["labels"])
    made = line["decisions"][rule]
    y_hat, scores, positive = np.array(made["y_hat"]), np.array(made["score"]), None
    if scores.ndim == 1:
        # Two classes: the score of the positive one, which is class 1.
        scores, positive = np.stack([-scores, scores], axis=1), 1
    count = scores.shape[1]
    return {
        "accuracy": partial(accuracy, y, y_hat),
        "balanced_accuracy": partial(balanced_accuracy, y, y_hat, num_classes=count),
        "f1": partial(f1, y, y_hat, num_classes=count, positive=positive),
        "auroc": partial(auroc, y, scores, positive=positive),
    }


def pool(lines: Sequence[Json], *, n_resamples: int = RESAMPLES) -> Json:
    """Return the tables of each set, and the differences over all of them."""
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    tables, drawn = {}, []
    for seed, name in enumerate(datasets):
        cells = [line for line in lines if line["dataset"] == name]
        table, sampled = pool_set(cells, n_resamples, seed=seed)
        tables[name] = table
        drawn.append(sampled)
    everywhere = [pair for pair in drawn[0] if all(pair in one for one in drawn)]
    over_all = [
        {"a": a, "b": b, "differences": intervals(mean_of([one[a, b] for one in drawn]))}
        for a, b in everywhere
        if len(drawn) > 1
    ]
    settings = {"cells": len(lines), "resamples": n_resamples}
    return {"name": "fair", **settings, "sets": tables, "over_all_sets": over_all}


def pool_set(
    lines: Sequence[Json], n_resamples: int, *, seed: int
) -> tuple[Json, dict[tuple[str, str], Sampled]]:
    """Return the rows and the pairs of one set, and each pair's resampled differences.

    Raises:
        ValueError: if the cells are of other images: nothing could be paired.
    """
    images = lines[0]["labels"], lines[0]["patients"]
    if any((line["labels"], line["patients"]) != images for line in lines):
        raise ValueError("the cells of a set hold other images; remove the lines of older ones")
    patients = [str(patient) for patient in images[1]]
    resamples = patient_resamples(patients, n_resamples=n_resamples, seed=seed)
    weights = np.vstack([np.ones(resamples.shape[1]), resamples])
    readers, pairs = readers_of(lines)
    sampled = {
        name: mean_and_seeds([sample(cell, rule, weights) for cell in cells])
        for name, (rule, cells) in readers.items()
    }
    drawn = {(a, b): less(sampled[a][0], sampled[b][0]) for a, b in pairs}
    table = {
        "n": lines[0]["n"],
        "patients": len(set(patients)),
        "rows": [
            row_of(name, rule, cells, *sampled[name]) for name, (rule, cells) in readers.items()
        ],
        "pairs": [
            {
                "a": a,
                "b": b,
                "differences": intervals(drawn[a, b]),
                "tests": tests(readers[a], readers[b]),
            }
            for a, b in pairs
        ],
    }
    return table, drawn


def readers_of(lines: Sequence[Json]) -> tuple[Readers, list[tuple[str, str]]]:
    """Return all readers of a set, and the pairs of them that are compared.

    A diffusion model is read by its vote, the paper's rule, and by the mean in every space.
    """
    readers: Readers = {}
    for line in lines:
        for rule in line["decisions"]:
            name = line["network"] if rule == "softmax" else f"{line['network']}, {rule}"
            readers.setdefault(name, (rule, []))[1].append(line)
    pairs: list[tuple[str, str]] = []
    for ending in ("", FITTED):
        compared = [rule + ending for rule in OWN_RULES]
        own = [name for name, (rule, _) in readers.items() if rule in compared]
        pairs += itertools.combinations(own, 2)
    voting = [name for name, (rule, _) in readers.items() if rule == "vote"]
    discriminative = [name for name, (rule, _) in readers.items() if rule == "softmax"]
    for name in voting:
        network = name.removesuffix("vote")
        means = [f"{network}{rule}" for rule in ("mean_eps", "mean_x")]
        pairs += [(name, mean) for mean in means if mean in readers]
    for a, b in itertools.product(voting, discriminative):
        by_seed = {cell["seed"]: cell for cell in readers[b][1]}
        cells = [fused(c, by_seed[c["seed"]]) for c in readers[a][1] if c["seed"] in by_seed]
        if cells:
            name = cells[0]["network"]
            readers[name] = FUSED, cells
            of_fitted = [f"{a.removesuffix('vote')}mean_v{FITTED}", f"{b}, softmax{FITTED}"]
            parts = of_fitted if set(of_fitted) <= set(readers) else [a, b]
            pairs += [(name, part) for part in parts]
    return readers, pairs


def fused(a: Json, b: Json) -> Json:
    """Return a cell that reads with two others, the same images in both."""
    log_odds = [cell["decisions"].get(r + FITTED) for cell, r in ((a, "mean_v"), (b, "softmax"))]
    if None in log_odds:
        log_p = []
        for cell in (a, b):
            p = np.clip(np.array(cell["prob"]), LEAST, 1 - LEAST)
            log_p.append(np.log(p) if p.ndim == 2 else np.log(p) - np.log1p(-p))
    else:
        log_p = [np.array(fitted["score"]) for fitted in log_odds]
    score = sum(log_p) / 2
    if score.ndim == 2:
        y_hat, prob = score.argmax(axis=1), np.exp(score)
        prob /= prob.sum(axis=1, keepdims=True)
    else:
        y_hat, prob = (score > 0).astype(int), 1 / (1 + np.exp(-score))
    both = ("parameters", "calls_per_image", "seconds_per_image")
    return {
        **a,
        **{name: a[name] + b[name] for name in both},
        "network": f"{a['network']} + {b['network']}",
        "prob": prob.tolist(),
        "decisions": {FUSED: {"y_hat": y_hat.tolist(), "score": score.tolist()}},
    }


def sample(line: Json, rule: str, weights: np.ndarray) -> Sampled:
    """Return a cell's metrics on all images, and on each resample."""
    return {
        name: np.array([metric(weights=w) for w in weights])
        for name, metric in metrics_of(line, rule).items()
    }


def mean_and_seeds(sampled: Sequence[Sampled]) -> tuple[Sampled, Sampled]:
    """Return the mean over the seeds, and the values of the seeds on all images."""
    values = {name: np.array([one[name][0] for one in sampled]) for name in COMPARED}
    return mean_of(sampled), values


def mean_of(sampled: Sequence[Sampled]) -> Sampled:
    """Return the mean of each metric, resample by resample."""
    return {name: np.mean([one[name] for one in sampled], axis=0) for name in COMPARED}


def less(first: Sampled, second: Sampled) -> Sampled:
    """Return the difference of each metric, resample by resample."""
    return {name: first[name] - second[name] for name in COMPARED}


def intervals(sampled: Sampled) -> Json:
    """Return value and interval of each metric."""
    return {name: interval(values) for name, values in sampled.items()}


def row_of(name: str, rule: str, cells: Sequence[Json], mean: Sampled, seeds: Sampled) -> Json:
    """Return one reader: metrics, calibration, cost."""
    scored = {
        metric: found | {"spread": float(seeds[metric].std())}
        for metric, found in intervals(mean).items()
    }
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
        ranks = [np.array(made["score"]) for made in (of_a, of_b)]
        p_value = delong(y == 1, *ranks).p_value if ranks[0].ndim == 1 else np.nan
        p_value = None if np.isnan(p_value) else float(p_value)
        found.append({"seed": a["seed"], "mcnemar": vars(mcnemar(*right)), "delong_p": p_value})
    return found


def calibration_error(cell: Json) -> float:
    """Return the expected calibration error of a cell's probability."""
    prob, labels = np.array(cell["prob"]), np.array(cell["labels"])
    if prob.ndim == 1:
        return reliability((prob, labels == 1)).error
    return reliability(claim(prob, labels, None)).error


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
    if found["over_all_sets"]:
        lines += ["## Differences over all sets", ""]
        cells = [_difference_cells(pair) for pair in found["over_all_sets"]]
        lines += _rows(["difference", *_WORDS.values()], cells)
    return "\n".join(
        [
            *lines,
            "- Metrics: mean over the seeds [95% bootstrap by patient] ± deviation between seeds.",
            "- ECE: of the calibrated probability, one for all rules of a model; of more than two "
            "classes, of the vote share or softmax.",
            "- For an image: calls of the network, seconds of one core beside another at work.",
            "- Tests: one p value a seed.",
            "",
        ]
    )


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
    return [*_difference_cells(pair), mcnemars, delongs]


def _difference_cells(pair: Json) -> list[str]:
    scores = [_interval(pair["differences"][m], sign="+") for m in _WORDS]
    return [f"{pair['a']} less {pair['b']}", *scores]


def _interval(found: Json, sign: str = "") -> str:
    if found["value"] is None or found["low"] is None:
        return "n/a"
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
