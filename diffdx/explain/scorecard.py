"""The scorecard: what a set of explanations is worth, in numbers.

    |a - b|         mean absolute difference over channels and pixels, in model range (0 .. 2)
    turned          images with y_src != y_cf
    controls        images whose true class is y_cf already: nothing had to be changed in them
    sick            turned images whose true class is another one

| measure | of | definition | good |
|---|---|---|---|
| flip_rate | turned that the judge calls y_src | share whose x_cf it calls y_cf | 1 |
| flip_rate_self | likewise | the same by the diffusion classifier itself | 1 |
| flip_rate_null | likewise | share whose x_null the judge calls y_cf: flips that mean nothing | 0 |
| null_edit | all | abs(x_null - x): what noising and sampling alone lose | 0 |
| composition_ssim | all | SSIM of x_factual and x | 1 |
| composition_mae | all | abs(x_factual - x) | 0 |
| reversibility_mae | turned | abs(x_back - x) | 0 |
| reversibility_ratio | turned | mean abs(x_back - x) / mean abs(x_null - x) | 1 |
| control_edit_ratio | controls, sick | edit of the controls / edit of the sick | 0 |
| control_edit_ratio_forced | the same | with the controls explained as if they were sick | 0 |
| minimality | turned | abs(x_cf - x_factual): the smallest that still flips is best | small |
| realism | turned, controls | kernel distance of x_cf to real images of y_cf | realism_real |
| realism_real | controls | the same between two halves of the real images | 0 |
| pointing_game | images with a mask | share whose map of evidence peaks in the mask | 1 |
| energy_in_mask | images with a mask | share of the positive evidence in the mask | 1 |

where edit = mean |x_cf - x| - mean |x_null - x| and `abs` is |.|. Every value has its 95% bootstrap
interval by patient. A measure that has no image is null with n = 0. Research use only, not a
medical device.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from diffdx.explain.explained import Explained
from diffdx.explain.localisation import energy_in_mask, hits_mask, smoothed, toward_finding
from diffdx.explain.realism import KernelDistance, standardised
from diffdx.explain.similarity import mean_absolute_difference, ssim
from diffdx.metrics import bootstrap_by_patient, patient_resamples

Pictures = Float[np.ndarray, "B C H W"]
Judge = Callable[[Pictures], Float[np.ndarray, "B K"]]
"""Maps images in model range to a score of each class; the largest is its decision."""
FeatureMap = Callable[[Pictures], Float[np.ndarray, "B d"]]
Values = Float[np.ndarray, "n"]
Chosen = Bool[np.ndarray, "n"]
Score = dict[str, float | int | None]

SMOOTHING_PX = 2.0
"""Gaussian width of evidence maps before they are scored, in pixels; `benchmarks/localisation.py`
chose it on validation images of 32 x 32."""
_BATCH = 64


def scorecard(
    explained: Sequence[Explained],
    judge: Judge | None,
    self_judge: Judge | None,
    *,
    seed: int,
    forced: Sequence[Explained] = (),
    features: FeatureMap | None = None,
    smoothing_px: float = SMOOTHING_PX,
) -> dict[str, Score]:
    """Return every measure of the table above as {value, low, high, n}.

    Args:
        explained: The explanations; each image as the class that it was called.
        judge: A classifier that had no part in them, trained on the same classes in the same order.
        self_judge: The diffusion classifier itself.
        seed: Of the bootstrap and of the halves of real images.
        forced: The controls once more, explained with y_src forced to the other class.
        features: The judge's inner features, for realism.
        smoothing_px: Gaussian width of the evidence maps before they are scored.

    Raises:
        ValueError: if nothing was explained: no measure is defined.
    """
    if not explained:
        raise ValueError("no explanation to score; explain at least one image first")
    table = _Table(explained, seed)
    scores = _flips(table, judge, self_judge) | _edits(table, _Table([*explained, *forced], seed))
    scores |= _realism(table, features, seed)
    return scores | _localisation(table, smoothing_px)


class _Table:
    """The explanations as columns, with the resamples that all measures share."""

    def __init__(self, rows: Sequence[Explained], seed: int) -> None:
        self.rows = rows
        self.resamples = patient_resamples([row.group for row in rows], seed=seed)
        self.y_src = np.array([row.y_src for row in rows])
        self.y_cf = np.array([row.y_cf for row in rows])
        self.turned = self.y_src != self.y_cf
        self.controls = np.array([row.label == row.y_cf for row in rows])
        known = np.array([row.label is not None for row in rows])
        self.sick = known & self.turned & ~self.controls

    def change(self, first: str, second: str = "x") -> Values:
        """Return |first - second| of each image."""
        pairs = [(getattr(row, first), getattr(row, second)) for row in self.rows]
        return np.array([mean_absolute_difference(a, b) for a, b in pairs])

    def decisions(self, judge: Judge, name: str) -> Shaped[np.ndarray, "n"]:
        """Return the class that a judge gives one of each row's images."""
        scores = _in_batches(judge, [getattr(row, name) for row in self.rows])
        called: np.ndarray = scores.argmax(axis=1)
        return called

    def mean(self, values: Values, chosen: Chosen) -> Score:
        """Return the mean over the chosen images."""
        sums = np.stack([values * chosen, chosen])
        return self.score(lambda w: _quotient(*(sums @ w)), int(chosen.sum()))

    def ratio(self, values: Values, over: Chosen, under: Chosen) -> Score:
        """Return the mean over some images by the mean over others; n counts both."""
        sums = np.stack([values * over, over, values * under, under])
        count = int((over | under).sum())
        return self.score(lambda w: _ratio_of_means(*(sums @ w)), count)

    def quotient(self, over: Values, under: Values, chosen: Chosen) -> Score:
        """Return the mean of one quantity by the mean of another, over the chosen images."""
        sums = np.stack([over * chosen, under * chosen])
        return self.score(lambda w: _quotient(*(sums @ w)), int(chosen.sum()))

    def score(self, metric: Callable[[Values], float], count: int) -> Score:
        """Return a metric of the image weights with its interval."""
        interval = asdict(bootstrap_by_patient(metric, self.resamples))
        return {k: None if np.isnan(v) else v for k, v in interval.items()} | {"n": count}


def _flips(table: _Table, judge: Judge | None, self_judge: Judge | None) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    for name, by in (("flip_rate", judge), ("flip_rate_self", self_judge)):
        if by is None:
            scores[name] = _absent()
            continue
        asked = table.turned & (table.decisions(by, "x") == table.y_src)
        flipped = table.decisions(by, "x_cf") == table.y_cf
        scores[name] = table.mean(flipped.astype(np.float64), asked)
        if by is judge:
            null = table.decisions(by, "x_null") == table.y_cf
            scores["flip_rate_null"] = table.mean(null.astype(np.float64), asked)
    return scores


def _edits(table: _Table, with_forced: _Table) -> dict[str, Score]:
    """Return what is measured in pixels: null edit, composition, reversal, controls, size."""
    everyone = np.ones(len(table.rows), dtype=bool)
    null, back = table.change("x_null"), table.change("x_back")
    likeness = np.array([ssim(row.x_factual, row.x) for row in table.rows])
    scores = {
        "null_edit": table.mean(null, everyone),
        "composition_ssim": table.mean(likeness, everyone),
        "composition_mae": table.mean(table.change("x_factual"), everyone),
        "reversibility_mae": table.mean(back, table.turned),
        "reversibility_ratio": table.quotient(back, null, table.turned),
        "minimality": table.mean(table.change("x_cf", "x_factual"), table.turned),
    }
    edit = table.change("x_cf") - null
    scores["control_edit_ratio"] = table.ratio(edit, table.controls, table.sick)
    scores["control_edit_ratio_forced"] = _absent()
    if len(with_forced.rows) > len(table.rows):
        edit = with_forced.change("x_cf") - with_forced.change("x_null")
        controls = with_forced.controls.copy()
        controls[: len(table.rows)] = False
        scores["control_edit_ratio_forced"] = with_forced.ratio(edit, controls, with_forced.sick)
    return scores


def _realism(table: _Table, features: FeatureMap | None, seed: int) -> dict[str, Score]:
    """Return the kernel distance of edited to real images, and of real images to each other."""
    real = np.flatnonzero(table.controls)
    edited = np.flatnonzero(table.turned & ~table.controls)
    if features is None or len(real) < 4 or len(edited) < 2:
        return {"realism": _absent(), "realism_real": _absent()}
    r = _in_batches(features, [table.rows[i].x for i in real.tolist()]).astype(np.float64)
    e = standardised(_in_batches(features, [table.rows[i].x_cf for i in edited.tolist()]), r)
    r = standardised(r, r)
    order = np.random.default_rng(seed).permutation(len(real))
    one, two = order[::2], order[1::2]
    distance, between_halves = KernelDistance(e, r), KernelDistance(r[one], r[two])
    return {
        "realism": table.score(lambda w: distance(w[edited], w[real]), len(real) + len(edited)),
        "realism_real": table.score(
            lambda w: between_halves(w[real[one]], w[real[two]]), len(real)
        ),
    }


def _localisation(table: _Table, smoothing_px: float) -> dict[str, Score]:
    hits, energy = np.zeros(len(table.rows)), np.zeros(len(table.rows))
    pointed, lit = (np.zeros(len(table.rows), dtype=bool) for _ in range(2))
    for i, row in enumerate(table.rows):
        if row.evidence is None or row.mask is None or not row.mask.any():
            continue
        evidence = toward_finding(row.evidence, label=row.label, y_src=row.y_src, y_cf=row.y_cf)
        if evidence is None:
            continue
        evidence = smoothed(evidence, smoothing_px)
        hits[i], pointed[i] = hits_mask(evidence, row.mask), True
        share = energy_in_mask(evidence, row.mask)
        energy[i], lit[i] = np.nan_to_num(share), not np.isnan(share)
    return {"pointing_game": table.mean(hits, pointed), "energy_in_mask": table.mean(energy, lit)}


def _in_batches(
    function: Callable[[Pictures], np.ndarray], images: Sequence[np.ndarray]
) -> np.ndarray:
    parts = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    return np.concatenate([np.asarray(function(np.stack(part))) for part in parts])


def _quotient(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom else float("nan")


def _ratio_of_means(top: float, top_n: float, bottom: float, bottom_n: float) -> float:
    return _quotient(_quotient(top, top_n), _quotient(bottom, bottom_n))


def _absent() -> Score:
    """A measure without any image."""
    nothing: dict[str, Any] = dict.fromkeys(("value", "low", "high"))
    return nothing | {"n": 0}
