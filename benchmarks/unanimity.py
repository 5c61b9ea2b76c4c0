"""How often are votes unanimous, how often wrong then, and what tells a wrong decision?

    python benchmarks/unanimity.py PREDICTIONS ... [--trials 21]

Two classes. Printed for each folder: the share of images with a unanimous vote, how many of these
are wrong, and the AUROC by which a small vote share, or a small margin of the mean of v, tells the
decision of its rule wrong.
"""

import argparse
from pathlib import Path

import numpy as np
from decision_statistics import Trials, mean_lead, ranked

from diffdx.evaluation import read_predictions


def main() -> None:
    """Print a line for each folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("predictions", type=Path, nargs="+")
    parser.add_argument("--trials", type=int, default=21)
    asked = parser.parse_args()
    for folder in asked.predictions:
        trials = Trials.of(read_predictions(folder)).first(asked.trials)
        leads = {"vote": np.sign(trials.difference).mean(axis=1), "mean v": mean_lead("v")(trials)}
        wrong = {rule: (lead > 0) != trials.sick for rule, lead in leads.items()}
        unanimous = np.abs(leads["vote"]) == 1
        tells = {rule: ranked(wrong[rule], -np.abs(lead)) for rule, lead in leads.items()}
        print(
            f"{folder}: {len(unanimous)} images, unanimous {unanimous.mean():.3f}, of these wrong "
            f"{wrong['vote'][unanimous].mean():.3f}; AUROC of error by the vote "
            f"{tells['vote']:.3f}, by the mean's margin {tells['mean v']:.3f}"
        )


if __name__ == "__main__":
    main()
