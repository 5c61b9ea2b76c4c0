"""How far two runs on the same bank differ: vote flips by noise level, and decisions.

    diffdx classify assets/cxr64 DATA --split test --limit 200 --precision fp32 --out out/fp32
    python benchmarks/precision.py assets/cxr64/errors/test out/fp32

Images that only one of the folders holds are left out, and trials beyond the shorter run. Writes
benchmarks/results/precision.json.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from diffdx._files import write_json
from diffdx.classification.replay import facts_of
from diffdx.classification.rules import apply_rule
from diffdx.classification.store import read_errors

RESULT = Path(__file__).parent / "results" / "precision.json"
EDGES = (-np.inf, -7.5, -5.0, -2.5, 0.0, 2.5, 5.0, 7.5, np.inf)


def compare(first: Path, second: Path) -> dict:
    """Return vote flips per bin of log-SNR, agreement of decisions, and how errors differ."""
    facts = [facts_of(folder) for folder in (first, second)]
    ids, errors, logsnr = read_errors(first / "errors.parquet")
    other_ids, other, other_logsnr = read_errors(second / "errors.parquet")
    both = [i for i in ids if i in set(other_ids)]
    rows, other_rows = ([of.index(i) for i in both] for of in (ids, other_ids))
    n = min(errors.shape[2], other.shape[2])
    a, b, t = errors[rows][..., :n], other[other_rows][..., :n], logsnr[rows, :n]
    if not np.array_equal(t, other_logsnr[other_rows, :n]):
        raise SystemExit("the folders were not made on the same bank")
    flipped = a.argmin(axis=1) != b.argmin(axis=1)
    bins = []
    for low, high in pairwise(EDGES):
        inside = (t >= low) & (t < high)
        bins.append(
            {
                "logsnr": [None if np.isinf(e) else e for e in (low, high)],
                "votes": int(inside.sum()),
                "flips": int((flipped & inside).sum()),
                "share": round(float(flipped[inside].mean()), 5),
            }
        )
    rules = {}
    for rule in ("vote", "mean_v", "mean_eps", "mean_x"):
        decided = [apply_rule(rule, e, t).y_hat for e in (a, b)]
        rules[rule] = round(float((decided[0] == decided[1]).mean()), 5)
    return {
        "name": "precision",
        "precision": [f["precision"] for f in facts],
        "device": [f["device"] for f in facts],
        "model_sha256": [f["model_sha256"] for f in facts],
        "images": len(both),
        "trials": n,
        "relative_error_difference": round(float(np.median(np.abs(a - b) / b)), 7),
        "vote_flips": round(float(flipped.mean()), 5),
        "by_logsnr": bins,
        "decision_agreement": rules,
    }


if __name__ == "__main__":
    result = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    write_json(RESULT, result)
    for row in result["by_logsnr"]:
        print(row)
    print(result["decision_agreement"], "images", result["images"])
