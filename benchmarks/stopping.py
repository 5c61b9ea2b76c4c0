"""What stopping early saves and costs, from the stored errors of a full run; no network is called.

    python benchmarks/stopping.py DIR --name NAME [--bounds-from DIR] [--simulate DRAWS]

DIR is a predictions folder with all its trials. Writes benchmarks/results/stopping-NAME.json and
prints a table: for each decision rule and stop the network calls, the agreement with the decision
of the full run, AUROC, balanced accuracy and mean entropy beside the full run's, and how often the
95% interval holds the full run's vote share. The mean rules take the size of error differences from
`--bounds-from`, which should be the calibration images; without it, from the other half of the
patients. `sqrt:DELTA` is the boundary lead >= c sqrt(n (N-n) / (N-1)) at the same error.
`--simulate` draws that many orders of banks made to be mistaken.
"""

import argparse
import json
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

from diffdx.classification.rules import apply_rule
from diffdx.classification.stopping import (
    Elimination,
    StoppingRule,
    difference_bound,
    share_interval,
    share_sequence,
    stopping_rule,
    truncated,
)
from diffdx.classification.stopping.boundary import crossing_probability, lead_boundary
from diffdx.classification.stopping.votes import VoteStop
from diffdx.classification.voting import majority_vote, vote_entropy, vote_share
from diffdx.evaluation.predictions import StoredPredictions, read_predictions
from diffdx.metrics import auroc, balanced_accuracy

RESULTS = Path(__file__).parent / "results"
DELTAS = (0.05, 0.01, 0.001)
SPACES = ("v", "eps", "x")
PRIORS = (0.2, 0.5, 1.0, 2.0)


@lru_cache
def sqrt_constant(num_trials: int, delta: float) -> float:
    """Return the smallest c to three decimals, rounded up, whose exact error is at most delta."""
    low, high = 0, 20_000
    while high - low > 1:
        middle = (low + high) // 2
        error = crossing_probability(sqrt_boundary(num_trials, middle / 1000), [num_trials])[0]
        low, high = (low, middle) if error <= delta else (middle, high)
    return high / 1000


def sqrt_boundary(num_trials: int, c: float) -> np.ndarray:
    """Return lead >= c sqrt(n (N-n) / (N-1)), at least 1, for n = 1 to N."""
    n = np.arange(1, num_trials + 1)
    root = np.sqrt(n * (num_trials - n) / max(num_trials - 1, 1))
    return np.maximum(np.ceil(c * root), 1).astype(np.int64)


def sqrt_stop(num_trials: int, delta: float) -> StoppingRule:
    """Return the vote's stop with the square-root boundary instead of the optimal one."""
    return with_boundary(
        delta, num_trials, sqrt_boundary(num_trials, sqrt_constant(num_trials, delta))
    )


def with_boundary(delta: float, num_trials: int, boundary: np.ndarray) -> StoppingRule:
    """Return the vote's stop of two classes with another boundary."""
    stop = VoteStop(delta, 2, num_trials)
    stop.boundary = boundary
    return stop


def measure(
    stored: StoredPredictions,
    rule: str,
    stops: list[tuple[np.ndarray, StoppingRule]],
    elimination: Elimination | None = None,
) -> dict[str, float | None]:
    """Return what a stop costs and saves.

    Args:
        stored: The full run.
        rule: Decision rule.
        stops: Stopping rules, each with the images (a mask) that it is used on.
        elimination: When classes are given up; None keeps all.
    """
    errors, logsnr, ties = stored.errors, stored.logsnr, stored.settings["ties"]
    stopped = errors.copy()
    started = time.perf_counter()
    for mask, stop in stops:
        stopped[mask] = truncated(errors[mask], logsnr[mask], stop, elimination)
    seconds = time.perf_counter() - started
    full = apply_rule(rule, errors, logsnr, ties=ties)
    early = apply_rule(rule, stopped, logsnr, ties=ties)
    calls = np.isfinite(stopped).sum(axis=(1, 2))
    entropy = vote_entropy(vote_share(majority_vote(stopped, ties=ties)))
    result: dict[str, float | None] = {
        "calls_mean": calls.mean(),
        "calls_median": np.median(calls),
        "calls_p95": np.quantile(calls, 0.95),
        "calls_share": calls.mean() / errors[0].size,
        "agreement": (early.y_hat == full.y_hat).mean(),
        "entropy_mean": entropy.mean(),
        "rule_microseconds_per_image": 1e6 * seconds / len(errors),
    }
    if elimination is None:
        low, high = share_interval(stopped, ties=ties)
        share = vote_share(majority_vote(errors, ties=ties))
        result["interval_coverage"] = ((low <= share) & (share <= high))[:, -1].mean()
        result["interval_width_mean"] = (high - low)[:, -1].mean()
    known = stored.labels >= 0
    if known.any():
        y = stored.labels[known]
        result["balanced_accuracy"] = balanced_accuracy(
            y, early.y_hat[known], num_classes=errors.shape[1]
        )
        result["auroc"] = auroc(y, early.scores[known], positive=stored.positive)
    return {
        name: None if value is None else round(float(value), 4) for name, value in result.items()
    }


def cases(stored: StoredPredictions, bounds: list[dict[str, float]], halves: np.ndarray) -> list:
    """Return (case, rule, stops, elimination) of everything that is compared."""
    num_classes, num_trials = stored.errors.shape[1:]
    ties = stored.settings["ties"]
    options = {"num_classes": num_classes, "num_trials": num_trials, "ties": ties}
    everything = np.ones(len(halves), bool)

    def vote(text: str) -> list[tuple[np.ndarray, StoppingRule]]:
        return [(everything, stopping_rule(text, rule="vote", **options))]

    texts = ["none", "exact", *(f"{delta:g}" for delta in DELTAS), "share:0.1", "share:0.05"]
    compared = [(text, "vote", vote(text), None) for text in texts]
    if num_classes == 2:
        for delta in DELTAS:
            stops = [(everything, sqrt_stop(num_trials, delta))]
            compared.append((f"sqrt:{delta:g}", "vote", stops, None))
        for prior in PRIORS:
            boundary = lead_boundary(num_trials, 0.01, prior=prior)
            stops = [(everything, with_boundary(0.01, num_trials, boundary))]
            compared.append((f"0.01, prior {prior:g}", "vote", stops, None))
    else:
        for strictness in DELTAS:
            elimination = Elimination(num_classes, num_trials, ties=ties, strictness=strictness)
            compared.append((elimination.name, "vote", vote("none"), elimination))
        compared.append(("0.01 + eliminate", "vote", vote("0.01"), Elimination(**options)))
    for space in SPACES:
        rule = f"mean_{space}"
        compared.append(("none", rule, vote("none"), None))
        for delta in ("0.01", "0.001"):
            stops = [
                (halves == half, stopping_rule(delta, rule=rule, bound=bound[rule], **options))
                for half, bound in enumerate(bounds)
            ]
            compared.append((delta, rule, stops, None))
    return compared


def bounds_of(stored: StoredPredictions, mask: np.ndarray) -> dict[str, float]:
    """Return the clipping bound of each mean rule from the images of a mask."""
    errors, logsnr = stored.errors[mask], stored.logsnr[mask]
    return {f"mean_{space}": difference_bound(errors, logsnr, space) for space in SPACES}


def halves_by_patient(stored: StoredPredictions) -> np.ndarray:
    """Return 0 or 1 for each image, the same for all images of a patient."""
    patients = stored.table["patient_id"].fillna(stored.table["image_id"]).astype(str)
    names, index = np.unique(patients, return_inverse=True)
    return np.random.default_rng(0).integers(0, 2, len(names))[index]


def adversarial_banks(num_trials: int) -> dict[str, np.ndarray]:
    """Return banks, as the winner of each trial, whose decision hangs by one vote or a little."""
    half, third = num_trials // 2, num_trials // 3
    counts = {
        "one vote short": (num_trials - half - 1, half + 1),
        "one vote ahead": (half + 1, num_trials - half - 1),
        "five votes short": (half - 2, num_trials - half + 2),
        "3 classes, even": (third, third, num_trials - 2 * third),
        "3 classes, one empty": (num_trials - half - 1, half + 1, 0),
        "7 classes, even": tuple(num_trials // 7 + (k < num_trials % 7) for k in range(7)),
        "7 classes, two ahead": (third, third + 1, *[(num_trials - 2 * third - 1) // 5] * 4),
    }
    banks = {}
    for name, votes in counts.items():
        # A class more takes what is left over.
        votes = (*votes, num_trials - sum(votes)) if sum(votes) < num_trials else votes
        banks[name] = np.repeat(np.arange(len(votes)), votes)
    return banks


def computed_bound(stop: VoteStop, num_classes: int) -> float:
    """Return the exact probability of an error at the least favourable bank, a sum over pairs."""
    sizes = [stop.num_trials] if num_classes == 2 else range(1, stop.num_trials + 1)
    return (num_classes - 1) * float(crossing_probability(stop.boundary, sizes).max())


def simulate(name: str, bank: np.ndarray, draws: int) -> list[dict[str, object]]:
    """Return for each delta how often a random order of the bank is decided otherwise."""
    num_classes, num_trials = int(bank.max()) + 1, len(bank)
    num_classes += name.endswith("empty")
    counts = np.bincount(bank, minlength=num_classes)
    stops = [VoteStop(delta, num_classes, num_trials) for delta in DELTAS]
    wrong, covered, trials = np.zeros((3, len(DELTAS)))
    rng = np.random.default_rng(0)
    logsnr = np.zeros(num_trials, np.float32)
    for _ in range(draws):
        winners = rng.permutation(bank)
        errors = (winners != np.arange(num_classes)[:, None]).astype(np.float32)
        for i, stop in enumerate(stops):
            n = stop.stopping_time(errors, logsnr) or num_trials
            votes = np.bincount(winners[:n], minlength=num_classes)
            low, high = share_sequence(votes[:1], np.array([n]), num_trials)
            wrong[i] += votes.argmax() != counts.argmax()
            covered[i] += low[0] <= counts[0] / num_trials <= high[0]
            trials[i] += n
    return [
        {
            "bank": name,
            "delta": delta,
            "computed_bound": computed_bound(stops[i], num_classes),
            "draws": draws,
            "wrong": wrong[i] / draws,
            "within_three_standard_errors": bool(
                wrong[i] / draws <= delta + 3 * (delta * (1 - delta) / draws) ** 0.5
            ),
            "interval_coverage": covered[i] / draws,
            "trials_mean": trials[i] / draws,
        }
        for i, delta in enumerate(DELTAS)
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--bounds-from", type=Path)
    parser.add_argument("--simulate", type=int, default=0, metavar="DRAWS")
    arguments = parser.parse_args()
    stored = read_predictions(arguments.folder)
    halves = halves_by_patient(stored)
    if arguments.bounds_from is None:
        bounds = [bounds_of(stored, halves == 1), bounds_of(stored, halves == 0)]
    else:
        other = read_predictions(arguments.bounds_from)
        halves, bounds = np.zeros_like(halves), [bounds_of(other, np.ones(len(other.table), bool))]
    measured = []
    for case, rule, stops, elimination in cases(stored, bounds, halves):
        result = {"case": case, "rule": rule, **measure(stored, rule, stops, elimination)}
        measured.append(result)
        print(
            f"{rule:9} {case:16} calls {result['calls_mean']:7.1f} "
            f"({100 * result['calls_share']:5.1f}%, median {result['calls_median']:.0f}, p95 "
            f"{result['calls_p95']:.0f})  agreement {result['agreement']:.4f}  "
            f"AUROC {result.get('auroc', float('nan')):.4f}  balanced "
            f"{result.get('balanced_accuracy', float('nan')):.4f}  entropy "
            f"{result['entropy_mean']:.4f}  interval {result.get('interval_coverage', '-')}"
        )
    simulated = []
    if arguments.simulate:
        for name, bank in adversarial_banks(stored.errors.shape[2]).items():
            simulated += simulate(name, bank, arguments.simulate)
            for row in simulated[-len(DELTAS) :]:
                print(row)
    result = {
        "name": f"stopping-{arguments.name}",
        "notice": "Research use only, not a medical device.",
        "images": len(halves),
        "classes": stored.classes,
        "trials": stored.errors.shape[2],
        "full_calls": int(stored.errors[0].size),
        "bounds": bounds,
        "cases": measured,
        "simulated": simulated,
    }
    path = RESULTS / f"stopping-{arguments.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"Research use only, not a medical device. Written: {path}")


if __name__ == "__main__":
    main()
