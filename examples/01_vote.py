"""Functions: from denoising errors to votes, decisions and entropy. No model, no torch.

Run: python examples/01_vote.py
"""

import numpy as np

from diffdx.classification.voting import majority_vote, mean_error, predict_vote, vote_share
from diffdx.uncertainty import vote_entropy

CLASSES = ("NORMAL", "PNEUMONIA")

# errors[b, k, n]: mean squared v error of image b under class k in trial n.
errors = np.array(
    [
        [[0.31, 0.20, 0.12, 0.40, 0.25], [0.33, 0.22, 0.15, 0.41, 0.28]],  # class 0 always wins
        [[0.31, 0.20, 0.12, 0.40, 0.25], [0.30, 0.22, 0.11, 0.39, 0.26]],  # 2 trials against 3
    ]
)
logsnr = np.array([[4.0, 1.0, 0.0, -2.0, -5.0]] * 2)

votes = majority_vote(errors)
share = vote_share(votes)
chosen, _ = predict_vote(votes)
entropy_bits = vote_entropy(share)
for b, k in enumerate(chosen):
    print(
        f"image {b}: {CLASSES[k]}, {votes[b, k]:g} of {votes[b].sum():g} votes, "
        f"entropy {entropy_bits[b]:.3f} bits"
    )

# The same errors averaged in three spaces; the vote is the same in each, the mean is not.
for space in ("v", "eps", "x"):
    print(f"mean {space} errors: {np.round(mean_error(errors, logsnr, space), 4).tolist()}")
