"""The one regression behind weights and calibrators: a softmax with weights that classes share.

    P(k | b) = softmax_k( sum_m w_m features[b, k, m] + bias_k )

It minimises the mean cross-entropy plus ridge |w|^2: a convex problem with one solution where the
ridge is positive. The weights are kept at or above zero, since every feature is evidence *for* its
class: a negative weight would make a class less likely the better it denoises.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from diffdx._typing import Labels

_RIDGE_ON_BIASES = 1e-6  # only their differences matter: it picks those that sum to about zero
_MAX_STEPS = 2_000


def smoothed_targets(labels: Labels, num_classes: int) -> Float[np.ndarray, "B K"]:
    """Return what a calibrator is fitted to: labels, less certain the fewer images there are.

    An image of class k counts (n_k + 1) / (n_k + K) for k and 1 / (n_k + K) for every other class,
    with n_k images of the class (Platt 1999 for K = 2). So the fit stays finite where the scores
    separate the classes, and claims no more than n_k images can show.
    """
    counts = np.bincount(labels, minlength=num_classes)[labels][:, None]
    own = np.eye(num_classes)[labels]
    return np.asarray((own * counts + 1) / (counts + num_classes))


def fit_logit(
    features: Float[np.ndarray, "B K M"],
    targets: Float[np.ndarray, "B K"],
    *,
    image_weights: Float[np.ndarray, "B"] | None = None,
    ridge: float = 0.0,
    offsets: Float[np.ndarray, "K"] | None = None,
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "K"]]:
    """Return weights >= 0 and biases of the softmax regression above.

    Args:
        features: Evidence for each class, about 1 in size.
        targets: Probability of each class; rows sum to 1.
        image_weights: How much each image counts, mean 1; equally by default.
        ridge: Penalty on the squared weights, >= 0.
        offsets: Biases to keep; None fits them.
    """
    num_images, num_classes, num_features = features.shape
    share = (np.ones(num_images) if image_weights is None else image_weights)[:, None] / num_images
    given = np.zeros(num_classes) if offsets is None else offsets
    columns = features.reshape(num_images * num_classes, num_features)

    def objective(p: np.ndarray) -> tuple[float, np.ndarray]:
        w, biases = p[:num_features], p[num_features:]
        logits = features @ w + (given + biases)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        residual = share * (np.exp(log_p) - targets)
        loss = -(share * targets * log_p).sum() + ridge * w @ w + _RIDGE_ON_BIASES * biases @ biases
        slope = residual.ravel() @ columns + 2 * ridge * w
        return loss, np.append(slope, residual.sum(axis=0) + 2 * _RIDGE_ON_BIASES * biases)

    fixed = offsets is not None
    bounds = [(0.0, None)] * num_features + [(0.0, 0.0) if fixed else (None, None)] * num_classes
    found = minimize(
        objective,
        np.append(np.ones(num_features), np.zeros(num_classes)),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": _MAX_STEPS, "ftol": 1e-11, "gtol": 1e-7},
    )
    return found.x[:num_features], given + found.x[num_features:]
