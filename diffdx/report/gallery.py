"""Which images to show: the ones a reader learns most from, chosen by rule and not by taste."""

import numpy as np

from diffdx.evaluation import StoredPredictions
from diffdx.evaluation.predictions import BASELINE
from diffdx.uncertainty import vote_entropy


def pick_gallery(stored: StoredPredictions, *, each: int = 4) -> list[tuple[str, int]]:
    """Return captions and rows of `stored.table` for a gallery.

    At most `each` images of each kind, none twice: wrong predictions, most certain first; right
    ones, most certain first; then the most uncertain of the rest. Certain means small entropy of
    votes or softmax; equals keep the order of the table. Unlabelled images are only shown as
    uncertain.
    """
    decided, share = stored.own, stored.shares
    entropy = vote_entropy(share)
    labels = stored.labels
    certain_first = np.argsort(entropy, kind="stable")
    wrong = [int(i) for i in certain_first if labels[i] >= 0 and labels[i] != decided.y_hat[i]][
        :each
    ]
    right = [int(i) for i in certain_first if labels[i] == decided.y_hat[i]][:each]
    rest = np.argsort(-entropy, kind="stable")
    unsure = [int(i) for i in rest if int(i) not in {*wrong, *right}][:each]

    def caption(kind: str, i: int) -> str:
        chosen = stored.classes[decided.y_hat[i]]
        truth = f", labelled {stored.classes[labels[i]]}" if labels[i] >= 0 else ""
        of = "softmax" if stored.kind == BASELINE else "of the votes"
        return f"{kind}: {chosen}{truth}; {share[i, decided.y_hat[i]]:.0%} {of}"

    groups = {"Certain but wrong": wrong, "Certain and right": right, "Most uncertain": unsure}
    return [(caption(kind, i), i) for kind, rows in groups.items() for i in rows]
